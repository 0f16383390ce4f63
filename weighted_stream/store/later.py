"""Later: records that are newer than those in the files, because whoever writes these has not got to them yet."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weighted_stream.store.record import Change, Ids, Words, apply
from weighted_stream.store.repeats import rounds


class Later:
    """Whole records by id, each with the number of the change that it is up to.

    Example:
        >>> later = Later()
        >>> later.put(7, np.array([3, 5]), np.full((2, 8), 9, np.uint32))
        >>> words = np.zeros((3, 8), np.uint32)
        >>> later.lay_over(np.array([4, 5, 3]), words)
        >>> words[:, 0].tolist()
        [0, 9, 9]
        >>> later.drop(7)
        >>> len(later)
        0
    """

    def __init__(self) -> None:
        self._ids: Ids = np.empty(0, np.int64)  # ascending
        self._words: Words = np.empty((0, 8), np.uint32)
        self._numbers: NDArray[np.int64] = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._ids)

    def lay_over(self, ids: Ids, words: Words) -> None:
        """Replace the records that are newer here, in place."""
        if not len(self._ids):
            return
        at = np.searchsorted(self._ids, ids).clip(max=len(self._ids) - 1)
        newer = self._ids[at] == ids
        words[newer] = self._words[at[newer]]

    def put(self, number: int, ids: Ids, words: Words) -> None:
        """The records of these ids (distinct) as they are after change ``number``."""
        stay = ~np.isin(self._ids, ids)
        all_ids = np.concatenate([self._ids[stay], ids])
        order = np.argsort(all_ids)
        self._ids = all_ids[order]
        self._words = np.concatenate([self._words[stay], words])[order]
        self._numbers = np.concatenate([self._numbers[stay], np.full(len(ids), number)])[order]

    def drop(self, number: int) -> None:
        """The files have everything up to this change."""
        stay = self._numbers > number
        if not stay.all():
            self._ids, self._words, self._numbers = self._ids[stay], self._words[stay], self._numbers[stay]


def change_words(words: Words, places: NDArray[np.int64], change: Change) -> None:
    """Write a change into the records at these places, in place; places that come again count in order.

    Args:
        words: each of them is at one of the places at least.
        places: (n,), one for each value of the change.
        change: what to write.
    """
    if len(places) == len(words):
        apply(words, change.pick(np.argsort(places)))
        return
    for part in rounds(places):
        words[places[part]] = _changed(words[places[part]], change.pick(part))


def _changed(words: Words, change: Change) -> Words:
    apply(words, change)
    return words
