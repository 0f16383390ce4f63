"""Records made from the journal: as they were after a step, and anew after the record file was lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from weighted_stream.errors import StoreError
from weighted_stream.store import manifest
from weighted_stream.store.folder import Folder
from weighted_stream.store.journal import redo
from weighted_stream.store.journal_base import Base
from weighted_stream.store.journal_entry import Entry
from weighted_stream.store.journal_opening import check_base, open_journal
from weighted_stream.store.journal_reading import goes_on, has_entries, read_entries, read_lines
from weighted_stream.store.opening import begun_anew, lock, open_regions
from weighted_stream.store.place import JOURNAL
from weighted_stream.store.record import Ids
from weighted_stream.store.refusals import no_journal
from weighted_stream.store.regions import Regions
from weighted_stream.store.scratch import Scratch

NO_LIMIT = 1 << 62

# How often a copy of the base is begun again because its store has changed it meanwhile.
_PATIENCE = 20


def as_of(path: Path, step: int) -> tuple[Scratch, Regions]:
    """A temporary copy of the records as they were right after the last feedback of a step or of one before it.

    Raises:
        StoreError: if there is no journal, it does not reach back so far, or is damaged.
    """
    place = Folder(path, create=False)
    if not has_entries(path / JOURNAL) and open_regions(place, write=False).header.tally.samples:
        raise no_journal()
    for _ in range(_PATIENCE):
        copied = _base_of(place)
        if copied is None:
            continue
        scratch, regions = copied
        scratch.write_manifest(place.read_manifest())
        base = regions.header.mark
        try:
            if _bring_to(regions, path, step):
                return scratch, regions
        except StoreError:
            if Base(path / JOURNAL / "base", write=False).mark == base:
                raise  # otherwise what was missing has gone into the base meanwhile
    raise StoreError(
        f"The journal of the store in {path} is being compacted.",
        found=f"{_PATIENCE} changes of its base while it was copied",
        expected="one moment without",
        do="try again, or in the process that writes it",
    )


def _bring_to(regions: Regions, path: Path, step: int) -> bool:
    """Let the entries up to a step go into a copy of the base; whether they go on from there, all of them.

    The writer may have let some go into its base meanwhile, and dropped them.
    """
    folder, base = path / JOURNAL, regions.header.mark
    mark, cut = base, base[0]
    for _, line in read_lines(folder, base[0] + 1):
        if not goes_on(mark, line):
            return False
        mark = line.mark
        if line.has("step") and line.first_step <= step:
            cut = line.position
    if cut == base[0]:
        if base[0]:
            raise _compacted(path, step, base[0])
        return Base(folder / "base", write=False).mark == base
    mark = base
    for entry in read_entries(folder, base[0] + 1):
        if entry.line.position > cut:
            break
        if not goes_on(mark, entry.line):
            return False
        mark = entry.line.mark
        if entry.line.position < cut:
            redo(regions, entry)
        else:
            rows = _rows_until(entry, step)
            regions.redo(entry.ids[rows], entry.change.pick(rows), entry.line.mark)
    return mark[0] == cut


def _base_of(place: Folder) -> tuple[Scratch, Regions] | None:
    base = Base(place.path / JOURNAL / "base", write=False)
    before = base.state
    scratch = Scratch()
    regions = Regions(scratch, write=True, new=True)
    base.copy_to(regions)
    return (scratch, regions) if base.state == before and not before[1] & 1 else None


def _rows_until(entry: Entry, step: int) -> Ids:
    """The rows up to the last one of this step or of one before it."""
    steps = entry.change.step
    assert isinstance(steps, np.ndarray)
    return np.arange(int(np.flatnonzero(steps <= step)[-1]) + 1)


def rebuild(path: Path) -> None:
    """Make the record files of a closed store from its journal, whatever is left of them.

    Raises:
        StoreError: if the store is open elsewhere, has no journal, or the journal is damaged.
    """
    place = Folder(path, create=False)
    if not has_entries(path / JOURNAL) and not ((path / JOURNAL).is_dir() and _is_empty(place)):
        raise StoreError(
            f"The store in {path} cannot be made again.",
            found="no journal",
            expected=f"the files in {JOURNAL} that a store with journal=True has",
            do="restore it from a copy, or begin a new store",
        )
    _check_all(path / JOURNAL)
    held = lock(place, create=True)
    try:
        # Should this process be killed from here on, whoever opens the store for writing does it.
        manifest.put_rebuilding(place, begun=True)
        open_journal(place, begun_anew(place), NO_LIMIT)
    finally:
        if held is not None:
            held.release()


def _is_empty(place: Folder) -> bool:
    """Whether a store has nothing in it that would be lost."""
    try:
        if not place.begun() or manifest.rebuilding(place):
            return True
        return not open_regions(place, write=False).header.tally.samples
    except StoreError:
        return False


def _check_all(folder: Path) -> None:
    """Nothing is removed before it is known that it can be made again."""
    base, following = Base(folder / "base", write=False), None
    begin, halfway = base.mark, base.halfway
    last = begin
    for entry in read_entries(folder):
        last = entry.line.mark
        if last[0] == begin[0] + 1:
            following = entry.line
    check_base(begin, folder, last, following, halfway=halfway)


def _compacted(path: Path, step: int, base: int) -> StoreError:
    first = next((line.first_step for _, line in read_lines(path / JOURNAL, base + 1) if line.has("step")), None)
    return StoreError(
        f"The journal of the store in {path} does not reach back to step {step:,}.",
        found=f"feedback from step {first:,} on" if first is not None else "no feedback",
        expected=f"some of step {step:,} or before it",
        do="ask for a later step; a larger journal_bytes keeps more of them",
    )
