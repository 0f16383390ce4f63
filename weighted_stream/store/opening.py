"""How a store is opened, or begun."""

from __future__ import annotations

from weighted_stream.errors import StoreError
from weighted_stream.store import manifest
from weighted_stream.store.folder import Folder
from weighted_stream.store.header import REBUILD
from weighted_stream.store.lock import WriterLock
from weighted_stream.store.place import HEADER, MANIFEST, RECORDS, Place
from weighted_stream.store.regions import Regions


def lock(place: Place, *, create: bool = False) -> WriterLock | None:
    """The right to write a store; a temporary one needs none, for nobody else can open it.

    Args:
        create: make the file it takes, though there should be one.

    Raises:
        StoreError: if it has a writer already, or cannot be written.
    """
    if not isinstance(place, Folder):
        return None
    return WriterLock(place.path / HEADER, create=create or place.read_manifest() is None)


def open_regions(place: Place, *, write: bool) -> Regions:
    """Open the files of a store; with ``write``, make them if there are none. A writer holds the lock before.

    Raises:
        StoreError: if the store is damaged, or cannot be made.
        StoreMismatchError: if it has another format.
    """
    if not write or place.read_manifest() is not None:
        manifest.check(place)
        if not manifest.rebuilding(place):
            return Regions(place, write=write, new=False)
        if not write:
            raise _being_rebuilt(place)
        return begun_anew(place)
    if isinstance(place, Folder) and place.begun():
        raise StoreError(
            f"The store in {place.path} has lost its {MANIFEST}.",
            found="records of samples, of an unknown dataset",
            expected=f"a {MANIFEST} beside them",
            do="restore it from a copy, or delete the directory and begin a new store",
        )
    regions = Regions(place, write=True, new=True)
    # Last: from here on it is a store. What a process that dies earlier leaves has no data, and is made anew.
    manifest.begin(place)
    return regions


def begun_anew(place: Place) -> Regions:
    """Records of nothing, in place of those there were, which the journal is to make anew."""
    for name in (RECORDS, *place.tables()):
        place.remove(name)
    regions = Regions(place, write=True, new=True)
    regions.header.target = REBUILD
    return regions


def _being_rebuilt(place: Place) -> StoreError:
    return StoreError(
        f"The store in {place.path} is being made anew from its journal.",
        found="records that are not complete",
        expected="WeightStore.rebuild to have ended, or somebody who opens the store for writing: that ends it",
        do="try again later, or WeightStore(path)",
    )
