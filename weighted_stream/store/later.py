"""Later: records that are newer than those in the files, because whoever writes these has not got to them yet."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weighted_stream.store.record import Change, Ids, Words, apply, apply_in_turn
from weighted_stream.store.repeats import repeats_of


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
        self._kept: tuple[Ids, Words, NDArray[np.int64]]  # replaced as a whole: another thread may read
        self.clear()

    def __len__(self) -> int:
        return len(self._kept[0])

    def lay_over(self, ids: Ids, words: Words) -> None:
        """Replace the records that are newer here, in place."""
        kept, newer_words, _ = self._kept
        if not len(kept):
            return
        at = np.searchsorted(kept, ids).clip(max=len(kept) - 1)
        newer = kept[at] == ids
        words[newer] = newer_words[at[newer]]

    def put(self, number: int, ids: Ids, words: Words) -> None:
        """The records of these ids (distinct) as they are after change ``number``."""
        kept, kept_words, numbers = self._kept
        stay = ~np.isin(kept, ids)
        all_ids = np.concatenate([kept[stay], ids])
        order = np.argsort(all_ids)
        all_numbers = np.concatenate([numbers[stay], np.full(len(ids), number)])
        self._kept = all_ids[order], np.concatenate([kept_words[stay], words])[order], all_numbers[order]

    def drop(self, number: int) -> None:
        """The files have everything up to this change."""
        kept, words, numbers = self._kept
        stay = numbers > number
        if not stay.all():
            self._kept = kept[stay], words[stay], numbers[stay]

    def clear(self) -> None:
        """There is nothing newer."""
        self._kept = np.empty(0, np.int64), np.empty((0, 8), np.uint32), np.empty(0, np.int64)


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
    once, rounds, last = repeats_of(places)
    changed = words[once]
    apply_in_turn(changed, change, rounds, last)
    words[once] = changed
