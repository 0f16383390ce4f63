"""The text of samples, found by their ids: in shards, or in the file or table that a dataset was made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weighted_stream.errors import SampleIdError, SourceError
from weighted_stream.report.hints import hashed
from weighted_stream.shards.folder import open_shards
from weighted_stream.shards.inputs import ENDINGS, open_input
from weighted_stream.sources.keys import Column, identify

Ids = NDArray[np.int64]

LOOKED_AT = 200_000
"""Samples of data that are compared with each other, at most."""

_AT_ONCE = 64
_BY_NUMBER = ("torch-map", "huggingface")


@dataclass
class Read:
    """What was found in the data.

    Attributes:
        ids: (n,) of the samples whose texts were compared.
        hashes: (n,) of their texts.
        whole: whether these are all there are.
        texts: by id, of those that were asked for.
        shards: by id, where they are, if the data say so.
        notes: what could not be found.
    """

    ids: Ids = field(default_factory=lambda: np.empty(0, np.int64))
    hashes: Ids = field(default_factory=lambda: np.empty(0, np.int64))
    whole: bool = False
    texts: dict[int, str] = field(default_factory=dict)
    shards: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Texts:
    """Samples that can be read by id.

    Args:
        path: shards (see `open_shards`); or JSON lines, Parquet, plain text or a folder of ``save_to_disk``, whose rows
            are numbered.
        kind: of the dataset, as the store knows it (the ``kind`` of its fingerprint); None: not known.
        id: the column of the ids, where the stream was made with ``id_fn=`` of it.
        text: the field of the text.
        size: how many rows the dataset has, where the store knows it.

    Raises:
        SourceError: if there is nothing of the kind.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        kind: str | None = None,
        id: str | None = None,
        text: str = "text",
        size: int | None = None,
    ) -> None:
        self._id, self._text, self._path, self._size = id, text, path, size
        self._counted: int | None = None  # rows, once all were read
        plain = str(path).lower().endswith(tuple(end for end in ENDINGS if end != ".parquet"))
        self._input = open_input(path) if kind in _BY_NUMBER or plain else None
        self._shards = None if self._input is not None else open_shards(path, id=id)

    def read(self, wanted: Ids, limit: int = LOOKED_AT) -> Read:
        """The texts of some samples, and hashes of the texts of as many as may be.

        Args:
            wanted: (n,) ids.
            limit: compare the texts of all samples if there are not more than this, else of the wanted ones.

        Returns:
            What was found. Data that cannot be read to the end are named in its notes.

        Raises:
            SourceError: if these are no data of the run: none of the samples are there, or texts, or another number.
        """
        found = Read()
        left = {int(number) for number in wanted}
        ids: list[int] = []
        hashes: list[NDArray[np.int64]] = []
        rows = self._rows(wanted, limit)
        without, example = 0, None
        try:
            while some := list(islice(rows, _AT_ONCE)):
                texts = [self._text_of(row) for _, row, _ in some]
                without += sum(text is None for text in texts)
                example = some[0][1]
                ids += [number for (number, _, _), text in zip(some, texts, strict=True) if text is not None]
                hashes.append(hashed([text for text in texts if text is not None]))
                for (number, _, shard), text in zip(some, texts, strict=True):
                    if number in left and text is not None:
                        left.discard(number)
                        found.texts[number] = text
                        if shard is not None:
                            found.shards[number] = shard
        except (SourceError, SampleIdError) as error:
            found.notes.append(f"The data could not be read to the end. {error.problem} {error.found}")
        if self._id is None and None not in (self._counted, self._size) and self._counted != self._size:
            raise _other_rows(self._counted, self._size, self._path)
        if without and not ids:
            raise _no_texts(self._text, example)
        if ids and not found.notes and len(left) == len(wanted) > 0:
            raise _others(len(wanted), self._path, self._id)
        found.ids = np.array(ids, np.int64)
        found.hashes = np.concatenate([np.empty(0, np.int64), *hashes])
        found.whole = self._whole and not found.notes
        if without:
            found.notes.append(f"{without:,} samples of the data have no text in a field {self._text!r} (--text).")
        if left and len(wanted):
            found.notes.append(f"{len(left):,} of the {len(wanted):,} samples shown here are not in the data (--data).")
        return found

    def _rows(self, wanted: Ids, limit: int) -> Iterator[tuple[int, Any, str | None]]:
        """``(id, row, shard)``."""
        self._whole = True
        if self._input is not None:
            yield from self._numbered(wanted, limit)
            return
        assert self._shards is not None
        sizes = [shard.size for shard in self._shards.shards]
        known = not any(shard.tar for shard in self._shards.shards) and all(size is not None for size in sizes)
        if known and sum(size or 0 for size in sizes) > limit:
            self._whole = False
            for shard in self._shards.shards:
                for number, row in shard.read(np.sort(wanted)):
                    yield number, row, shard.name
            return
        # Of tar files nobody knows the rows before they are read.
        left, read = set(wanted.tolist()), 0
        for shard in self._shards.shards:
            for number, row in shard.read():
                read += 1
                if read <= limit or number in left:
                    yield number, row, shard.name
                self._whole = read <= limit
                left.discard(number)
                if read > limit and not left:
                    return

    def _numbered(self, wanted: Ids, limit: int) -> Iterator[tuple[int, Any, None]]:
        assert self._input is not None
        column = None if self._id is None else Column(self._id)
        left, count = set(wanted.tolist()), 0
        for block in self._input.blocks():
            for row in block.rows:
                number = count if column is None else identify(column, row, f"{block.file}, row {count}")
                count += 1
                self._whole = count <= limit
                if count <= limit or number in left:
                    yield number, row, None
                left.discard(number)
                if count > limit and not left and (column is not None or self._size is None or count > self._size):
                    self._counted = count
                    return
        self._counted = count

    def _text_of(self, row: Any) -> str | None:
        value = row.get(self._text) if isinstance(row, dict) else row
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        return value if isinstance(value, str) else None


def _other_rows(found: int | None, expected: int | None, path: str | PathLike[str]) -> SourceError:
    return SourceError(
        "These are not the data of the run, whose samples are rows by their numbers.",
        found=f"{found:,} rows in {path}",
        expected=f"{expected:,}, as the dataset had",
        do="name the data that the run was trained on, in the same order: --data",
    )


def _no_texts(field: str, example: Any) -> SourceError:
    return SourceError(
        f"No sample of the data has a text in a field {field!r}.",
        found=f"fields {', '.join(sorted(map(str, example)))}" if isinstance(example, dict) else type(example).__name__,
        expected=f"text in a field {field!r}",
        do="name the field of the text: --text FIELD",
    )


def _others(count: int, path: str | PathLike[str], column: str | None) -> SourceError:
    by = "shard and row, or row number" if column is None else f"the column {column!r}"
    return SourceError(
        "None of the samples that the report shows is in the data.",
        found=f"0 of {count:,} ids in {path}, by {by}",
        expected="the data that the run was trained on",
        do="name those: --data; and the column of the ids, if the stream was made with id_fn= of it: --id COLUMN",
    )


def name_of(path: str | PathLike[str]) -> str:
    """What a path is called, without where it is.

    Example:
        >>> name_of("runs/a/weights/linupper/")
        'linupper'
    """
    return Path(path).name or str(path)
