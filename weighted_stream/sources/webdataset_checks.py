"""Whether the tar files of a WebDataset are whole: a cut one may end without an error, in the middle of a sample."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, BinaryIO

from weighted_stream.errors import SourceError
from weighted_stream.sources.shard_names import is_local, location

NAMED = 3
"""So many files are named."""

BLOCK = 512
"""Bytes of a tar file's blocks; two of zeros are its end."""

LAST = (2 * BLOCK, 1 << 16)
"""So many bytes are searched for it: nearly always it is the last thing, but something may stand behind it."""


def check_tars(urls: Iterable[str], lenient: bool, whole: dict[str, tuple[int, int]] | None = None) -> None:
    """Local, uncompressed tar files must have the end that every writer puts there when it closes them.

    A file that is missing, or cannot be opened, is left to the reader, which says so.

    Args:
        urls: of the shards.
        lenient: warn; the pipeline has a handler that goes on behind an error.
        whole: size and time of the files that were found whole before, by path, which are not opened again if they are
            as they were; those found now are added.

    Raises:
        SourceError: naming those that have no end.
    """
    local = [url for url in urls if is_local(location(url)) and not url.startswith("pipe:")]
    known = {} if whole is None else whole
    cut = [url for url in local if _is_cut(location(url), known)]
    if not cut:
        return
    more = f", and {len(cut) - NAMED} more" if len(cut) > NAMED else ""
    named = ", ".join(f"{location(url)} ({os.path.getsize(location(url)):,} bytes)" for url in cut[:NAMED]) + more
    if lenient:
        text = f"Tar files of this WebDataset have no end: {named}. They were cut, or their writer was never closed."
        warnings.warn(text, RuntimeWarning, stacklevel=2)
        return
    raise SourceError(
        "Tar files of this WebDataset have no end: reading would stop there without an error, or within a sample.",
        found=named,
        expected="files that end with two blocks of zeros",
        do="copy or write them again (their writer was never closed, or the copy was cut); with "
        "handler=webdataset.warn_and_continue this is a warning",
    )


def _is_cut(path: str, whole: dict[str, tuple[int, int]]) -> bool:
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):  # opening a named pipe would wait for its writer
            return False
        mark = found.st_size, found.st_mtime_ns
        if whole.get(path) == mark:
            return False
        with open(path, "rb") as file:
            if not _has_end(file, found.st_size):
                return True
    except OSError:
        return False
    whole[path] = mark
    return False


def _has_end(file: BinaryIO, size: int) -> bool:
    if file.read(2) in (b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5"):  # compressed: seen when it is read to its end
        return True
    for last in LAST:
        file.seek(max(0, size - last) // BLOCK * BLOCK)
        blocks = [file.read(BLOCK) for _ in range(last // BLOCK + 1)]
        if any(one == other == bytes(BLOCK) for one, other in pairwise(blocks)):
            return True
    return False


def goes_on(stages: Iterable[Any]) -> bool:
    """Whether a stage of a pipeline has a handler that goes on behind an error."""
    handlers = [getattr(stage, "handler", None) or getattr(stage, "kw", {}).get("handler") for stage in stages]
    return any(handler is not None and getattr(handler, "__name__", "") != "reraise_exception" for handler in handlers)
