"""Samples that come several times in one call count in order, as by several calls; each record is moved once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from weighted_stream.store.record import Ids

_SHORT = 1 << 15


class Repeats(NamedTuple):
    """Which rows of a call are about the same record.

    Attributes:
        once: (n,) the distinct places of records, those first that come most often.
        rounds: the rows of their first occurrences, of as many as come again, of their second ones, and so on.
        last: (n,) the rows of their last occurrences.
    """

    once: Ids
    rounds: list[Ids]
    last: Ids


def repeats_of(places: Ids, order: Ids | None = None) -> Repeats:
    """The repeats among the places of the records that a call is about.

    Args:
        places: (rows,), at least one.
        order: of the rows, in which those of equal places follow each other, the earlier first; None: found here.

    Example:
        >>> once, rounds, last = repeats_of(np.array([7, 3, 7, 7, 3, 5]))
        >>> once.tolist(), [rows.tolist() for rows in rounds], last.tolist()
        ([7, 3, 5], [[0, 1], [2]], [3, 4, 5])
    """
    if order is None:
        order = np.argsort(places, kind="stable")
    ordered = places[order]
    ends = (ordered[1:] != ordered[:-1]).nonzero()[0]
    edges = np.empty(ends.size + 2, np.int64)
    edges[0], edges[-1] = 0, places.size
    np.add(ends, 1, out=edges[1:-1])
    begins, fewer = edges[:-1], edges[:-1] - edges[1:]
    # NumPy sorts short integers stably in no time.
    often = np.argsort(fewer.astype(np.int16) if places.size < _SHORT else fewer, kind="stable")
    begins, fewer = begins[often], fewer[often]
    sizes = np.searchsorted(fewer, np.arange(-2, fewer[0] - 1, -1), side="right")
    rounds = [order[begins[:size] + n] for n, size in enumerate(sizes.tolist())]
    return Repeats(ordered[begins], rounds, order[begins - fewer - 1])
