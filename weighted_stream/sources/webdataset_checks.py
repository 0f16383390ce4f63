"""Whether the tar files of a WebDataset are whole: a cut one may end without an error, in the middle of a sample."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from weighted_stream.errors import SourceError
from weighted_stream.sources.shard_names import is_local, location

NAMED = 3
"""So many files are named."""

BLOCK = 512
"""Bytes of a tar file's blocks; two of zeros are its end."""

LAST = 1 << 16
"""So many bytes are searched for it: something may stand behind the end."""


def check_tars(urls: Iterable[str], lenient: bool) -> None:
    """Local, uncompressed tar files must have the end that every writer puts there when it closes them.

    A file that is missing, or cannot be opened, is left to the reader, which says so.

    Args:
        urls: of the shards.
        lenient: warn; the pipeline has a handler that goes on behind an error.

    Raises:
        SourceError: naming those that have no end.
    """
    local = [url for url in urls if is_local(location(url)) and not url.startswith("pipe:")]
    cut = [url for url in local if _is_cut(location(url))]
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


def _is_cut(path: str) -> bool:
    try:
        if not os.path.isfile(path):  # opening a named pipe would wait for its writer
            return False
        with open(path, "rb") as file:
            begin = file.read(2)
            if begin in (b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5"):  # compressed: the reader checks its sums
                return False
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LAST) // BLOCK * BLOCK)
            blocks = [file.read(BLOCK) for _ in range(LAST // BLOCK + 1)]
            return not any(one == other == bytes(BLOCK) for one, other in pairwise(blocks))
    except OSError:
        return False


def goes_on(stages: Iterable[Any]) -> bool:
    """Whether a stage of a pipeline has a handler that goes on behind an error."""
    handlers = [getattr(stage, "handler", None) or getattr(stage, "kw", {}).get("handler") for stage in stages]
    return any(handler is not None and getattr(handler, "__name__", "") != "reraise_exception" for handler in handlers)
