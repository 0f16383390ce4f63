"""Beginnings: where one run ends in a journal and the next begins, as the steps tell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Beginnings:
    """Goes through the steps of losses, in the order in which these were written.

    A run begins where a step is smaller by two or more than one before it, and not above the first of its run: parts of
    a batch may come later than the batch after it, but a run that knows nothing of another counts from the start again.

    Attributes:
        first, highest: steps of the latest run; -1 if nothing came.
        falls: of each run after the first, the highest step of the one before it, and its own first one.

    Example:
        >>> beginnings = Beginnings()
        >>> beginnings.see(np.array([0, 0, 1, 3, 2, 3])), beginnings.see(np.array([4, 0, 0, 1])), beginnings.falls
        (None, 1, [(4, 0)])
    """

    def __init__(self) -> None:
        self.first = self.highest = -1
        self.falls: list[tuple[int, int]] = []

    def see(self, steps: NDArray[np.int64]) -> int | None:
        """More steps, (n,).

        Returns:
            The place of the first one of the latest run; None if no run begins among them after another.
        """
        begin = None
        changes = np.flatnonzero(np.diff(steps, prepend=-1))
        for place, step in zip(changes.tolist(), steps[changes].tolist(), strict=True):
            if self.first < 0:
                self.first = self.highest = step
            elif step <= self.first and self.highest > step + 1:
                self.falls.append((self.highest, step))
                self.first = self.highest = step
                begin = place
            else:
                self.highest = max(self.highest, step)
        return begin
