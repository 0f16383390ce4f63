"""The files under a streamed Hugging Face dataset: named when one cannot be read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

from weighted_stream.errors import SourceError
from weighted_stream.sources.bad_shards import END, NAMED, ends, warn_of_repeats
from weighted_stream.sources.shard_names import is_local, location
from weighted_stream.sources.unreadable import naming

_READERS = "datasets.packaged_modules."


def samples_of(data: Any) -> Iterator[Any]:
    """The samples of a ``datasets.IterableDataset``; an error while a file is read names the file.

    Raises:
        SourceError: in place of the error, if it is one of reading.
    """
    samples = iter(data)
    while True:
        try:
            sample = next(samples)
        except StopIteration:
            return
        except Exception as error:
            file = _file_of(error)
            if file is None:
                raise
            with naming(location(file)):
                raise error
        yield sample


def _file_of(error: Exception) -> str | None:
    """What the reader of files was at when it raised; None if the error comes from elsewhere."""
    found, place = None, error.__traceback__
    while place is not None:
        frame = place.tb_frame
        if str(frame.f_globals.get("__name__")).startswith(_READERS) and isinstance(frame.f_locals.get("file"), str):
            found = frame.f_locals["file"]
        place = place.tb_next
    return found


def files_of(data: Any) -> list[str]:
    """The files that a ``datasets.IterableDataset`` lists, as far as it says so."""
    listed: list[str] = []
    waiting = [getattr(data, "_ex_iterable", None)]
    while waiting:
        examples = waiting.pop(0)
        if examples is None:
            continue
        waiting += [getattr(examples, "ex_iterable", None), *(getattr(examples, "ex_iterables", None) or [])]
        arguments = getattr(examples, "kwargs", None)
        names = ("original_files", "base_files", "files")
        files: list[Any] = next((arguments[name] for name in names if name in arguments), []) if arguments else []
        listed += [file for file in files if isinstance(file, str)]
    return listed


def check_files(files: list[str]) -> None:
    """Warn of files that are listed twice, empty, copies, or end within a line; refuse missing ones.

    Of a file of lines nobody knows how many there were: one that was cut between two lines is not found.

    Args:
        files: as the dataset lists them; only local ones are looked at.

    Raises:
        SourceError: naming the first that is not there.
    """
    warn_of_repeats(files, "this dataset's files")
    known: dict[str, str] = {}
    within: list[str] = []
    whole = False
    for file in dict.fromkeys(where for where in map(location, files) if is_local(where)):
        try:
            with open(file, "rb", buffering=0) as opened:
                size = os.fstat(opened.fileno()).st_size
                first = opened.read(END)
                opened.seek(max(0, size - END))
                last = opened.read(END)
                looks = ends(size, first, last)
        except OSError as error:
            raise SourceError(
                f"Cannot read {file}.",
                found=f"{type(error).__name__}: {error}",
                expected="the files that the dataset was made of",
                do="put it back, or make the dataset again without it",
            ) from error
        if size and file.endswith((".json", ".jsonl")):
            whole |= last.endswith(b"\n")
            within += [] if last.endswith(b"\n") else [file]
        if not size:
            warnings.warn(f"{file} is empty: no sample comes from it.", RuntimeWarning, stacklevel=3)
        elif known.setdefault(looks, file) != file:
            warnings.warn(
                f"{file} looks like a copy of {known[looks]}: as many bytes, and the same ones at either end. Delete "
                "one of the two if that is not meant.",
                RuntimeWarning,
                stacklevel=3,
            )
    if whole and within:
        text = (
            f"Unlike the others these files do not end with a line's end; they may be cut: {', '.join(within[:NAMED])}"
        )
        warnings.warn(text, RuntimeWarning, stacklevel=3)
