"""MosaicML shards: writing and opening them."""

from __future__ import annotations

import json
import random
import time
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.types as t

from weighted_stream.errors import SourceError, missing_extra
from weighted_stream.shards.blocks import Row
from weighted_stream.shards.columns import is_bytes, is_text, json_safe, unsupported

INDEX = "index.json"
ATTEMPTS = 10
"""To open shards that other processes open at the same moment."""


class MDSShards:
    """Writes MDS shards of as many samples as asked; MosaicML's own writer cuts by size only.

    Strings, ints, floats and bytes are kept as what they are (``str``, ``int``, ``float64``, ``bytes``); bools, lists,
    dicts, and columns where some sample has None, as ``json``. A `StreamingDataset` gives them back as they were.

    Args:
        folder: for the shards.
        schema: the columns.

    Raises:
        SourceError: for a column that MDS cannot hold.
        MissingExtraError: if the package ``mosaicml-streaming`` is not installed.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._folder, self._columns = folder, {field.name: encoding(field) for field in schema}
        self._writer: Any = None
        self._shards: list[dict[str, Any]] = []

    def begin(self) -> None:
        """Begin a shard."""
        try:
            from streaming import MDSWriter
        except ImportError as error:
            raise missing_extra("mosaicml-streaming", "mds") from error
        # A writer of its own for each shard, as an MDSWriter decides itself where a shard ends.
        self._writer = MDSWriter(out=str(self._draft), columns=self._columns, size_limit=None)

    def write(self, row: Row) -> None:
        """Write a sample."""
        self._writer.write(row)

    def end(self) -> None:
        """Finish the shard."""
        self._writer.finish()
        (info,) = json.loads((self._draft / INDEX).read_text(encoding="utf-8"))["shards"]
        data = info["raw_data"]
        written = self._draft / data["basename"]
        data["basename"] = f"shard.{len(self._shards):05}.mds"
        written.rename(self._folder / data["basename"])
        (self._draft / INDEX).unlink()
        self._draft.rmdir()
        self._shards.append(info)

    def close(self) -> None:
        """Write the index of all shards."""
        text = json.dumps({"version": 2, "shards": self._shards}, sort_keys=True)
        (self._folder / INDEX).write_text(text, encoding="utf-8")

    @property
    def _draft(self) -> Path:
        return self._folder / f"draft-{len(self._shards)}"


def encoding(field: pa.Field) -> str:
    """What MDS calls values of this column.

    Example:
        >>> encoding(pa.field("n", pa.int32(), nullable=False)), encoding(pa.field("n", pa.int32()))
        ('int', 'json')
    """
    kind = field.type
    if not field.nullable:
        if is_text(kind):
            return "str"
        if t.is_integer(kind) and not t.is_uint64(kind):
            return "int"
        if t.is_floating(kind):
            return "float64"
        if is_bytes(kind):
            return "bytes"
    if json_safe(kind):
        return "json"
    raise unsupported(field, "MDS")


def open_mds(folder: Path, **options: Any) -> Any:
    """A ``StreamingDataset`` of the shards in a folder.

    Args:
        folder: with an ``index.json``.
        **options: of the ``StreamingDataset``.

    Raises:
        MissingExtraError: if the package ``mosaicml-streaming`` is not installed.
        SourceError: if another process opens the same folder at this moment, or the index is damaged, or would have
            columns unpickled.
    """
    try:
        from streaming import StreamingDataset
    except ImportError as error:
        raise missing_extra("mosaicml-streaming", "mds") from error
    try:
        for attempt in count(1):
            try:
                return StreamingDataset(local=str(folder), **options)
            except FileExistsError:  # streaming names shared memory by what is free, and another was quicker
                if attempt == ATTEMPTS:
                    raise
                time.sleep(random.SystemRandom().uniform(0.02, 0.2))  # each process by itself, or they would meet again
    except FileExistsError as error:
        raise SourceError(
            f"Two processes open {folder} at the same moment.",
            found=f"{error}",
            expected="one after the other",
            do="start this one again",
        ) from error
    except (ValueError, KeyError, TypeError) as error:  # also for columns of pickles, which are not allowed here
        raise SourceError(
            f"Cannot open the MosaicML shards in {folder}.",
            found=f"{type(error).__name__}: {error}",
            expected=f"an {INDEX} as MDSWriter writes it, without columns that are unpickled (encoding 'pkl')",
            do="write the shards again, with columns that are data: str, int, json, ndarray …",
        ) from error
