"""Seen: the samples that were weighed since somebody last looked."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from weighted_stream.memory import Memory
from weighted_stream.store.record import Floats, Ids

MOST_SAMPLES = 1 << 16
"""Samples that are kept; of more, the latest."""


@dataclass
class Past:
    """What was known of the first batch of them before it was weighed.

    Attributes:
        ages: (n,) steps since its samples were weighed before, 0 if an earlier run was further on; -1 for those that
            never were.
        unscored: (n,) whether they had no similarity.
    """

    ages: NDArray[np.int64]
    unscored: NDArray[np.bool_]


class Seen:
    """Collects feedback until it is taken. Threads may share it."""

    def __init__(self) -> None:
        self._rows: deque[tuple[Ids, Floats, Floats]] = deque()
        self._samples = 0
        self._past: list[Past] = []
        self._first = self._last = -1
        self._threads = Lock()

    @property
    def last(self) -> int:
        """The step of the feedback seen last; -1: none since it was taken."""
        return self._last

    def meet(self, ids: Ids, step: int, memory: Memory) -> None:
        """See what is known of the first batch: of all of them it would cost more than everything else."""
        if self._first not in (-1, step):
            return
        known = memory.get(ids)
        ages = np.where(known["visits"] > 0, np.maximum(step - known["last_step"], 0), -1)
        with self._threads:
            if self._first != step:
                self._past = []
            self._first = step
            self._past.append(Past(ages, np.isnan(known["similarity"])))

    def see(self, ids: Ids, losses: Floats, weights: Floats, step: int) -> None:
        """Keep them."""
        with self._threads:
            if step < self._last:
                self._forget()  # a state was loaded
            self._last = step
            self._rows.append((ids.copy(), losses.copy(), weights.copy()))
            self._samples += ids.size
            while self._samples > MOST_SAMPLES and len(self._rows) > 1:
                self._samples -= self._rows.popleft()[0].size

    def take(self) -> tuple[Ids, Floats, Floats, Past] | None:
        """Ids, losses and weights (n,), and what was known of the first batch; None if nothing was seen."""
        with self._threads:
            rows, past = list(self._rows), self._past
            self._forget()
        if not rows:
            return None
        ids, losses, weights = (np.concatenate(column) for column in zip(*rows, strict=True))
        return ids, losses, weights, _joined(past)

    def _forget(self) -> None:
        self._rows.clear()
        self._samples, self._past = 0, []
        self._first = self._last = -1


def _joined(parts: list[Past]) -> Past:
    if not parts:
        return Past(np.empty(0, np.int64), np.empty(0, np.bool_))
    return Past(np.concatenate([part.ages for part in parts]), np.concatenate([part.unscored for part in parts]))
