"""The open files of a store: header, dense records, hashed records; reads and writes by id."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from weighted_stream.sample_ids import DENSE_LIMIT
from weighted_stream.store.dense import DenseRegion
from weighted_stream.store.hashed import SLOT_BYTES, HashedRegion
from weighted_stream.store.header import Header
from weighted_stream.store.place import Place
from weighted_stream.store.record import (
    NOTHING,
    RECORD,
    RECORD_BYTES,
    Change,
    Ids,
    Records,
    Tally,
    apply,
    apply_in_turn,
    count,
    total,
    words_of,
)
from weighted_stream.store.repeats import Repeats, repeats_of

# What one id can take at most: a page of records and a page of keys.
_BYTES_PER_ID = 2 * mmap.PAGESIZE
# So many ids share pages: it is worth to count those.
_MANY = 1 << 13


class WriteAhead(Protocol):
    """What writes every change down before it is made, and mends what was cut short."""

    @property
    def mark(self) -> tuple[int, int]:
        """Position and chain of the last change it knows of."""

    def append(self, ids: Ids, change: Change, read: Callable[[Records], None]) -> tuple[int, int]:
        """The records of these ids, which ``read`` copies, are about to change: its position and chain."""

    def mend(self) -> None:
        """The last change was cut short: make the records what the journal says."""

    def take_back(self, position: int) -> None:
        """A call failed in the middle: undo what it did, all changes after ``position``."""

    def tidy(self) -> None:
        """A change was made: time for a little compaction."""


class _Part(NamedTuple):
    """Some rows of a call, all in one region: where their records are, and which rows (None: all) they are."""

    region: DenseRegion | HashedRegion
    slots: Ids
    rows: Ids | None


class Regions:
    """The files of one store, opened.

    Args:
        place: where they are.
        write: whether to map them for writing.
        new: make them.

    Attributes:
        journal: told of every change before it is made; None: nobody is.
    """

    def __init__(self, place: Place, *, write: bool, new: bool) -> None:
        self.journal: WriteAhead | None = None
        self.header = Header(place, write=write, create=new)
        self.dense = DenseRegion(place, self.header, write=write, create=new)
        self.hashed = HashedRegion(place, self.header, write=write)
        # Ids that may be written before the disk's free space is looked at again.
        self._credit = 0
        if write:
            self.hashed.sweep()

    @property
    def known(self) -> int:
        """How many changes the journal knows of; 0 without one."""
        return 0 if self.journal is None else self.journal.mark[0]

    def follow(self) -> None:
        """See what the writer, in another process, has grown."""
        self.dense.follow()
        self.hashed.follow()

    def read(self, ids: Ids, highest: int) -> Records:
        """A copy of the records of some ids, none above ``highest``."""
        if highest < DENSE_LIMIT:
            return self.dense.read(ids, highest)
        low = ids < DENSE_LIMIT
        if not np.count_nonzero(low):
            return self.hashed.read(ids)
        records = np.empty(ids.size, RECORD)
        records[~low] = self.hashed.read(ids[~low])
        records[low] = self.dense.read(ids[low], int(ids[low].max()))
        return records

    def write(self, ids: Ids, change: Change, highest: int, *, distinct: bool, order: Ids | None = None) -> None:
        """Change the records of some ids, none above ``highest``; repeats count in order. The journal knows first.

        Args:
            ids: (n,) of them.
            change: what to write.
            highest: no id is above it.
            distinct: none comes twice.
            order: of the ids, in which equal ones follow each other, the earlier first; None: not known.

        Raises:
            StoreError: if the disk is full, or the file system cannot hold an id as high.
        """
        if self._credit < ids.size:
            self.make_sure_of_room(ids)
        self._credit -= ids.size
        if self.header.begin():
            self.mend()
            self.header.begin()
        parts = self._locate(ids, highest, distinct=distinct)
        journal = self.journal
        mark = None if journal is None else journal.append(ids, change, lambda into: _read(parts, into))
        self._change(parts, change, distinct=distinct, mark=mark, order=order)
        if journal is not None:
            journal.tidy()

    def redo(self, ids: Ids, change: Change, mark: tuple[int, int]) -> None:
        """Make a change that the journal has at ``mark``."""
        self.header.begin()
        if ids.size:
            self.make_sure_of_room(ids)
        distinct = ids.size < 2
        self._change(self._locate(ids, _highest(ids), distinct=distinct), change, distinct=distinct, mark=mark)

    def place(self, ids: Ids, records: Records) -> None:
        """Put whole records in place, as they are: no counter changes, and the journal is not told."""
        if not ids.size:
            return
        self.make_sure_of_room(ids)
        for region, slots, rows in self._locate(ids, _highest(ids), distinct=False):
            region.records[slots] = records if rows is None else records[rows]

    def make_sure_of_room(self, ids: Ids) -> None:
        """Refuse to write to a full disk: a mapped page that finds no room there would kill the process."""
        left = self.header.file.room(self._most_bytes(ids))
        self._credit = ids.size + left // (4 * _BYTES_PER_ID)

    def _locate(self, ids: Ids, highest: int, *, distinct: bool) -> list[_Part]:
        """Where the records of some ids are; there is room for all of them then."""
        if highest < DENSE_LIMIT:
            self.dense.make_room(highest)
            return [_Part(self.dense, ids, None)]
        low = ids < DENSE_LIMIT
        if not np.count_nonzero(low):
            return [_Part(self.hashed, self._claim(ids, distinct), None)]
        dense, others = ids[low], ids[~low]
        self.dense.make_room(int(dense.max()))
        slots = self._claim(others, distinct)
        return [_Part(self.dense, dense, np.flatnonzero(low)), _Part(self.hashed, slots, np.flatnonzero(~low))]

    def _claim(self, ids: Ids, distinct: bool) -> Ids:
        if distinct:
            return self.hashed.claim(ids)
        once, which = np.unique(ids, return_inverse=True)
        return self.hashed.claim(once)[which]

    def _change(
        self,
        parts: list[_Part],
        change: Change,
        *,
        distinct: bool,
        mark: tuple[int, int] | None,
        order: Ids | None = None,
    ) -> None:
        more = NOTHING
        for region, slots, rows in parts:
            mine = change if rows is None else change.pick(rows)
            if distinct:
                done = _write_at(region.records, slots, mine)
            else:
                done = _write_rounds(region.records, repeats_of(slots, order if rows is None else None), mine)
            more = done if more is NOTHING else total([more, done])
        loss, bad = change.loss, change.bad
        self.header.end(more, loss if loss is None or bad is None else loss[~bad], change.weight, mark)

    def touched(self) -> Iterator[Ids]:
        """All touched ids, in arrays of bounded size, dense ones first and ascending."""
        yield from self.dense.touched()
        yield from self.hashed.touched()

    def flush(self) -> None:
        """Put everything on the disk."""
        self.dense.flush()
        self.hashed.flush()
        self.header.flush()

    def mend(self) -> None:
        """Set right what a change left that was cut short, by an error or by the end of its process."""
        if self.journal is not None:
            self.journal.mend()
        elif self.header.begin():
            self.recount()
            self.header.end(NOTHING, None, None)
        else:
            self.header.end(NOTHING, None, None)

    def recount(self) -> None:
        """Set the counters by looking at every record."""
        tallies = (count(words_of(self.read(ids, int(ids.max())))) for ids in self.touched())
        self.header.tally = total(tallies)
        self.header.claimed = self.hashed.count_keys()

    def _most_bytes(self, ids: Ids) -> int:
        """What the records of these ids can take at most."""
        if ids.size < _MANY:
            return ids.size * _BYTES_PER_ID
        dense = ids[ids < DENSE_LIMIT]
        pages: int = np.unique(dense // (mmap.PAGESIZE // RECORD_BYTES)).size
        hashed: int = ids.size - dense.size
        # A table that grows for them has less than 7 slots a key.
        slots = max(self.hashed.records.size, 7 * (self.header.claimed + hashed))
        return pages * mmap.PAGESIZE + min(hashed * _BYTES_PER_ID, slots * SLOT_BYTES)


def _highest(ids: Ids) -> int:
    return int(ids.max()) if ids.size else 0


def _read(parts: list[_Part], into: Records) -> None:
    """Copy the records, in the order of the rows."""
    for region, slots, rows in parts:
        if rows is None:
            region.records.take(slots, out=into, mode="clip")  # they are all there; this mode copies once
        else:
            into[rows] = region.records.take(slots)


def _write_at(records: Records, slots: Ids, change: Change) -> Tally:
    changed = records.take(slots)
    more = apply(words_of(changed), change)
    records.put(slots, changed)
    return more


def _write_rounds(records: Records, repeats: Repeats, change: Change) -> Tally:
    once, rounds, last = repeats
    changed = records.take(once)
    more = apply_in_turn(words_of(changed), change, rounds, last)
    records.put(once, changed)
    return more
