"""The state of a store: what `WeightStore.state_dict` returns and `load_state_dict` takes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from weighted_stream.errors import StoreError, StoreMismatchError
from weighted_stream.store import manifest, snapshot
from weighted_stream.store.header import NO_TARGET, REBUILD
from weighted_stream.store.journal import Journal
from weighted_stream.store.journal_opening import unseen_mark
from weighted_stream.store.place import Place
from weighted_stream.store.refusals import no_state
from weighted_stream.store.regions import Regions

STATE_VERSION = 1


def of_journal(place: Place, journal: Journal) -> dict[str, Any]:
    """A position in the journal."""
    position, chain = journal.mark
    return {
        "version": STATE_VERSION,
        "kind": "journal",
        "store": manifest.identity(place),
        "position": position,
        "chain": chain,
    }


def of_records(place: Place, regions: Regions) -> dict[str, Any]:
    """All records."""
    regions.mend()
    named = {"scores": manifest.scores(place), "groups": list(manifest.groups(place))}
    return {"version": STATE_VERSION, "kind": "records", **named, **snapshot.take(regions)}


def to_journal(place: Place, regions: Regions, journal: Journal, state: Mapping[str, Any]) -> None:
    """Bring a store with a journal back.

    Raises:
        StoreMismatchError: for a state of another store, another past or another version.
        StoreError: for a position that is not there any more.
    """
    if _kind(state) == "records":
        if journal.mark[0]:
            raise _other_kind("all records of a store without a journal", "a position in the journal of this store")
        _begin_with(place, regions, journal, state)
        return
    journal.roll_back(check_position(place, journal, state))


def _begin_with(place: Place, regions: Regions, journal: Journal, state: Mapping[str, Any]) -> None:
    """Let the journal begin with all records of a state; whoever fails, or is killed, goes back to before."""
    groups, header = _groups(state), regions.header
    header.target = REBUILD
    try:
        snapshot.put(regions, state)
        header.mark = mark = unseen_mark(0)
        journal.base.take(regions)
    except BaseException:
        with suppress(StoreError):
            journal.rebuild()
        raise
    journal.files.chain = mark[1]
    header.target = NO_TARGET
    _put_scores(place, regions, state.get("scores"))
    manifest.put_groups(place, groups)


def check_position(place: Place, journal: Journal, state: Mapping[str, Any]) -> int:
    """The position that a state names, which can be gone back to.

    Raises:
        StoreMismatchError, StoreError: as `to_journal`.
    """
    if _kind(state) != "journal":
        raise _other_kind("all records of a store without a journal", "a position in the journal of this store")
    identity = manifest.identity(place)
    store, position, chain = (state.get(key) for key in ("store", "position", "chain"))
    if store != identity:
        raise StoreMismatchError(
            "This state is of another store.",
            found=f"the store {store}",
            expected=f"the store {identity}" + (f", in {place.path}" if place.path else ""),
            do="open the store that the state was taken of (a copy of its directory is as good)",
        )
    if not isinstance(position, int) or not isinstance(chain, int) or position < 0:
        raise no_state(f"position {position!r}, chain {chain!r}")
    journal.settle()
    first, last = journal.base.mark[0], journal.mark[0]
    if position < first:
        raise StoreError(
            "The journal does not reach back to this state any more.",
            found=f"position {position:,}",
            expected=f"{first:,} to {last:,}: what was before has been compacted",
            do="load a later state; a larger journal_bytes keeps more of them",
        )
    if position > last or journal.mark_at(position)[1] != chain:
        raise StoreMismatchError(
            "This state is of another past than this store has.",
            found=f"position {position:,}, checksum {chain:#010x}",
            expected=f"a position up to {last:,}, of what is in the journal",
            do="was an earlier state loaded in between? Load one of the present run, or a copy of the store",
        )
    return position


def to_records(place: Place, regions: Regions, state: Mapping[str, Any]) -> None:
    """Bring a store without a journal back.

    Raises:
        StoreMismatchError: for a state of a store with a journal, or of another version.
        StoreError: for none.
    """
    if _kind(state) != "records":
        raise _other_kind("a position in a journal", "all records: this store has no journal")
    groups = _groups(state)
    regions.mend()
    snapshot.put(regions, state)
    _put_scores(place, regions, state.get("scores"))
    manifest.put_groups(place, groups)


def _put_scores(place: Place, regions: Regions, scores: Any) -> None:
    """Remember whose the scores are that came with a state; if none came, those to come are whose they were."""
    if scores is not None or regions.header.tally.scored:
        manifest.put_scores(place, scores)


def _groups(state: Mapping[str, Any]) -> list[str]:
    names = state.get("groups", [])
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise no_state(f"groups {names!r}"[:100])
    if len(set(names)) < len(names):
        raise no_state("two groups of one name")
    return list(names)


def _kind(state: Mapping[str, Any]) -> str:
    if not isinstance(state, Mapping) or str(state.get("kind")) not in ("journal", "records"):
        raise no_state(f"{type(state).__name__}" + (f" of {sorted(state)}" if isinstance(state, Mapping) else ""))
    if type(state.get("version")) is not int or state["version"] != STATE_VERSION:
        raise StoreMismatchError(
            "This state is of another version.",
            found=f"version {state.get('version')!r}",
            expected=f"version {STATE_VERSION}",
            do="use the version of weighted-stream that made it",
        )
    kind: str = state["kind"]
    return kind


def _other_kind(found: str, expected: str) -> StoreMismatchError:
    return StoreMismatchError(
        "This state is of another kind of store.",
        found=found,
        expected=expected,
        do="open the store at the path the state was taken at; for a state without one, a new WeightStore()",
    )
