"""Parquet files in S3, or in another file system of pyarrow's: found, and opened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import PurePosixPath
from typing import Any, TypeVar

import pyarrow.parquet as pq

from weighted_stream.sources.s3 import SCHEME, Storage, is_s3, tried

T = TypeVar("T")

AT_ONCE = 16
"""So many files are asked for their footers at the same time."""


def storage_of(path: str, filesystem: Any) -> Storage | None:
    """Where a path lies; None: on a local or mounted file system, to be read as any file."""
    return Storage(filesystem) if filesystem is not None or is_s3(path) else None


def expand(path: str, storage: Storage) -> Iterator[tuple[str, str]]:
    """Key and path of each file of a file, a directory or a glob pattern; nothing if there is none.

    The keys are those that the same files have on a local disk.

    Raises:
        SourceError: if the storage cannot be reached.
    """
    below = storage.path(path)
    scheme = SCHEME if is_s3(path) else ""
    if has_magic(below):
        root, pattern = _root(below), below.split("/")
    elif _kind(storage, path) == "File":
        yield PurePosixPath(below).name, path
        return
    else:
        root, pattern = below, [*below.split("/"), "**", "*.parquet"]
    for file in _list(storage, scheme + root):
        key = PurePosixPath(file).relative_to(root)
        if _matches(file.split("/"), pattern) and not any(part[0] in "._" for part in key.parts):
            yield key.as_posix(), scheme + file


def open_remote(path: str, storage: Storage) -> pq.ParquetFile:
    """A file, read by range: of a row group, the columns that are asked for, each with one request.

    Raises:
        SourceError: if it is not there, or cannot be reached.
    """
    # No pre_buffer: its threads would read on behind our back, also while the process ends.
    return pq.ParquetFile(storage.open(path), page_checksum_verification=True)


def at_once(read: Callable[[str], T], paths: Iterable[str]) -> list[T]:
    """What ``read`` returns for each path, in their order, asked for several at a time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(read, paths))


def _kind(storage: Storage, name: str) -> str:
    path = storage.path(name)
    return str(tried(name, lambda: storage.connected().get_file_info(path)).type.name)


def _list(storage: Storage, name: str) -> list[str]:
    from pyarrow.fs import FileSelector, FileType

    selector = FileSelector(storage.path(name), recursive=True, allow_not_found=True)
    found = tried(name, lambda: storage.connected().get_file_info(selector))
    return sorted(info.path for info in found if info.type == FileType.File)


def _root(pattern: str) -> str:
    """The directory before the first wildcard."""
    parts = PurePosixPath(pattern).parts
    return str(PurePosixPath(*parts[: next(i for i, part in enumerate(parts) if has_magic(part))]))


def _matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path is one of a glob pattern, by their parts: ``*`` stays within one, ``**`` is any number of them.

    Example:
        >>> _matches(["b", "a", "1.parquet"], ["b", "**", "*.parquet"]), _matches(["b", "a", "x"], ["b", "*"])
        (True, False)
    """
    if not pattern or not path:
        return not path and all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return _matches(path, pattern[1:]) or _matches(path[1:], pattern)
    return fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:])
