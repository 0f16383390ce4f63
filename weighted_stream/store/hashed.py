"""The records of all other ids: an open-addressed table of keys and records in one sparse file.

It grows by writing a larger table beside the old one, which takes about half a second per million samples;
the header names the current one. A reader that has the old one mapped reads a consistent, slightly old state
until it looks at the header again.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np

from weighted_stream.errors import StoreError
from weighted_stream.sample_ids import DENSE_LIMIT
from weighted_stream.store import probing
from weighted_stream.store.dense import PIECE
from weighted_stream.store.header import Header
from weighted_stream.store.place import Place, table_name
from weighted_stream.store.record import MARKS, RECORD, RECORD_BYTES, Ids, Records, words_of

_SMALLEST = 1 << 13
_KEY_BYTES = 8
SLOT_BYTES = _KEY_BYTES + RECORD_BYTES
# Keys per slot at most. More saves room and costs longer searches.
LOAD = 0.6


class HashedRegion:
    """Records found by key.

    Args:
        place: where the store is.
        header: its header, which names the current table.
        write: whether to map it for writing.

    Raises:
        StoreError: if the table is lost, cut short or damaged.
    """

    def __init__(self, place: Place, header: Header, *, write: bool) -> None:
        self._place = place
        self._header = header
        self._mapped: mmap.mmap | None = None
        self._use(0, None)
        self.follow(write=write)
        if write and header.claimed > self.records.size:
            raise _damaged(self.generation, f"{header.claimed:,} keys", f"{self.records.size:,} at most, its slots")

    def _use(self, generation: int, mapped: mmap.mmap | None) -> None:
        # Keys and records change together: a thread that reads takes both from one tuple.
        self.generation, self._mapped = generation, mapped
        self._table = (np.zeros(0, np.int64), np.zeros(0, RECORD)) if mapped is None else _split(mapped)

    @property
    def records(self) -> Records:
        """The records of the current table."""
        return self._table[1]

    def follow(self, *, write: bool = False) -> None:
        """See what the writer, in another process, has grown.

        That of a temporary store has no name: a fork goes on with the table that it came with.

        Raises:
            StoreError: if the table that the header names is lost or cut short.
        """
        if self._place.path is None and not write:
            return
        while (generation := self._header.generation) != self.generation:
            try:
                file = self._place.open(table_name(generation), write=write)
                size = file.size()
                slots = size // SLOT_BYTES
                if size % SLOT_BYTES or slots < _SMALLEST or slots & (slots - 1):
                    raise StoreError(
                        f"{table_name(generation)} is cut short.",
                        found=f"{size:,} bytes",
                        expected=f"{SLOT_BYTES} bytes times a power of two of slots",
                        do="restore the store from a copy, or delete its directory and begin a new one",
                    )
                self._use(generation, file.map(size))
            except StoreError:
                # The writer may have grown the table again, and removed this one, while it was being opened.
                if self._header.generation == generation:
                    raise

    def claim(self, ids: Ids) -> Ids:
        """Where to write the records of distinct ``ids``: positions in ``records``. New ids get a slot."""
        keys = self._table[0]
        if not keys.size:
            self._grow(ids.size)
            return self.claim(ids)
        slots, known = probing.find(keys, ids)
        if known is None:
            return slots
        claimed = self._header.claimed + ids.size - int(np.count_nonzero(known))
        if claimed > LOAD * keys.size:
            self._grow(claimed)
            return self.claim(ids)
        entered = probing.insert(keys, ids[~known])
        if entered is None:
            self._grow(keys.size)
            return self.claim(ids)
        slots[~known] = entered
        self._header.claimed = claimed
        return slots

    def read(self, ids: Ids) -> Records:
        """A copy of the records of ``ids``; zero bytes where there is none."""
        keys, records = self._table
        if not keys.size:
            return np.zeros(ids.size, RECORD)
        slots, known = probing.find(keys, ids)
        if known is None:
            return records.take(slots)
        result = np.zeros(ids.size, RECORD)
        result[known] = records.take(slots[known])
        return result

    def touched(self) -> Iterator[Ids]:
        """All touched ids, in no order, in arrays of at most `PIECE`.

        Raises:
            StoreError: at a key that is no id of this table.
        """
        for keys, _ in self._touched():
            yield keys

    def _touched(self) -> Iterator[tuple[Ids, Records]]:
        keys, records = self._table
        for first in range(0, keys.size, PIECE):
            slots = np.flatnonzero(keys[first : first + PIECE] != 0) + first  # a copy: another thread may write
            found = records.take(slots)
            marked = words_of(found)[:, MARKS] != 0
            if marked.any():
                ids = keys.take(slots[marked])
                if (lowest := int(ids.min())) < DENSE_LIMIT:
                    raise _damaged(self.generation, f"the key {lowest}", f"ids from {DENSE_LIMIT:,} on")
                yield ids, found[marked]

    def _grow(self, count: int) -> None:
        """Go on in a new table with room for ``count`` keys, into which all touched records are copied."""
        slots = max(_SMALLEST, 1 << int(count / LOAD).bit_length())
        mapped = None
        while mapped is None:
            mapped, claimed = self._copied(slots)
            slots *= 2
        old, generation = self.generation, self.generation + 1
        # In this order on the disk too: the old table must not go before the new one has come.
        if self._place.path is not None:
            mapped.flush()
        self._use(generation, mapped)
        self._header.claimed = claimed
        self._header.generation = generation
        if self._place.path is not None:
            self._header.flush()
        if old:
            self._place.remove(table_name(old))

    def _copied(self, slots: int) -> tuple[mmap.mmap | None, int]:
        """A larger table with the records of this one, and their number; None if one found no slot."""
        file = self._place.open(table_name(self.generation + 1), write=True, create=True)
        file.grow(slots * SLOT_BYTES)
        file.room(min(slots * SLOT_BYTES, 2 * mmap.PAGESIZE * self._header.claimed))
        mapped = file.map(slots * SLOT_BYTES)
        keys, records = _split(mapped)
        claimed = 0
        for ids, found in self._touched():
            entered = probing.insert(keys, ids)
            if entered is None:
                return None, 0
            records[entered] = found
            claimed += ids.size
        return mapped, claimed

    def count_keys(self) -> int:
        """The number of keys in the table."""
        return int(np.count_nonzero(self._table[0]))

    def sweep(self) -> None:
        """Remove the tables that a writer left when it died while growing."""
        for name in self._place.tables():
            if name != table_name(self.generation):
                self._place.remove(name)

    def flush(self) -> None:
        """Put it on the disk."""
        if self._mapped is not None:
            self._mapped.flush()


def _damaged(generation: int, found: str, expected: str) -> StoreError:
    return StoreError(
        f"{table_name(generation)} is damaged, or the header it goes with.",
        found=found,
        expected=expected,
        do="WeightStore.rebuild(path) if the store has a journal; else restore it from a copy, or begin a new one",
    )


def _split(mapped: mmap.mmap) -> tuple[Ids, Records]:
    slots = len(mapped) // SLOT_BYTES
    keys = np.frombuffer(mapped, np.int64, count=slots)
    return keys, np.frombuffer(mapped, RECORD, offset=slots * _KEY_BYTES)
