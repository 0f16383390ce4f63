"""The manifest of a store: its format, the dataset its ids belong to, whose its scores are, and names of groups."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any, Protocol, Self

from weighted_stream.errors import StoreError, StoreMismatchError
from weighted_stream.store.header import FORMAT_VERSION
from weighted_stream.store.place import MANIFEST, Place

_FORMAT = "weighted_stream.store"
# A fingerprint may list a hundred thousand shards; a message shows the beginning.
_SHOWN = 400


class Fingerprint(Protocol):
    """What a store needs to know of a dataset: the fingerprint of every source is one."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        ...

    @classmethod
    def from_json(cls, value: dict[str, Any], /) -> Self:
        """The inverse of `to_json`."""
        ...

    def conflict(self, other: Self, /) -> str | None:
        """Why the other dataset cannot share a store with this one, or None if it can."""
        ...

    def merged(self, other: Self, /) -> Self:
        """The fingerprint of both datasets together."""
        ...


class Identity(Protocol):
    """What a store needs to know of the scores in it: a `ScoreIdentity` is one."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        ...

    @classmethod
    def from_json(cls, value: dict[str, Any], /) -> Self:
        """The inverse of `to_json`."""
        ...

    def conflict(self, other: Self, /) -> str | None:
        """Why the other scores cannot stand beside these, or None if they can."""
        ...


def begin(place: Place) -> None:
    """Write the manifest of a new store, of no dataset yet."""
    identity = uuid.uuid4().hex
    place.write_manifest({"format": _FORMAT, "version": FORMAT_VERSION, "fingerprint": None, "store": identity})


def identity(place: Place) -> str:
    """Which store this is, wherever it is copied to: 32 hexadecimal digits. For a writer: an old store gets one."""
    manifest = _read(place)
    known = manifest.get("store")
    if not isinstance(known, str) or len(known) != 32:
        known = uuid.uuid4().hex
        place.write_manifest({**manifest, "store": known})
    return known


def scores(place: Place) -> Any:
    """Whose the scores are, as JSON values; None if that is not known."""
    return _read(place).get("scores")


def put_scores(place: Place, scores: Any) -> None:
    """Remember whose the scores are, as `scores` returned it; None: nobody knows."""
    rest = {name: value for name, value in _read(place).items() if name != "scores"}
    place.write_manifest(rest if scores is None else {**rest, "scores": scores})


def groups(place: Place) -> tuple[str, ...]:
    """The names of the groups, by number."""
    # Optional, and later than version 1: a store without groups lacks it.
    return tuple(_read(place).get("groups", ()))


def put_groups(place: Place, names: Sequence[str]) -> None:
    """Remember the names of the groups, by number."""
    place.write_manifest({**_read(place), "groups": list(names)})


def rebuilding(place: Place) -> bool:
    """Whether the records are being made anew from the journal: what there is of them counts for nothing."""
    return bool(_read(place).get("rebuilding", False))


def put_rebuilding(place: Place, *, begun: bool) -> None:
    """Remember that the records are being made anew; or, if not ``begun``, that they have been."""
    rest = {name: value for name, value in _read(place).items() if name != "rebuilding"}
    place.write_manifest({**rest, "rebuilding": True} if begun else rest)


def check(place: Place) -> None:
    """Check that there is a manifest, and that it is of this format.

    Raises:
        StoreError: if there is none, or it is damaged.
        StoreMismatchError: if it is of another format.
    """
    _read(place)


def bind(place: Place, fingerprint: Fingerprint, *, write: bool) -> None:
    """Check that the store holds, or may hold, this dataset; with ``write``, remember it.

    Raises:
        StoreMismatchError: if it holds another one.
    """
    manifest = _read(place)
    known = manifest["fingerprint"]
    if known is None:
        if write:
            place.write_manifest({**manifest, "fingerprint": fingerprint.to_json()})
        return
    try:
        stored = type(fingerprint).from_json(known)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _mismatch(f"{type(error).__name__}: {error}", known, fingerprint) from error
    reason = stored.conflict(fingerprint)
    if reason is not None:
        raise _mismatch(reason, known, fingerprint)
    merged = stored.merged(fingerprint).to_json()
    if write and merged != known:
        place.write_manifest({**manifest, "fingerprint": merged})


def bind_scores(place: Place, identity: Identity, *, scored: int) -> None:
    """Check that the scores of ``identity`` may stand beside those of the store, and remember whose they are.

    Args:
        scored: how many samples of the store have a score.

    Raises:
        StoreMismatchError: if the store holds other scores, or some of unknown origin.
    """
    if not check_scores(place, identity, scored=scored):
        place.write_manifest({**_read(place), "scores": identity.to_json()})


def check_scores(place: Place, identity: Identity, *, scored: int) -> bool:
    """Check that the scores of ``identity`` may stand beside those of the store.

    Args:
        scored: how many samples of the store have a score.

    Returns:
        Whether they are those that the store remembers.

    Raises:
        StoreMismatchError: if the store holds other scores, or some of unknown origin.
    """
    # Optional, and later than version 1: a store without scores lacks it.
    known = _read(place).get("scores")
    if known is None:
        if scored:
            raise _other_scores("nobody knows whose", f"samples with a score: {scored:,}, of unknown origin", identity)
        return False
    try:
        reason = type(identity).from_json(known).conflict(identity)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
    if reason is not None and scored:
        raise _other_scores(reason, f"samples with a score: {scored:,}, by {_named(known)}", identity)
    return reason is None


def _read(place: Place) -> dict[str, Any]:
    value = place.read_manifest()
    if not isinstance(value, dict) or not {"format", "version", "fingerprint"} <= value.keys() or not _plausible(value):
        raise StoreError(
            f"The {MANIFEST} of this store is missing or damaged.",
            found=_short(value),
            expected="format, version and fingerprint",
            do="restore it from a copy, or delete the directory and begin a new store",
        )
    if (value["format"], value["version"]) != (_FORMAT, FORMAT_VERSION):
        raise StoreMismatchError(
            "This store has another format.",
            found=f"{value['format']} version {value['version']}",
            expected=f"{_FORMAT} version {FORMAT_VERSION}",
            do="use the version of weighted-stream that made it, or begin a new store",
        )
    return value


def _plausible(value: dict[str, Any]) -> bool:
    """Whether everything there is of the kind that was written."""
    names = value.get("groups", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        return False
    kinds = {"fingerprint": dict, "store": str, "rebuilding": bool}
    return all(value.get(name) is None or isinstance(value[name], kind) for name, kind in kinds.items())


def _mismatch(reason: str, known: dict[str, Any], given: Fingerprint) -> StoreMismatchError:
    return StoreMismatchError(
        f"This store belongs to another dataset: {reason}.",
        found=f"the dataset {_short(given.to_json())}",
        expected=f"the dataset {_short(known)}",
        do="give each dataset a store of its own (another path)",
    )


def _other_scores(reason: str, found: str, identity: Identity) -> StoreMismatchError:
    return StoreMismatchError(
        f"This store holds other scores: {reason}.",
        found=found,
        expected=f"none, or those by {_named(identity.to_json())}",
        do="give these scores a store of their own (another path), or use the stored ones: Similarity() without target",
    )


def _named(scores: Any) -> str:
    # Hundreds of numbers tell a reader nothing.
    named = isinstance(scores, dict)
    return _short({key: value for key, value in scores.items() if key != "centroid"} if named else scores)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + f"… ({len(text):,} characters)"
