"""What a shared store needs of the local one: its own records, to be sent, and a way to put scores in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any

import numpy as np

from weighted_stream.errors import StoreError
from weighted_stream.store import manifest
from weighted_stream.store.behind import Behind
from weighted_stream.store.pieces import even
from weighted_stream.store.place import MANIFEST, Place
from weighted_stream.store.record import SIMILARITY, Change, Floats, Ids, Words, words_of
from weighted_stream.store.regions import Regions

_WRITER = "writer"


class Own:
    """The local store, as the thread sees it that shares it; the store object itself may be collected meanwhile.

    Args:
        place, regions, behind: of the local store.
        threads: held while the store is changed.
    """

    def __init__(self, place: Place, regions: Regions, behind: Behind, threads: Lock) -> None:
        self.place = place
        self._regions, self._behind, self._threads = regions, behind, threads
        # The store's own identity stays: its journal is known by it.
        adopted = place.read_manifest().get(_WRITER)
        self.writer = as_writer(manifest.identity(place) if adopted is None else adopted, _damaged)
        """Which store this is, on every server: 16 bytes."""
        self.adopted = False
        """Whether it has become another one, by a state."""
        self.tell_scores: Callable[[Ids, Floats], None] | None = None
        """Who puts scores into the local store, and into those of other ranks; None: it is done here."""

    def adopt(self, writer: bytes) -> None:
        """This store is that one from now on, also when it is opened again."""
        with self._threads:
            self.place.write_manifest({**self.place.read_manifest(), _WRITER: writer.hex()})
        self.writer, self.adopted = writer, True

    def records(self, ids: Ids) -> Words:
        """Records as words (n, 8), a copy."""
        self._behind.write()
        return words_of(self._regions.read(ids, int(ids.max()) if ids.size else 0))

    def touched(self, size: int) -> Iterator[Ids]:
        """All ids of which anything is known, in arrays of at most so many."""
        self._behind.write()
        yield from even(self._regions.touched(), size)

    def __len__(self) -> int:
        return self._regions.header.tally.samples

    def add_scores(self, ids: Ids, scores: Floats) -> int:
        """Remember the scores (NaN: none) of those samples that have none yet.

        Returns:
            How many these were.
        """
        known = self.records(ids)[:, SIMILARITY] != 0
        new = np.flatnonzero(~known & ~np.isnan(scores))
        if new.size and self.tell_scores is not None:
            self.tell_scores(ids[new], scores[new])
        elif new.size:
            self._behind.put(ids[new], Change(None, None, None, scores[new], None, None))
        return int(new.size)

    @property
    def scores(self) -> Any:
        """Whose the scores are, as JSON values; None if there is none, or nobody knows."""
        return manifest.scores(self.place) if self.scored else None

    @property
    def scored(self) -> int:
        """How many samples have a score."""
        return self._regions.header.tally.scored

    def put_scores(self, identity: Any) -> None:
        """Remember whose the scores to come are."""
        with self._threads:  # or names of groups that the trainer writes at the same moment are lost
            manifest.put_scores(self.place, identity)


def as_writer(text: object, refusal: Callable[[str], StoreError]) -> bytes:
    """A writer that somebody wrote down as 32 hexadecimal digits.

    Raises:
        StoreError: what ``refusal`` makes of it, if it is none.
    """
    if not isinstance(text, str) or not re.fullmatch("[0-9a-f]{32}", text):
        raise refusal(f"writer {text!r}"[:100])
    return bytes.fromhex(text)


def _damaged(found: str) -> StoreError:
    return StoreError(
        f"The {MANIFEST} of this store is damaged.",
        found=found,
        expected="32 hexadecimal digits",
        do="restore it from a copy, or begin with a new local store (another path)",
    )
