"""Find Parquet files, name them durably, and read their footers."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob, has_magic
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from weighted_stream.errors import SourceError
from weighted_stream.sources.bad_shards import Policy
from weighted_stream.sources.files_below import files_below
from weighted_stream.sources.parquet_remote import at_once, expand, open_remote, storage_of
from weighted_stream.sources.sharding import Ints
from weighted_stream.sources.unreadable import without_credentials

PathLike: TypeAlias = "str | os.PathLike[str]"

# Read-ahead per column: without it a whole column chunk is read at once.
READ_BYTES = 1 << 20
# Of a row group: who believes a larger number would count for hours.
MOST_ROWS = 1 << 36


@dataclass(frozen=True)
class ParquetFiles:
    """Files in the order of their keys, and their row groups in file order.

    Attributes:
        paths: where the files are.
        keys: their durable names.
        rows: rows per file.
        columns: the columns to read.
        common: the columns that every file has, sorted.
        group_file: per row group, its file.
        group_number: per row group, its number in the file.
        group_start: per row group, the row of the file it starts at.
        group_rows: per row group, its rows.
        filesystem: where the paths lie; None: on this machine, or in S3 where they say so.
    """

    paths: tuple[str, ...]
    keys: tuple[str, ...]
    rows: tuple[int, ...]
    columns: tuple[str, ...]
    common: tuple[str, ...]
    group_file: Ints
    group_number: Ints
    group_start: Ints
    group_rows: Ints
    filesystem: Any = field(default=None, repr=False)


def read_footers(
    paths: PathLike | Iterable[PathLike],
    columns: Sequence[str] | None,
    filesystem: Any = None,
    policy: Policy | None = None,
) -> ParquetFiles:
    """Find the files and read their footers; those that cannot be read, or have other columns, as ``policy`` says.

    Raises:
        SourceError: if there is no file, or no row, two files have the same key, one is no Parquet file, a
            column is missing, or files differ in their schema.
    """
    listed, policy = find_files(paths, filesystem), policy or Policy()
    footers = _footers(listed.values(), filesystem)
    files: dict[str, str] = {}
    types: dict[str, pa.DataType] = {}
    common: set[str] = set()
    rows, groups = [], []
    for (key, path), footer in zip(listed.items(), footers, strict=True):
        try:
            if isinstance(footer, SourceError):
                raise footer
            schema = _schema(path, footer)
            found = _selected(path, schema, columns)
            if files and found != types:
                raise _differs(path, found, next(iter(files.values())), types)
        except SourceError as error:
            policy.meet(key, error)
            continue
        if not files:
            types, common = found, set(schema.names)
        number, files[key] = len(files), path
        common &= set(schema.names)
        rows.append(footer.num_rows)
        sizes = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
        starts = (np.cumsum(sizes) - sizes).tolist()
        groups += [(number, *group) for group in zip(range(len(sizes)), starts, sizes, strict=True)]
    if not sum(rows):
        raise SourceError(
            "These Parquet files hold no rows.",
            found=f"0 rows in {len(files)} file(s), the first {next(iter(listed.values()))}",
            expected="at least one row",
            do="check how the files were written",
        )
    table = np.array(groups, dtype=np.int64).T
    return ParquetFiles(
        paths=tuple(files.values()),
        keys=tuple(files),
        rows=tuple(rows),
        columns=tuple(types),
        common=tuple(sorted(common)),
        **dict(zip(("group_file", "group_number", "group_start", "group_rows"), table, strict=True)),
        filesystem=filesystem,
    )


def open_file(path: str, filesystem: Any = None) -> pq.ParquetFile:
    """A Parquet file, wherever it lies.

    Raises:
        SourceError: if it cannot be reached.
        Exception: what pyarrow raises for one that is damaged; see `unreadable`.
    """
    storage = storage_of(path, filesystem)
    if storage is not None:
        return open_remote(path, storage)
    return pq.ParquetFile(path, buffer_size=READ_BYTES, page_checksum_verification=True)


def _footers(paths: Collection[str], filesystem: Any) -> Iterator[pq.FileMetaData | SourceError]:
    def footer(path: str) -> pq.FileMetaData | SourceError:
        try:
            with open_file(path, filesystem) as file:
                return file.metadata
        except SourceError as error:
            return error
        except (pa.ArrowException, OSError, ValueError) as error:  # names that are no text
            found = unreadable(path, error)
            found.__cause__ = error
            return found

    remote = any(storage_of(path, filesystem) for path in paths)
    return iter(at_once(footer, paths)) if remote else map(footer, paths)


def _schema(path: str, footer: pq.FileMetaData) -> pa.Schema:
    rows = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
    if sum(rows) != footer.num_rows or not all(0 <= count <= MOST_ROWS for count in rows):
        raise SourceError(
            f"The footer of the Parquet file {path} cannot be right.",
            found=f"{footer.num_rows:,} rows, in row groups of {max(rows, default=0):,} at most, {sum(rows):,} in all",
            expected=f"the sum of all row groups, each of {MOST_ROWS:,} rows at most",
            do="write the file again; it is damaged, or made to mislead",
        )
    try:
        return footer.schema.to_arrow_schema()
    except (pa.ArrowException, ValueError) as error:
        raise unreadable(path, error) from error


def find_files(paths: PathLike | Iterable[PathLike], filesystem: Any = None) -> dict[str, str]:
    """Path per key, in the order of the keys.

    A file of a directory (searched in depth, see `files_below`; ``.PARQUET`` counts, too) or of a glob
    pattern is named by its path below the directory, or below the part of the pattern before its first
    wildcard; a file given by itself is named by its base name. So names stay when the data moves or grows.
    A dict is such a result itself, or a part of one.

    Raises:
        SourceError: if a path holds no file, is a url other than of S3, or two files have the same name.
    """
    files: dict[str, str] = dict(paths) if isinstance(paths, Mapping) else {}
    for path in [] if isinstance(paths, Mapping) else [paths] if isinstance(paths, (str, os.PathLike)) else list(paths):
        for key, file in _expand(os.fspath(path), filesystem):
            if key in files:
                raise SourceError(
                    f"Two Parquet files are named {key!r}, so their rows would share ids.",
                    found=f"{files[key]} and {file}",
                    expected="different names",
                    do="rename one, name each file once, or pass a directory or a glob that holds both",
                )
            files[key] = file
    if not files:
        raise _no_files("an empty list of paths")
    return dict(sorted(files.items()))


def _expand(path: str, filesystem: Any) -> Iterator[tuple[str, str]]:
    storage = storage_of(path, filesystem)
    if storage is not None:
        visible = list(expand(path, storage))
        if not visible:
            raise _no_files(without_credentials(path))
        yield from visible
        return
    if "://" in path:
        raise SourceError(
            "ParquetDataset reads local files, and those in S3.",
            found=without_credentials(path),
            expected="a path of a file system that is mounted, or s3://bucket/key",
            do="copy the files here, mount the storage, or pass filesystem= (pyarrow.fs) and its paths",
        )
    if os.path.isfile(path):
        yield os.path.basename(path), path
        return
    if os.path.isdir(path):
        wanted = [key for key in files_below(Path(path)) if key.suffix.lower() == ".parquet"]
        visible = [(key.as_posix(), os.path.join(path, key)) for key in wanted]
    elif has_magic(path):
        root, found = _root(path), glob(path, recursive=True)
        below = [(Path(file).relative_to(root), file) for file in found if os.path.isfile(file)]
        visible = [(key.as_posix(), file) for key, file in below if not any(p[0] in "._" for p in key.parts)]
    else:
        raise _no_files(path)
    if not visible:
        raise _no_files(path)
    yield from visible


def _root(pattern: str) -> Path:
    """The directory before the first wildcard."""
    parts = Path(pattern).parts
    return Path(*parts[: next(i for i, part in enumerate(parts) if has_magic(part))])


def _no_files(found: str) -> SourceError:
    return SourceError(
        "There are no Parquet files here.",
        found=found,
        expected="a .parquet file, a directory of them, a glob pattern, or a list of those",
        do=f"check the path; the working directory is {os.getcwd()}",
    )


def unreadable(path: str, error: Exception) -> SourceError:
    """The error for a file that is no Parquet file, or is damaged."""
    return SourceError(
        f"Cannot read the Parquet file {path}.",
        found=f"{type(error).__name__}: {without_credentials(str(error))}",
        expected="a whole Parquet file",
        do="write or copy the file again (an interrupted copy ends early)",
    )


def _selected(path: str, schema: pa.Schema, columns: Sequence[str] | None) -> dict[str, pa.DataType]:
    names = list(schema.names if columns is None else columns)
    missing = [name for name in names if name not in schema.names]
    if missing or not names or len(set(names)) < len(names):
        raise SourceError(
            f"Cannot read these columns of {path}.",
            found=f"{names}" + (f"; it has no {missing}, but {schema.names}" if missing else ""),
            expected="at least one column, each once, each in every file",
            do="name other columns",
        )
    return {name: schema.field(name).type for name in names}


def _differs(path: str, found: dict[str, pa.DataType], first: str, types: dict[str, pa.DataType]) -> SourceError:
    def shown(kinds: dict[str, pa.DataType], others: dict[str, pa.DataType]) -> str:
        return ", ".join(f"{n}: {t}" for n, t in kinds.items() if others.get(n) != t) or "none of these columns"

    return SourceError(
        "Parquet files of one dataset differ in their schema.",
        found=f"{shown(found, types)} in {path}",
        expected=f"{shown(types, found)} as in {first}",
        do="write the files alike, choose columns= that agree, or read them as two datasets",
    )
