"""One file of a store: opened once, grown as a sparse file, mapped, and asked where it holds data."""

from __future__ import annotations

import errno
import mmap
import os
import sys
import weakref
from collections.abc import Iterator

from weighted_stream.errors import StoreError

# Kept free for what the file system itself needs.
_SPARE = 1 << 20


def failure(problem: str, error: OSError, *, expected: str, do: str) -> StoreError:
    """The `StoreError` for an error of the operating system."""
    return StoreError(problem, found=error.strerror or str(error), expected=expected, do=do)


class StoreFile:
    """An open file.

    Args:
        fd: an open descriptor, which this object now owns.
        name: for messages.
        writable: whether ``fd`` is open for writing.
    """

    def __init__(self, fd: int, name: str, *, writable: bool) -> None:
        self._fd = fd
        self._name = name
        self._writable = writable
        self.close = weakref.finalize(self, os.close, fd)

    def size(self) -> int:
        """Bytes from beginning to end, holes included."""
        return os.fstat(self._fd).st_size

    def write(self, data: bytes) -> None:
        """Write at the beginning of the file.

        Raises:
            StoreError: if the disk is full or fails.
        """
        try:
            done = os.pwrite(self._fd, data, 0)
        except OSError as error:
            raise failure(
                f"Cannot write {self._name}.", error, expected="a disk with room", do="free some space"
            ) from error
        if done != len(data):
            raise StoreError(
                f"Cannot write {self._name}.",
                found=f"{done} bytes written",
                expected=f"{len(data)} bytes",
                do="free some space on this disk",
            )

    def grow(self, size: int) -> None:
        """Make the file ``size`` bytes long; what is new is a hole, which takes no room.

        Raises:
            StoreError: if the file system has no files as long.
        """
        if size <= self.size():
            return
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            raise failure(
                f"Cannot grow {self._name} to {size:,} bytes (most of them a hole).",
                error,
                expected="a file system with sparse files of that length, and no file size limit (ulimit -f)",
                do="smaller ids (an index instead of an arbitrary number), or another file system",
            ) from error

    def map(self, size: int) -> mmap.mmap:
        """The first ``size`` bytes in memory, shared with every process that maps them.

        Raises:
            StoreError: if the file is shorter, or there is no address space left.
        """
        if size > self.size():
            raise StoreError(
                f"{self._name} is cut short.",
                found=f"{self.size():,} bytes",
                expected=f"{size:,} bytes",
                do="restore the store from a copy, or delete its directory and begin a new one",
            )
        try:
            mapped = mmap.mmap(self._fd, size, access=mmap.ACCESS_WRITE if self._writable else mmap.ACCESS_READ)
        except OSError as error:
            raise failure(
                f"Cannot map {size:,} bytes of {self._name} into memory.",
                error,
                expected="address space (it takes memory only for what is touched)",
                do="lift the limit on address space (ulimit -v unlimited)",
            ) from error
        # Samples come at random: reading ahead would fill the memory with holes.
        mapped.madvise(mmap.MADV_RANDOM)
        return mapped

    def extents(self, size: int) -> Iterator[tuple[int, int]]:
        """The ranges (begin, end) in bytes, among the first ``size``, that are no holes."""
        end = 0
        while end < size:
            try:
                begin = os.lseek(self._fd, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            end = min(os.lseek(self._fd, begin, os.SEEK_HOLE), size)
            if begin < end:
                yield begin, end

    def room(self, needed: int) -> int:
        """Bytes left, beyond those needed, on the disk the file is on.

        Raises:
            StoreError: if there are not as many as needed.
        """
        disk = os.fstatvfs(self._fd)
        # Some network file systems do not tell their size.
        free = disk.f_bavail * disk.f_frsize if disk.f_blocks else sys.maxsize
        if free < needed + _SPARE:
            raise StoreError(
                f"The disk of {self._name} is full.",
                found=f"{free:,} bytes free",
                expected=f"{needed + _SPARE:,} bytes, for what may be written next",
                do="free some space, or move the store; a temporary one goes where TMPDIR says",
            )
        return free - needed - _SPARE
