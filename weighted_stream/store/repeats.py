"""Ids that come several times in one call count in order: the call is cut into parts of distinct ids."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from weighted_stream.store.record import Ids


def rounds(ids: Ids) -> Iterator[Ids]:
    """Positions of the first occurrence of each id, then of the second ones, and so on.

    Example:
        >>> [part.tolist() for part in rounds(np.array([7, 3, 7, 7, 3]))]
        [[0, 1], [2, 4], [3]]
    """
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    place = np.arange(ids.size)
    begins = np.append(True, ordered[1:] != ordered[:-1])
    occurrence = np.empty(ids.size, np.int64)
    occurrence[order] = place - np.maximum.accumulate(np.where(begins, place, 0))
    by_round = np.argsort(occurrence, kind="stable")
    yield from np.split(by_round, np.cumsum(np.bincount(occurrence))[:-1])
