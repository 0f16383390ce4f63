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
from weighted_stream.store.record import NOTHING, RECORD, Change, Ids, Records, Tally, apply, count, total, words_of
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
            if self.header.begin():
                self._recount()
            self.header.end(NOTHING, None, None)

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

    def write(self, ids: Ids, change: Change, highest: int, *, distinct: bool) -> None:
        """Change the records of some ids, none above ``highest``; repeats count in order.

        Raises:
            StoreError: if the disk is full, or the file system cannot hold an id as high.
        """
        if self._credit < ids.size:
            self._look_at_disk(ids.size)
        self._credit -= ids.size
        header = self.header
        if header.begin():
            self._recount()
        if distinct and highest < DENSE_LIMIT:
            more = self._write_dense(ids, change, highest)
        else:
            parts = [(ids, change)] if distinct else ((ids[p], change.pick(p)) for p in rounds(ids))
            more = total(tally for part in parts for tally in self._write_distinct(*part))
        loss, bad = change.loss, change.bad
        header.end(more, loss if loss is None or bad is None else loss[~bad], change.weight)

    def _write_distinct(self, ids: Ids, change: Change) -> Iterator[Tally]:
        low = ids < DENSE_LIMIT
        if np.count_nonzero(low):
            yield self._write_dense(ids[low], change.pick(low), int(ids[low].max()))
            ids, change = ids[~low], change.pick(~low)
        if ids.size:
            slots = self.hashed.claim(ids)
            yield _write_at(self.hashed.records, slots, change)

    def _write_dense(self, ids: Ids, change: Change, highest: int) -> Tally:
        dense = self.dense
        if highest >= dense.capacity:
            dense.reserve(highest + 1)
        return _write_at(dense.records, ids, change)

    def touched(self) -> Iterator[Ids]:
        """All touched ids, in arrays of bounded size, dense ones first and ascending."""
        yield from self.dense.touched()
        yield from self.hashed.touched()

    def flush(self) -> None:
        """Put everything on the disk."""
        self.dense.flush()
        self.hashed.flush()
        self.header.flush()

    def _recount(self) -> None:
        """Set the counters right after an update that was cut short, by an error or by the end of its process."""
        tallies = (count(words_of(self.read(ids, int(ids.max())))) for ids in self.touched())
        self.header.tally = total(tallies)
        self.header.claimed = self.hashed.count_keys()

    def _look_at_disk(self, needed: int) -> None:
        """Refuse to write to a full disk: a mapped page that finds no room there would kill the process."""
        left = self.header.file.room(needed * _BYTES_PER_ID)
        self._credit = needed + left // (4 * _BYTES_PER_ID)


def _write_at(records: Records, slots: Ids, change: Change) -> Tally:
    changed = records.take(slots)
    more = apply(words_of(changed), change)
    records[slots] = changed
    return more
