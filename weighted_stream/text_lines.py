"""Lines of text files that strangers may have made: each has an end, and a small file unpacks to no huge one."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LINE = 1 << 26
"""Characters of the longest line, or text, that is read: 64 million."""

UNPACKED = 1 << 30
"""Characters that any compressed file may unpack to."""

RATIO = 200
"""So many times its bytes it may unpack to beyond that; text reaches 10, log files 50."""


class UnboundedTextError(OSError):
    """A line, or what a compressed file unpacks to, is larger than anything that makes sense."""


class TextFile:
    """An open text file, UTF-8, compressed or not; what is damaged in it raises OSError, EOFError or ValueError.

    Args:
        file: it.
        size: bytes of the file as it lies, if it is compressed; None: it is not.
    """

    def __init__(self, file: IO[str], size: int | None) -> None:
        self._file = file
        self._most = None if size is None else max(UNPACKED, RATIO * size)
        self._read = 0

    def __iter__(self) -> Iterator[str]:
        """Its lines, with their ends.

        Raises:
            UnboundedTextError: at the one that is too long, or too many.
        """
        number = 0
        while line := self._take():
            number += 1
            if len(line) > LINE:
                raise UnboundedTextError(f"line {number:,} has more than {LINE:,} characters")
            yield line

    def text(self) -> str:
        """All that is left.

        Raises:
            UnboundedTextError: if it is too long.
        """
        pieces = []
        length = 0
        while piece := self._take():
            pieces.append(piece)
            length += len(piece)
            if length > LINE:
                raise UnboundedTextError(f"more than {LINE:,} characters in one text")
        return "".join(pieces)

    def _take(self) -> str:
        try:
            piece = self._file.readline(LINE + 1)
        except zlib.error as error:
            raise OSError(f"{error}") from error
        self._read += len(piece)
        if self._most is not None and self._read > self._most:
            raise UnboundedTextError(f"it unpacks to more than {self._most:,} characters; unpack it, and look at it")
        return piece


@contextmanager
def open_text(path: Path) -> Iterator[TextFile]:
    """A text file, UTF-8, with or without a byte order mark; compressed with gzip if its name ends with ``.gz``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "a.txt.gz")
        ...     _ = path.write_bytes(gzip.compress(b"one\\ntwo\\n"))
        ...     with open_text(path) as file:
        ...         list(file)
        ['one\\n', 'two\\n']
    """
    compressed = path.suffix.lower() == ".gz"
    opener = gzip.open if compressed else open
    with opener(path, "rt", encoding="utf-8-sig", newline="\n") as file:
        yield TextFile(file, os.path.getsize(path) if compressed else None)
