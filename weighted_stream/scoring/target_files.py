"""The samples of a target set, wherever they are: a list, a dataset, a file."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from weighted_stream.errors import ScoringError
from weighted_stream.scoring.fields import TextField
from weighted_stream.text_lines import open_text


def read_samples(samples: Any, text: TextField = "text") -> Iterator[Any]:
    """The samples, one by one.

    Args:
        samples: an iterable, something with ``len`` and ``[]``, an Arrow table, or the path of a ``.jsonl``,
            ``.jsonl.gz`` or ``.parquet`` file.
        text: if it is the name of a field, a Parquet file is read for that column only.

    Raises:
        ScoringError: if it is none of these, or the file cannot be read.

    Example:
        >>> list(read_samples(["a", "b"]))
        ['a', 'b']
    """
    if isinstance(samples, (str, os.PathLike)):
        yield from _file(Path(samples), text)
    elif isinstance(samples, pa.Table):
        yield from samples.to_pylist()
    elif isinstance(samples, Mapping) or any(hasattr(samples, name) for name in ("iterrows", "iter_rows")):
        # Iterating over these gives the names of columns or splits, which would pass for text.
        raise _no_samples(samples, "pass one split of it, a list of its rows, or df.to_dict('records')")
    elif hasattr(samples, "__iter__"):
        yield from samples
    elif hasattr(samples, "__getitem__") and hasattr(samples, "__len__"):
        for row in range(len(samples)):
            yield samples[row]
    else:
        raise _no_samples(samples, "pass a list of samples")


def _file(path: Path, text: TextField) -> Iterator[Any]:
    if not path.is_file() or not path.name.endswith((".jsonl", ".jsonl.gz", ".parquet")):
        raise ScoringError(
            "Cannot read a target set from this.",
            found=f"{path}" + ("" if path.is_file() else ", which is no file"),
            expected="an existing .jsonl, .jsonl.gz or .parquet file",
            do="check the path; texts themselves are passed as a list",
        )
    read = _parquet(path, text) if path.suffix == ".parquet" else _jsonl(path)
    try:
        yield from read
    except (OSError, EOFError, ValueError, RecursionError, OverflowError, zlib.error, pa.ArrowException) as error:
        if isinstance(error, ScoringError):
            raise
        raise ScoringError(
            f"Cannot read the target file {path}.",
            found=f"{type(error).__name__}: {error}",
            expected="a whole Parquet file, or one JSON value a line in UTF-8",
            do="write or copy the file again",
        ) from error


def _jsonl(path: Path) -> Iterator[Any]:
    with open_text(path) as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def _parquet(path: Path, text: TextField) -> Iterator[Any]:
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        # A missing column is told by the first row, as for any sample; so then all columns are read.
        columns = [text] if isinstance(text, str) and text in names else names
        for batch in file.iter_batches(columns=columns):
            yield from batch.to_pylist()


def _no_samples(found: Any, do: str) -> ScoringError:
    return ScoringError(
        "These are no samples.",
        found=f"a {type(found).__name__}",
        expected="a list, a dataset, or the path of a .jsonl, .jsonl.gz or .parquet file",
        do=do,
    )
