"""What can be converted: JSON lines, Parquet, plain text, Hugging Face folders."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import pyarrow as pa

from weighted_stream.errors import SourceError
from weighted_stream.shards.blocks import ROWS, Block, Input, Row, in_blocks
from weighted_stream.shards.huggingface import is_saved, open_saved
from weighted_stream.sources.files_below import files_below
from weighted_stream.sources.parquet_files import open_file, read_footers, unreadable
from weighted_stream.sources.s3 import is_s3
from weighted_stream.text_lines import TextFile, open_text

P = TypeVar("P")
Per: TypeAlias = Literal["line", "file"]

ENDINGS = {
    ".jsonl": "JSON lines",
    ".jsonl.gz": "JSON lines",
    ".ndjson": "JSON lines",
    ".ndjson.gz": "JSON lines",
    ".parquet": "Parquet",
    ".txt": "plain text",
}


def open_input(path: str | PathLike[str], per: Per = "line", fields: Collection[str] | None = None) -> Input:
    """The samples of a file, or of all files below a directory.

    JSON lines (``.jsonl``, ``.jsonl.gz``, also ``.ndjson``): one object a line. Parquet: a row. Plain text (``.txt``,
    UTF-8): a sample ``{"text": …}`` per line that is not blank, or per file. A directory written by
    ``datasets.Dataset.save_to_disk``: a row. Of another directory, all files of one of these kinds, as `files_below`
    finds them, in the order of their names. Endings in capitals are the same. Parquet also in S3 (``s3://bucket/c4``).

    Args:
        path: the file or directory.
        per: what a sample of plain text is.
        fields: of Parquet files, read only the columns of these names; None: all.

    Raises:
        SourceError: if there is nothing of the kind, or of two kinds; while reading, for a line that is no JSON object,
            text that is no UTF-8, a line of more than 64 million characters, or a damaged file.
    """
    if is_s3(path):
        return _parquet(path, fields)
    path = Path(path)
    if is_saved(path):
        return open_saved(path)
    files, kind = _find(path)
    if kind == "Parquet":
        return _parquet(path, fields)
    read = _read_json if kind == "JSON lines" else _read_lines if per == "line" else _read_text
    return Input(lambda: _chain(files, lambda name, file: in_blocks(name, _read_or_raise(file, read))))


def _parquet(path: str | PathLike[str], fields: Collection[str] | None) -> Input:
    found = read_footers(path, None)  # refuses files that differ in their schema
    with open_file(found.paths[0]) as file:
        schema = file.schema_arrow.remove_metadata()
    if fields is not None:
        schema = pa.schema([field for field in schema if field.name in fields])
    files = dict(zip(found.keys, found.paths, strict=True))
    return Input(lambda: _chain(files, lambda name, file: _read_parquet(name, file, schema.names)), schema)


def _find(path: Path) -> tuple[dict[str, Path], str]:
    """The files by durable name, and their kind."""
    files = {path.name: path} if path.is_file() else {}
    if path.is_dir():
        files = {file.as_posix(): path / file for file in files_below(path)}
    kinds: dict[str, dict[str, Path]] = {}
    for name, file in files.items():
        kind = next((ENDINGS[e] for e in sorted(ENDINGS) if name.lower().endswith(e)), None)
        if kind is not None:
            kinds.setdefault(kind, {})[name] = file
    if len(kinds) != 1:
        raise SourceError(
            "There are no samples here." if not kinds else "There are samples of several kinds here.",
            found=f"{path}, " + (" and ".join(sorted(kinds)) if kinds else _shown(path, len(files))),
            expected="one kind of " + ", ".join(ENDINGS) + ", or a folder of Dataset.save_to_disk",
            do="check the path" if not kinds else "name a file, or a folder with one kind of files",
        )
    kind, found = kinds.popitem()
    return found, kind


def _shown(path: Path, files: int) -> str:
    if not path.exists():
        return "which does not exist"
    return f"a directory with {files} other files" if path.is_dir() else "a file of another kind"


def _chain(files: Mapping[str, P], read: Callable[[str, P], Iterator[Block]]) -> Iterator[Block]:
    for name, file in files.items():
        yield from read(name, file)


def _read_parquet(name: str, path: str, columns: list[str]) -> Iterator[Block]:
    start = 0
    try:
        with open_file(path) as file:
            for batch in file.iter_batches(ROWS, columns=columns, use_threads=False):
                yield Block(name, start, batch.to_pylist())
                start += len(batch)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # bytes that are no text, no date …
        raise unreadable(path, error) from error


def _read_or_raise(path: Path, read: Callable[[TextFile, Path], Iterator[Row]]) -> Iterator[Row]:
    try:
        with open_text(path) as file:
            yield from read(file, path)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise SourceError(
            f"Cannot read {path}.",
            found=f"{type(error).__name__}: {error}",
            expected="a whole file of UTF-8 text" + (", compressed with gzip" if path.suffix.lower() == ".gz" else ""),
            do="write or copy the file again",
        ) from error


def _read_json(file: TextFile, path: Path) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _no_object(path, number, f"{error}: {line[:60]!r}") from error
        if not isinstance(row, dict) or not row:
            raise _no_object(path, number, repr(line[:60]))
        yield row


def _no_object(path: Path, line: int, found: str) -> SourceError:
    return SourceError(
        f"Line {line} of {path} is no sample.",
        found=found,
        expected='one JSON object per line, such as {"text": "..."}',
        do="mend or remove the line",
    )


def _read_lines(file: TextFile, path: Path) -> Iterator[Row]:
    for line in file:
        text = line.rstrip("\r\n")
        if text.strip():
            yield {"text": text}


def _read_text(file: TextFile, path: Path) -> Iterator[Row]:
    text = file.text()
    if text.strip():
        yield {"text": text}
