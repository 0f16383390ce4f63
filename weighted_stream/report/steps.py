"""Steps of a run, in intervals of equal length: what a chart has room for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

INTERVALS = 60
"""Intervals of a run, at most."""

ROWS = 200
"""Samples that an interval should have at least: twenty for each tenth of the weights."""


class Intervals(NamedTuple):
    """The steps from ``first`` to ``last``, cut into ``parts`` intervals.

    Example:
        >>> intervals = Intervals.over(10, 19, rows=600)
        >>> intervals.parts, intervals.of(np.array([10, 13, 19])).tolist(), intervals.begins()
        (3, [0, 0, 2], [10, 14, 17])
    """

    first: int
    last: int
    parts: int

    @classmethod
    def over(cls, first: int, last: int, rows: int, most: int = INTERVALS) -> Intervals:
        """Intervals for so many rows of feedback in these steps."""
        return cls(first, last, max(1, min(most, last - first + 1, rows // ROWS)))

    def of(self, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """The interval of each step, (n,); steps outside count to the nearest one."""
        found = (steps - self.first) * self.parts // (self.last - self.first + 1)
        inside: NDArray[np.int64] = np.clip(found, 0, self.parts - 1)
        return inside

    def begins(self) -> list[int]:
        """The first step of each interval."""
        length = self.last - self.first + 1
        return [self.first + -(-interval * length // self.parts) for interval in range(self.parts)]
