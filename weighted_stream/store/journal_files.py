"""The journal of a store as a list of entries in files: append, read, cut."""

from __future__ import annotations

import contextlib
import os
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from weighted_stream.errors import StoreError, StoreMismatchError
from weighted_stream.store import journal_index
from weighted_stream.store.file import failure
from weighted_stream.store.journal_entry import Entry
from weighted_stream.store.journal_index import LINE_BYTES, Line, chained
from weighted_stream.store.journal_segment import ENTRIES, Segment, damaged, firsts, head_size

_SEGMENTS = 8


class JournalFiles:
    """Segments of entries.

    Args:
        folder: where they are; made with the first entry.
        identity: of the store.
        start: position and chain of the entry before the first one, if there is none.
        limit: bytes of all segments that are aimed at.
        cutting: whether the last process was killed while it rolled back.

    Attributes:
        position, chain: those of the last entry.
        appended: bytes of the entry written last.

    Raises:
        StoreError: if the journal is damaged.
        StoreMismatchError: if it is that of another store.
    """

    def __init__(self, folder: Path, identity: str, start: tuple[int, int], limit: int, *, cutting: bool) -> None:
        self._folder, self._identity = folder, identity
        self._segment_bytes = segment_bytes(limit)
        self._segments = [Segment(folder, first, write=True) for first in firsts(folder)]
        self.position, self.chain = start
        self._end = self.appended = 0
        self._open(cutting)
        self._weigh()

    def _open(self, cutting: bool) -> None:
        """Find the last entry, and cut what is beyond it."""
        cut = 0
        while self._segments:
            last = self._segments[-1]
            line, excess = _last_line(last)
            cut += excess
            if line is not None:
                if not last.belongs_to(self._identity):
                    raise _of_another_store(last.path)
                self.position, self.chain, self._end = *line.mark, line.end
                break
            self._segments.pop().remove()
        for before, after in zip(self._segments, self._segments[1:], strict=False):
            if before.first + before.count() != after.first:
                raise damaged(before.path, after.first)
        known = {segment.path for segment in self._segments}
        for stray in sorted(set(self._folder.glob(f"*{ENTRIES}")) - known):
            # A segment is removed index first, and made index last.
            if not (cutting or stray.stem < f"{self.first:016d}" or stray.stat().st_size <= head_size()):
                raise damaged(stray, self.position + 1)
            stray.unlink()
        if cut:
            warnings.warn(
                f"The journal of the store in {self._folder.parent} ended in an entry cut short: {cut:,} bytes, of a "
                f"process that was killed while it wrote them, are dropped. The last whole entry is {self.position:,}.",
                RuntimeWarning,
                stacklevel=2,
            )

    @property
    def mark(self) -> tuple[int, int]:
        """Position and chain of the last entry."""
        return self.position, self.chain

    @property
    def first(self) -> int:
        """The position of the first entry there is; that of the next one if there is none."""
        return self._segments[0].first if self._segments else self.position + 1

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        lines = self.position + 1 - self._segments[-1].first if self._segments else 0
        return self._older + self._end + lines * LINE_BYTES

    def append(
        self, message: memoryview, rows: int, given: int, steps: tuple[int, int], counters: Iterable[int]
    ) -> tuple[int, int]:
        """Write an entry, and return its position and chain.

        Args:
            message: its bytes.
            rows, given, steps: see `Line`.
            counters: tally and pushed, see `Line`.

        Raises:
            StoreError: if the disk is full or fails; the entry is not there then.
        """
        if not self._segments or self._end > self._segment_bytes:
            self._begin_segment()
        position, checksum, offset, size = self.position + 1, zlib.crc32(message), self._end, len(message)
        chain = chained(self.chain, position, checksum)
        line = journal_index.pack(position, offset, size, rows, given, *steps, *counters, checksum, chain)
        try:
            self._segments[-1].append(message, offset, position, line)
            self.position, self.chain, self._end, self.appended = position, chain, offset + size, size
        except (StoreError, KeyboardInterrupt):
            if self.position != position:
                with contextlib.suppress(OSError):
                    self._segments[-1].cut(position, offset)
            raise
        return position, chain

    def _begin_segment(self) -> None:
        try:
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise failure(
                f"Cannot make {self._folder}.", error, expected="a writable directory", do="check its permissions"
            ) from error
        segment = Segment(self._folder, self.position + 1, write=True, create=self._identity)
        self._segments.append(segment)
        self._weigh()
        self._end = segment.begin

    def line(self, position: int) -> Line:
        """The line of an entry.

        Raises:
            StoreError: if it is damaged.
        """
        segment = self._segment_of(position)
        line = segment.line(position)
        if line is None:
            raise damaged(segment.path, position)
        return line

    def entry(self, position: int) -> Entry:
        """An entry.

        Raises:
            StoreError: if it is damaged.
        """
        return self._segment_of(position).entry(position)

    def entries(self, first: int) -> Iterator[Entry]:
        """The entries from a position on."""
        return (self.entry(position) for position in range(first, self.position + 1))

    def backwards(self, first: int) -> Iterator[Entry]:
        """The entries down to a position, the last one first."""
        return (self.entry(position) for position in range(self.position, first - 1, -1))

    def verify(self, first: int) -> None:
        """Look whether the entries from a position on are what was written.

        Raises:
            StoreError: if one is not.
        """
        for _ in self.entries(first):
            pass

    def cut(self, mark: tuple[int, int]) -> None:
        """Drop all entries after the one with this mark."""
        position = mark[0]
        while self._segments and self._segments[-1].first > position:
            self._segments.pop().remove()
        if self._segments:
            self._end = self.line(position).end
            self._segments[-1].cut(position + 1, self._end)
        self.position, self.chain = mark
        self._weigh()

    def drop(self, position: int) -> None:
        """Drop the segments that hold no entry after ``position``."""
        while self._segments and self._segments[0].first + self._segments[0].count() <= position + 1:
            self._segments.pop(0).remove()
            self._weigh()

    def flush(self) -> None:
        """Put what was written since the last time on the disk."""
        for segment in self._segments:
            segment.flush()
        if self._segments:
            folder = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _weigh(self) -> None:
        self._older = sum(segment.size() for segment in self._segments[:-1])
        if not self._segments:
            self._end = 0

    def _segment_of(self, position: int) -> Segment:
        if not self.first <= position <= self.position:
            raise damaged(self._folder, position)
        return next(segment for segment in reversed(self._segments) if segment.first <= position)


def segment_bytes(limit: int) -> int:
    """From how many bytes on a segment is followed by another one."""
    return limit // _SEGMENTS


def _last_line(segment: Segment) -> tuple[Line | None, int]:
    """The line of the last whole entry of a segment, and how many bytes lie beyond, which are cut off.

    Raises:
        StoreError: if more than the end is damaged.
    """
    count = segment.count()
    line, spoiled = None, 0
    while count:
        position = segment.first + count - 1
        line = segment.line(position)
        if line is not None and segment.read(line) is not None:
            break
        # Files may end too early anywhere. But of those that are there, only the last one may be half written.
        spoiled += line is not None and segment.holds(line)
        if spoiled > 1:
            raise damaged(segment.path, position)
        count, line = count - 1, None
    end = segment.begin if line is None else line.end
    excess = segment.excess(end, count)
    if excess > 0 or line is None:
        segment.cut(segment.first + count, end)
    return line, max(excess, 0)


def _of_another_store(path: Path) -> StoreMismatchError:
    return StoreMismatchError(
        f"{path} is not of the journal of this store.",
        found="the beginning of another file",
        expected="the schema and the identity that this store wrote",
        do=f"restore the store from a copy, or delete {path.parent}: the records stay, their history is lost",
    )
