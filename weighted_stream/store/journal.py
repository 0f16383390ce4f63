"""The journal of an open store: every change is written down before it is made, and can be taken back.

Write-ahead: an entry with the records as they were is in the page cache before a record changes. So whenever the
process dies, what it had begun is made again from there, exactly, when the store is opened. Nothing is forced to the
disk but by `flush` and `close`, the journal before the records. A power failure may take any of what came after; if
the journal ends earlier than the records then, they are made again from it.

Behind the entries lies the *base*: the store as it was before the first of them (nothing is the base of a new store).
Once the entries take more room than they should, the oldest go into the base: twice as many bytes as the new one has.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from weighted_stream.errors import StoreError, StoreMismatchError
from weighted_stream.store.header import NO_TARGET, REBUILD
from weighted_stream.store.journal_base import Base
from weighted_stream.store.journal_entry import Entry
from weighted_stream.store.journal_files import JournalFiles, segment_bytes
from weighted_stream.store.journal_packer import Packer
from weighted_stream.store.record import NOTHING, Change, Ids, Records
from weighted_stream.store.regions import Regions


class Journal:
    """Journal, base and records of one store, kept in step. The caller holds a lock while it calls.

    Args:
        regions: the records.
        files: the entries.
        base: what lies behind them.
        limit: bytes of entries that there may be; what is more goes into the base.
    """

    def __init__(self, regions: Regions, files: JournalFiles, base: Base, limit: int) -> None:
        self._regions, self.files, self.base = regions, files, base
        self._limit = limit - segment_bytes(limit)  # whole segments go
        self._packer = Packer()
        self._warned = False

    @property
    def mark(self) -> tuple[int, int]:
        """Position and chain of the last entry."""
        return self.files.mark

    def append(self, ids: Ids, change: Change, read: Callable[[Records], None]) -> tuple[int, int]:
        """Write down what is about to change.

        Args:
            ids, change: what.
            read: copies the records as they are.

        Raises:
            StoreError: if that is impossible; the journal is as before then.
        """
        header, step = self._regions.header, change.step
        weights = 0 if change.weight is None else ids.size
        losses = 0 if change.loss is None else ids.size
        if change.bad is not None:
            losses -= int(np.count_nonzero(change.bad))
        message, given = self._packer.pack(ids, change, read, *header.overwritten(losses, weights))
        if isinstance(step, np.ndarray):
            steps = int(np.minimum.reduce(step)), int(np.maximum.reduce(step))
        else:
            steps = (-1, -1) if step is None else (step, step)
        return self.files.append(message, ids.size, given, steps, header.counters)

    def mend(self) -> None:
        """Make the records what the journal says: after a change or a roll-back that was cut short.

        Raises:
            StoreError: if the journal is damaged.
            StoreMismatchError: if it is not that of these records.
        """
        header, files = self._regions.header, self.files
        self.settle()
        if header.target == REBUILD:
            self.rebuild()
            return
        if header.target != NO_TARGET:
            self._go_back(header.target - 1)
            return
        applied, odd = header.mark[0], bool(header.sequence & 1)
        if applied > files.position or applied < self.base.mark[0]:
            self._warn(
                f"The records of this store had {applied:,} entries of its journal in them, which has those from "
                f"{self.base.mark[0]:,} to {files.position:,}: they are made again from the journal."
            )
            self.rebuild()
            return
        # Of an entry that was all but made, the chain may be there already.
        next_chain = files.line(applied + 1).chain if odd and applied < files.position else None
        if header.mark[1] not in (self.mark_at(applied)[1], next_chain):
            raise _of_other_records(applied)
        if odd:
            header.claimed = self._regions.hashed.count_keys()
        if odd and applied == files.position == self.base.mark[0]:
            self.rebuild()
            return
        for entry in files.entries(applied + 1):
            redo(self._regions, entry)
        if header.sequence & 1:  # nothing was to be made again: the mark is the last that a change leaves
            header.end(NOTHING, None, None)

    def tidy(self) -> None:
        """If there is too much, let some of the oldest entries go into the base: twice what came in last."""
        if self.files.size <= self._limit:
            return
        try:
            room = 2 * self.files.appended
            while room > 0 and self.base.mark[0] + 1 < self.files.position:
                room -= self._fold()
            self.files.drop(self.base.mark[0])
        except StoreError as error:
            # The change itself is made. The journal grows on, until the disk is full.
            self._warn(f"The journal of this store cannot be compacted. {error}")

    def compact(self, position: int) -> bool:
        """Let the oldest entry go into the base, if it is one up to ``position``. Returns whether it was.

        Raises:
            StoreError: if the disk is full, or the journal is damaged.
        """
        more = self.base.mark[0] < min(position, self.files.position)
        if more:
            self._fold()
        else:
            self.files.drop(self.base.mark[0])
        return more

    def settle(self) -> None:
        """If the base has an entry in it in part, let all of it go in: it may not be dropped before.

        Raises:
            StoreError: if the entry is not there any more, or the disk is full.
        """
        if not self.base.halfway:
            return
        if self.base.all_but_said or self.base.mark[0] == self.files.position:
            self.base.finish()  # the mark is the last that an entry leaves but for this: all of it is in
        else:
            self._fold()

    def _fold(self) -> int:
        entry = self.files.entry(self.base.mark[0] + 1)
        self.base.fold(entry)
        return entry.line.length

    def mark_at(self, position: int) -> tuple[int, int]:
        """Position and chain of an entry that is there, or of the base."""
        return self.base.mark if position == self.base.mark[0] else self.files.line(position).mark

    def roll_back(self, position: int) -> None:
        """Undo all entries after one that is there, and drop them.

        Raises:
            StoreError: if the journal is damaged, then nothing is changed; or the disk is full.
        """
        self.files.verify(position + 1)
        self._go_back(position)

    def take_back(self, position: int) -> None:
        """Undo all entries after one, of a call that failed; unless they are so many that they are in the base."""
        self.settle()
        if self.base.mark[0] <= position < self.files.position:
            self._go_back(position)

    def _go_back(self, position: int) -> None:
        header, mark = self._regions.header, self.mark_at(position)
        if header.begin():
            header.claimed = self._regions.hashed.count_keys()
        header.target = position + 1
        for entry in self.files.backwards(position + 1):
            undo(self._regions, entry)
        header.mark = mark
        self.files.cut(mark)
        header.target = NO_TARGET
        header.end(NOTHING, None, None)

    def rebuild(self) -> None:
        """Make the records anew: from the base, and all entries after it.

        Raises:
            StoreError: if the journal is damaged, then nothing is changed; or the disk is full.
        """
        header, regions = self._regions.header, self._regions
        self.files.verify(self.base.mark[0] + 1)
        header.begin()
        header.target = REBUILD
        self.base.copy_to(regions)
        for entry in self.files.entries(self.base.mark[0] + 1):
            redo(regions, entry)
        header.target = NO_TARGET
        header.begin()
        header.end(NOTHING, None, None)

    def flush(self) -> None:
        """Put everything on the disk."""
        self.files.flush()
        self.base.flush()

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(text, RuntimeWarning, stacklevel=2)


def undo(regions: Regions, entry: Entry) -> None:
    """Make records and counters what they were before an entry, however much of it is in them."""
    regions.place(entry.ids, entry.old_records)
    regions.header.restore(entry.line.tally, entry.line.pushed, entry.old_losses, entry.old_weights)


def redo(regions: Regions, entry: Entry) -> None:
    """Make records and counters what they are after an entry, however much of it is in them."""
    undo(regions, entry)
    regions.redo(entry.ids, entry.change, entry.line.mark)


def _of_other_records(position: int) -> StoreMismatchError:
    return StoreMismatchError(
        "The journal of this store is not that of its records.",
        found=f"another entry {position:,} than the one in the records",
        expected="the journal that was written with these records",
        do="restore the store from a copy; or delete its directory 'journal': the records stay, their history is lost",
    )
