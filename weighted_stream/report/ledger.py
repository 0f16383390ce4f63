"""The ledger: what the journal says of single samples, from one pass over it when the course is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weighted_stream.report.course import Course
from weighted_stream.report.feed import Block, Ids

Array = NDArray[np.float64]


class Account(NamedTuple):
    """What is known of some samples, arrays of (n,); NaN where nothing is.

    Attributes:
        ids: ascending.
        weight: the mean of its weights.
        weights: how many it had.
        visits: how many losses that count.
        first, last: its first and its last loss.
        first_alike, last_alike: the median loss of its group (of all, if it has none) when those came.
        high: at how many visits its loss was among the highest tenth of that time, and above the median.
        above: by how much its losses were above the median of their time, on average.
    """

    ids: Ids
    weight: Array
    weights: Ids
    visits: Ids
    first: Array
    last: Array
    first_alike: Array
    last_alike: Array
    high: Ids
    above: Array


class Ledger:
    """Keeps an account of some samples.

    Args:
        ids: (n,) of them, ascending and distinct.
        course: of the same journal, which has all of it.

    Example:
        >>> from weighted_stream.report.steps import Intervals
        >>> losses, weights, passed = np.float32([3, 1]), np.float32([1, 2]), np.array([False, False])
        >>> block = Block(np.array([0, 1]), np.array([7, 7]), losses, weights, 0, passed)
        >>> course = Course(Intervals.over(0, 1, 2), groups=0, shards=0)
        >>> course.add(block, np.array([-1, -1]), np.array([-1, -1]))
        >>> ledger = Ledger(np.array([7, 9]), course)
        >>> ledger.add(block, np.array([-1, -1]))
        >>> account = ledger.account()
        >>> account.weight.tolist(), account.first.tolist(), account.last.tolist()
        ([1.5, nan], [3.0, nan], [1.0, nan])
    """

    def __init__(self, ids: Ids, course: Course) -> None:
        self._ids, self._intervals = ids, course.intervals
        quantiles = course.loss_quantiles((0.5, 0.9))
        self._median, self._high_from = quantiles[:, 0], quantiles[:, 1]
        self._alike = course.group_medians()
        count = len(ids)
        self._weight, self._above = np.zeros((2, count))
        self._weights, self._visits, self._high = np.zeros((3, count), np.int32)
        self._first, self._last, self._first_alike, self._last_alike = np.full((4, count), np.nan, np.float32)

    def add(self, block: Block, groups: Ids) -> None:
        """More feedback, with the numbers of the samples' groups, (n,); -1 for none."""
        if not len(self._ids):
            return
        place = np.searchsorted(self._ids, block.ids).clip(max=len(self._ids) - 1)
        mine = self._ids[place] == block.ids
        weighed = mine & ~np.isnan(block.weights)
        np.add.at(self._weight, place[weighed], block.weights[weighed].astype(np.float64))
        np.add.at(self._weights, place[weighed], 1)
        seen = mine & ~np.isnan(block.losses)
        place, losses, groups = place[seen], block.losses[seen], groups[seen]
        at = self._intervals.of(block.steps[seen])
        alike = self._alike[at, groups]
        # Of several assignments to one place the last one stays.
        new = np.flatnonzero(self._visits[place] == 0)[::-1]
        self._first[place[new]], self._first_alike[place[new]] = losses[new], alike[new]
        self._last[place], self._last_alike[place] = losses, alike
        np.add.at(self._visits, place, 1)
        above = losses - self._median[at]
        # Where most losses are the same, 0 as a rule, they are the highest tenth and the median, too.
        np.add.at(self._high, place, ((losses >= self._high_from[at]) & (above > 0)).astype(np.int32))
        np.add.at(self._above, place, above)

    def account(self) -> Account:
        """What is known."""
        first, last, first_alike, last_alike = (
            part.astype(np.float64) for part in (self._first, self._last, self._first_alike, self._last_alike)
        )
        return Account(
            ids=self._ids,
            weight=_mean(self._weight, self._weights),
            weights=self._weights.astype(np.int64),
            visits=self._visits.astype(np.int64),
            first=first,
            last=last,
            first_alike=first_alike,
            last_alike=last_alike,
            high=self._high.astype(np.int64),
            above=_mean(self._above, self._visits),
        )


def _mean(total: Array, count: NDArray[np.int32]) -> Array:
    found: Array = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return found
