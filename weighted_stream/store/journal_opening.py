"""How the journal of a store is opened, or begun."""

from __future__ import annotations

from pathlib import Path
from secrets import randbits

from weighted_stream.errors import StoreError
from weighted_stream.store import manifest
from weighted_stream.store.folder import Folder
from weighted_stream.store.header import NO_TARGET, REBUILD
from weighted_stream.store.journal import Journal
from weighted_stream.store.journal_base import Base, clear
from weighted_stream.store.journal_files import JournalFiles
from weighted_stream.store.journal_index import Line
from weighted_stream.store.journal_segment import ENTRIES, damaged, firsts, head_size
from weighted_stream.store.place import JOURNAL
from weighted_stream.store.regions import Regions

SMALLEST_LIMIT = 1 << 20


def open_journal(place: Folder, regions: Regions, limit: int) -> Journal:
    """Open the journal of a store that was opened for writing, and make the records what it says.

    Raises:
        StoreError: if it is damaged.
        StoreMismatchError: if it is that of another store.
    """
    folder, header = place.path / JOURNAL, regions.header
    base = Base(folder / "base")
    cutting = header.target > NO_TARGET
    if not base.exists and not firsts(folder):
        if not cutting:
            _check_nothing_lost(folder)
        for rest in folder.glob(f"*{ENTRIES}"):  # of a segment that was just being made or removed
            rest.unlink()
        # Records without a journal: it begins here. (Not before the rest has gone: it would pass for a loss.)
        if header.target == REBUILD:
            clear(regions)  # of records that were just coming in: before, there were none
        header.target = NO_TARGET
        regions.mend()
        if header.mark != (0, 0) or header.tally.samples:
            folder.mkdir(exist_ok=True)
            header.mark = unseen_mark(header.mark[0])
            base.take(regions)
    files = JournalFiles(folder, manifest.identity(place), base.mark, limit, cutting=cutting)
    position = base.mark[0]
    if files.first > position + 1:
        raise damaged(folder, position + 1)
    following = files.line(position + 1) if position < files.position else None
    check_base(base.mark, folder, files.mark, following, halfway=base.halfway)
    journal = Journal(regions, files, base, limit)
    journal.mend()
    if manifest.rebuilding(place):
        journal.flush()
        regions.flush()
        manifest.put_rebuilding(place, begun=False)
    regions.journal = journal
    return journal


def unseen_mark(position: int) -> tuple[int, int]:
    """The mark of records that no journal tells of: with a chain by chance, so that no state from before goes with it.

    Example:
        >>> unseen_mark(3)[0], unseen_mark(3) != unseen_mark(3)
        (3, True)
    """
    return position, randbits(32) | 1


def check_base(
    base: tuple[int, int], folder: Path, last: tuple[int, int], following: Line | None, *, halfway: bool
) -> None:
    """What is behind the entries must be where they go on from; otherwise they would be dropped, or made twice.

    Args:
        base: position and chain of what is behind them.
        folder: of the journal.
        last: position and chain of the last entry.
        following: the entry after the base, if there is one.
        halfway: whether that one has gone into the base in part.

    Raises:
        StoreError: if it is not.
    """
    position, chain = base
    sound = base == last
    if following is not None:  # of an entry that was all but put into the base, the chain may be there already
        sound = following.follows(chain) or (halfway and chain == following.chain)
    if not sound:
        raise StoreError(
            "What is behind the journal of this store does not go with it.",
            found=f"records as they were after entry {position:,}, in {folder / 'base'}; entries up to {last[0]:,}",
            expected="an entry that goes on from there",
            do=f"restore the store from a copy, or delete {folder}: the records stay, their history is lost",
        )


def _check_nothing_lost(folder: Path) -> None:
    for file in folder.glob(f"*{ENTRIES}"):
        if file.stat().st_size > head_size():
            raise damaged(file, 1)


def refuse_journal(place: Folder) -> None:
    """A store whose journal is to be switched off must have none.

    Raises:
        StoreError: if it has one.
    """
    if firsts(place.path / JOURNAL) or (place.path / JOURNAL / "base").exists():
        raise StoreError(
            f"The store in {place.path} has a journal, which has to go on.",
            found="journal=False",
            expected="journal=True, or a store without a journal",
            do=f"leave journal=False out, or delete {place.path / JOURNAL}: the records stay, their history is lost",
        )


def check_limit(limit: int) -> None:
    """Check the option ``journal_bytes``.

    Raises:
        StoreError: if it is too small.
    """
    if not isinstance(limit, int) or limit < SMALLEST_LIMIT:
        raise StoreError(
            "A journal cannot be as small as this.",
            found=f"journal_bytes={limit!r}",
            expected=f"{SMALLEST_LIMIT:,} bytes or more",
            do="WeightStore(path, journal_bytes=2**30), or journal=False",
        )
