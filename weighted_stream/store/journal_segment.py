"""A segment of the journal: a file of entries, which is a plain Arrow IPC stream, and its index.

An entry is written first, its line in the index then: from there on it counts. What a killed process leaves beyond the
last line is cut off when the segment is opened for writing.
"""

from __future__ import annotations

import os
import weakref
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from weighted_stream.errors import StoreError
from weighted_stream.store import journal_entry, journal_index
from weighted_stream.store.file import failure
from weighted_stream.store.journal_entry import SCHEMA, Entry
from weighted_stream.store.journal_index import LINE_BYTES, Line

ENTRIES, INDEX = ".arrow", ".index"


class Segment:
    """The entries from one position on.

    Args:
        folder: where it is.
        first: the position of its first entry.
        write: whether to open it for writing.
        create: begin it, for entries of the store of this identity.

    Raises:
        StoreError: if it cannot be opened or made.
    """

    def __init__(self, folder: Path, first: int, *, write: bool = False, create: str | None = None) -> None:
        self.first = first
        self.path = folder / f"{first:016d}{ENTRIES}"
        flags = (os.O_RDWR if write else os.O_RDONLY) | (os.O_CREAT | os.O_TRUNC if create is not None else 0)
        self._entries = self._open(self.path, flags)
        self._index = self._open(self.path.with_suffix(INDEX), flags)
        if create is not None:
            self._write(self._entries, _head(create), 0)

    def _open(self, path: Path, flags: int) -> int:
        try:
            fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise failure(
                f"Cannot open {path}.",
                error,
                expected="a file of the store's journal",
                do="check permissions and the disk's free space; see also WeightStore.rebuild",
            ) from error
        # Not at the end of the program: what is kept to be written behind comes here then.
        weakref.finalize(self, os.close, fd).atexit = False
        return fd

    @property
    def begin(self) -> int:
        """Where the first entry is."""
        return head_size()

    def size(self) -> int:
        """Bytes of both files."""
        return os.fstat(self._entries).st_size + os.fstat(self._index).st_size

    def count(self) -> int:
        """Lines of the index, a cut one left out."""
        return os.fstat(self._index).st_size // LINE_BYTES

    def belongs_to(self, identity: str) -> bool:
        """Whether it was made for this store."""
        head = _head(identity)
        return os.pread(self._entries, len(head), 0) == head

    def line(self, position: int) -> Line | None:
        """The line of an entry; None if it is damaged or not there."""
        line = journal_index.unpack(os.pread(self._index, LINE_BYTES, (position - self.first) * LINE_BYTES))
        return line if line is not None and line.position == position else None

    def read(self, line: Line) -> Entry | None:
        """The entry of a line; None if it is damaged."""
        if not self.holds(line):
            return None
        message = os.pread(self._entries, line.length, line.offset)
        if len(message) != line.length or zlib.crc32(message) != line.checksum:
            return None
        return journal_entry.unpack(message, line)

    def entry(self, position: int) -> Entry:
        """An entry that was seen to be there.

        Raises:
            StoreError: if it is damaged.
        """
        line = self.line(position)
        entry = None if line is None else self.read(line)
        if entry is None:
            raise damaged(self.path, position)
        return entry

    def lines(self, last: int | None = None) -> Iterator[Line]:
        """The lines up to one of position ``last``.

        Raises:
            StoreError: if one is damaged.
        """
        end = self.first + self.count() if last is None else last + 1
        for position in range(self.first, end):
            line = self.line(position)
            if line is None:
                raise damaged(self.path, position)
            yield line

    def append(self, message: memoryview, offset: int, position: int, line: bytes) -> None:
        """Write an entry at ``offset``, and its line in the index.

        Raises:
            StoreError: if the disk is full or fails; a part of it may be there, which has to be cut.
        """
        self._write(self._entries, message, offset)
        self._write(self._index, line, (position - self.first) * LINE_BYTES)

    def cut(self, position: int, offset: int) -> None:
        """Drop the entries from ``position`` on, the first of which is at ``offset``."""
        os.ftruncate(self._index, max(0, position - self.first) * LINE_BYTES)
        os.ftruncate(self._entries, offset)

    def holds(self, line: Line) -> bool:
        """Whether the file is long enough for the entry of a line."""
        return line.end <= os.fstat(self._entries).st_size

    def excess(self, offset: int, count: int) -> int:
        """Bytes beyond the entry that ends at ``offset``, and beyond so many lines; negative if bytes are missing."""
        return self.size() - offset - count * LINE_BYTES

    def flush(self) -> None:
        """Put it on the disk."""
        os.fsync(self._entries)
        os.fsync(self._index)

    def remove(self) -> None:
        """Remove both files: the index first, for without it there are no entries."""
        self.path.with_suffix(INDEX).unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        view = memoryview(data)
        try:
            while view.nbytes:
                done = os.pwrite(fd, view, offset)
                view, offset = view[done:], offset + done
        except OSError as error:
            raise failure(
                f"Cannot write the journal of a store, {self.path}.",
                error,
                expected="a disk with room",
                do="free some space, or give the store a smaller journal_bytes; nothing was lost",
            ) from error


def damaged(path: Path, position: int) -> StoreError:
    """The error for an entry that is not what was written."""
    return StoreError(
        "The journal of this store is damaged.",
        found=f"entry {position:,} in {path}, of another checksum",
        expected="the entry as it was written",
        do=f"restore the store from a copy, or delete {path.parent}: the records stay, their history is lost",
    )


def firsts(folder: Path) -> list[int]:
    """The first positions of all segments of a folder, ascending."""
    names = [path.stem for path in folder.glob(f"*{INDEX}")]
    return sorted(int(name) for name in names if name.isdecimal())


def head_size() -> int:
    """Bytes before the first entry."""
    return len(_head("0" * 32))


@lru_cache(8)
def _head(identity: str) -> bytes:
    """The schema, as an Arrow IPC message."""
    metadata = {"store": identity, "format": "weighted_stream.journal 1"}
    return bytes(SCHEMA.with_metadata(metadata).serialize())
