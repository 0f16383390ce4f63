"""What lies behind the journal: the store as it was before the first entry, which the oldest entries go into."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from weighted_stream.store.folder import Folder
from weighted_stream.store.header import NO_TARGET, WINDOW
from weighted_stream.store.journal_entry import Entry
from weighted_stream.store.opening import open_regions
from weighted_stream.store.record import NOTHING, RECORD, Ids, Records
from weighted_stream.store.regions import Regions


class Base:
    """Records in a folder of their own, as those of the store: only what is touched takes room.

    Args:
        folder: where it is. None there: the base of a store that was new, with nothing in it.
        write: whether to open it for writing.

    Raises:
        StoreError: if it is damaged.
    """

    def __init__(self, folder: Path, *, write: bool = True) -> None:
        self._folder = folder
        self._regions = open_regions(Folder(folder, create=False), write=write) if folder.exists() else None

    @property
    def mark(self) -> tuple[int, int]:
        """Position and chain of the last entry in it."""
        return (0, 0) if self._regions is None else self._regions.header.mark

    @property
    def state(self) -> tuple[int, int]:
        """Two numbers that change with it; the second is odd while an entry goes into it."""
        return (0, 0) if self._regions is None else (self.mark[0], self._regions.header.sequence)

    @property
    def halfway(self) -> bool:
        """Whether an entry, the next one, has gone into it in part only."""
        return bool(self.state[1] & 1)

    @property
    def all_but_said(self) -> bool:
        """Whether that entry is in it after all, and only the end of it was not noted."""
        return self._regions is not None and NO_TARGET != self._regions.header.target == self.mark[0]

    @property
    def exists(self) -> bool:
        """Whether there is a folder."""
        return self._regions is not None

    def fold(self, entry: Entry) -> None:
        """Let the next entry go into it.

        Raises:
            StoreError: if the disk is full.
        """
        regions = self._opened()
        if self.halfway:
            # The last one was cut short; it is this one.
            regions.header.claimed = regions.hashed.count_keys()
            regions.place(entry.ids, entry.old_records)
            regions.header.restore(entry.line.tally, entry.line.pushed, entry.old_losses, entry.old_weights)
        # Which one goes in, so that of one that was cut short it is known whether its mark is there already.
        regions.header.target = NO_TARGET
        regions.header.target = entry.line.position
        regions.redo(entry.ids, entry.change, entry.line.mark)

    def finish(self) -> None:
        """All of the last entry is in it, and the process was killed before it said so."""
        header = self._opened().header
        header.claimed = self._opened().hashed.count_keys()
        header.end(NOTHING, None, None)

    def take(self, source: Regions) -> None:
        """Become a copy of these records; there is no entry yet.

        Raises:
            StoreError: if the disk is full.
        """
        self._regions = self._begun(source)

    def copy_to(self, target: Regions) -> None:
        """Make other records the same as these.

        Raises:
            StoreError: if the disk is full.
        """
        clear(target)
        if self._regions is not None:
            self._regions.follow()  # another process may have grown it since it was opened
            copy(self._regions, target)

    def flush(self) -> None:
        """Put it on the disk."""
        if self._regions is not None:
            self._regions.flush()

    def _opened(self) -> Regions:
        if self._regions is None:
            self._regions = self._begun(None)
        return self._regions

    def _begun(self, source: Regions | None) -> Regions:
        """A new folder, with a copy of these records in it. It is there when it is complete."""
        draft, old = self._folder.with_suffix(".new"), self._folder.with_suffix(".old")
        for rest in (draft, old):
            shutil.rmtree(rest, ignore_errors=True)
        regions = open_regions(Folder(draft, create=True), write=True)
        if source is not None:
            copy(source, regions)
            regions.flush()
        if self._folder.exists():
            os.replace(self._folder, old)
        os.replace(draft, self._folder)
        shutil.rmtree(old, ignore_errors=True)
        return open_regions(Folder(self._folder, create=False), write=True)


def copy(source: Regions, target: Regions) -> None:
    """Put all records, counters and the window of one store into another, an empty one."""
    for ids in source.touched():
        target.place(ids, source.read(ids, int(ids.max())))
    target.header.tally = source.header.tally
    target.header.set_window(*source.header.window())
    target.header.mark = source.header.mark


def clear(regions: Regions) -> None:
    """Make all records blank, and the counters zero."""
    for ids in regions.touched():
        regions.place(ids, blank(ids))
    regions.header.tally = NOTHING
    zeros = np.zeros(WINDOW, np.float32)
    regions.header.set_window((0, 0), zeros, zeros)
    regions.header.mark = (0, 0)


def blank(ids: Ids) -> Records:
    """As many records that were never touched."""
    return np.zeros(ids.size, RECORD)
