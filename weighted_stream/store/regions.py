"""The open files of a store: header, dense records, hashed records; reads and writes by id."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np

from weighted_stream.sample_ids import DENSE_LIMIT
from weighted_stream.store.dense import DenseRegion
from weighted_stream.store.hashed import HashedRegion
from weighted_stream.store.header import Header
from weighted_stream.store.place import Place
from weighted_stream.store.record import Change, Ids, Records, Tally, apply, tally, words_of
from weighted_stream.store.repeats import rounds

# What one id can take at most: a page of records and a page of keys.
_BYTES_PER_ID = 2 * mmap.PAGESIZE


class Regions:
    """The files of one store, opened.

    Args:
        place: where they are.
        write: whether to map them for writing.
        new: make them.
    """

    def __init__(self, place: Place, *, write: bool, new: bool) -> None:
        self.header = Header(place, write=write, create=new)
        self.dense = DenseRegion(place, self.header, write=write, create=new)
        self.hashed = HashedRegion(place, self.header, write=write)
        # Ids that may be written before the disk's free space is looked at again.
        self._credit = 0
        if write:
            self.hashed.sweep()
            self._settle()

    def follow(self) -> None:
        """See what the writer, in another process, has grown."""
        self.dense.follow()
        self.hashed.follow()

    def read(self, ids: Ids, highest: int) -> Records:
        """A copy of the records of some ids, none above ``highest``."""
        if highest < DENSE_LIMIT:
            return self.dense.read(ids, highest)
        records = self.hashed.read(ids)
        low = ids < DENSE_LIMIT
        if np.count_nonzero(low):
            records[low] = self.dense.read(ids[low], int(ids[low].max()))
        return records

    def write(self, ids: Ids, change: Change, highest: int, *, distinct: bool) -> None:
        """Change the records of some ids, none above ``highest``; repeats count in order."""
        header = self.header
        self._provide(ids.size)
        self._settle()
        header.begin()
        if distinct:
            self._write_distinct(ids, change, highest)
        else:
            for part in rounds(ids):
                self._write_distinct(ids[part], change.pick(part), highest)
        losses = change.loss
        header.remember(
            losses if losses is None or change.bad is None else losses[~change.bad], change.weight
        )
        header.end()

    def _write_distinct(self, ids: Ids, change: Change, highest: int) -> None:
        if highest < DENSE_LIMIT:
            self.dense.reserve(highest + 1)
            self._write_at(self.dense.records, ids, change)
            return
        low = ids < DENSE_LIMIT
        if np.count_nonzero(low):
            self._write_distinct(ids[low], change.pick(low), int(ids[low].max()))
            ids, change = ids[~low], change.pick(~low)
        if ids.size:
            slots = self.hashed.claim(ids)
            self._write_at(self.hashed.records, slots, change)

    def _write_at(self, records: Records, slots: Ids, change: Change) -> None:
        changed = records.take(slots)
        more = apply(words_of(changed), change)
        records[slots] = changed
        self.header.add(more)

    def touched(self) -> Iterator[Ids]:
        """All touched ids, in arrays of bounded size, dense ones first and ascending."""
        yield from self.dense.touched()
        yield from self.hashed.touched()

    def flush(self) -> None:
        """Put everything on the disk."""
        self.dense.flush()
        self.hashed.flush()
        self.header.flush()

    def _settle(self) -> None:
        """Count again if the last update was cut short, by an error or by the end of its process."""
        header = self.header
        if header.sequence & 1:
            counts = np.zeros(len(Tally._fields), np.int64)
            for ids in self.touched():
                counts += tally(words_of(self.read(ids, int(ids.max()))))
            header.tally = Tally(*counts.tolist())
            header.claimed = self.hashed.count_keys()
            header.end()

    def _provide(self, count: int) -> None:
        """Refuse to write to a full disk: a mapped page that finds no room there would kill the process."""
        self._credit -= count
        if self._credit < 0:
            self._credit = self.header.file.room(count * _BYTES_PER_ID) // (4 * _BYTES_PER_ID)
