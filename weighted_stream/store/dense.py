"""The records of dense ids: one sparse file, the record of id ``i`` at byte ``32 * i``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from weighted_stream.store.header import Header
from weighted_stream.store.place import RECORDS as NAME
from weighted_stream.store.place import Place
from weighted_stream.store.record import MARKS, RECORD, RECORD_BYTES, Ids, Records, words_of

# The file grows to a power of two of records, from 1 MiB up to 512 MiB, then by 512 MiB: all of it a hole.
_SMALLEST = 1 << 15
_STEP = 1 << 24
PIECE = 1 << 16


class DenseRegion:
    """Records found by position.

    Args:
        place: where the store is.
        header: its header, which holds the capacity.
        write: whether to map the file for writing.
        create: begin a new file.
    """

    def __init__(self, place: Place, header: Header, *, write: bool, create: bool = False) -> None:
        self._header = header
        self._file = place.open(NAME, write=write, create=create)
        if create:
            self._file.grow(_SMALLEST * RECORD_BYTES)
            header.capacity = _SMALLEST
        self._map(header.capacity)

    def _map(self, capacity: int) -> None:
        self._mapped = self._file.map(capacity * RECORD_BYTES)
        self.records: Records = np.frombuffer(self._mapped, RECORD)
        # Last: a thread that reads looks at the capacity first.
        self.capacity = capacity

    def follow(self) -> None:
        """See what the writer, in another process, has grown."""
        if (capacity := self._header.capacity) != self.capacity:
            self._map(capacity)

    def reserve(self, count: int) -> None:
        """Make room for ids below ``count``; it costs nothing until they are touched."""
        if count > self.capacity:
            capacity = _rounded(count)
            self._file.grow(capacity * RECORD_BYTES)
            self._map(capacity)
            self._header.capacity = capacity  # last: what cannot be mapped here shall not be asked of readers

    def make_room(self, highest: int) -> None:
        """Make room for ids up to ``highest``."""
        if highest >= self.capacity:
            self.reserve(highest + 1)

    def read(self, ids: Ids, highest: int) -> Records:
        """A copy of the records of ``ids``; zero bytes where there is none."""
        if highest < self.capacity:
            return self.records.take(ids)
        known = ids < self.capacity
        records = np.zeros(ids.size, RECORD)
        records[known] = self.records.take(ids[known])
        return records

    def touched(self) -> Iterator[Ids]:
        """All touched ids, ascending, in arrays of at most `PIECE`; reads nothing but what is no hole."""
        for begin, end in self._file.extents(self.capacity * RECORD_BYTES):
            for first in range(begin // RECORD_BYTES, end // RECORD_BYTES, PIECE):
                words = words_of(self.records[first : min(first + PIECE, end // RECORD_BYTES)])
                found = np.flatnonzero(words[:, MARKS] != 0)  # a copy: another thread may write
                if found.size:
                    yield found + first

    def flush(self) -> None:
        """Put it on the disk."""
        self._mapped.flush()


def _rounded(count: int) -> int:
    if count > _STEP:
        return -(-count // _STEP) * _STEP
    return max(_SMALLEST, 1 << (count - 1).bit_length())
