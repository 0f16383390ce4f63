"""Chooser: asks a selecting strategy, hands over what it chose, and knows the latest choices again."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weighted_stream.batch import Batch, Positions
from weighted_stream.feedback import Feedback
from weighted_stream.selection import Candidates, check_choice, cut
from weighted_stream.strategies.selecting import not_chosen

REMEMBERED = 64
"""So many of the latest choices are found again by their ids."""


class Chooser:
    """Chooses for the loaders of one stream, in its main process.

    The chosen have their weights at once; the others are remembered with weight 0 at the same step, and no loss.

    Args:
        feedback: has the strategy and the store.
    """

    def __init__(self, feedback: Feedback) -> None:
        self._feedback = feedback
        self._latest: deque[Batch] = deque(maxlen=REMEMBERED)

    def choose(self, ids: NDArray[np.int64], batch: Any, count: int) -> tuple[Batch, Any]:
        """Choose ``count`` of the candidates.

        Args:
            ids: (n,) int64.
            batch: the n samples, collated.
            count: how many the loader wants.

        Returns:
            The chosen, weighed; and the batch cut to them.

        Raises:
            StrategyError: if the strategy makes no choice, or the batch cannot be cut.
        """
        feedback = self._feedback
        step = feedback.begin_step(ids)
        candidates = Candidates(ids, batch, count, step, feedback.store.get, lambda: feedback.store.groups)
        choice = check_choice(feedback.strategy.choose(candidates), len(ids), feedback.strategy)
        part = batch if len(choice.places) == len(ids) else cut(batch, choice.places, len(ids))
        chosen = Batch(ids[choice.places], choice.weights)
        chosen.step = step
        feedback.pass_over(np.delete(ids, choice.places), step)
        self._latest.append(chosen)
        return chosen, part

    def find(self, ids: NDArray[np.int64]) -> tuple[Batch, Positions]:
        """One of the latest choices, or a part of it, by the ids of its samples.

        Raises:
            StrategyError: if no such batch was chosen lately.
        """
        for batch in reversed(self._latest):
            if np.array_equal(batch.ids, ids):
                return batch, None
            if len(ids) and np.isin(ids, batch.ids).all():
                order = np.argsort(batch.ids, kind="stable")
                return batch, order[np.searchsorted(batch.ids, ids, sorter=order)]
        raise not_chosen(repr(self._feedback.strategy))


def in_proportion(found: int, count: int, candidates: int) -> int:
    """How many to choose of ``found`` candidates, where ``count`` of ``candidates`` is the rule; at least 1.

    Example:
        >>> [in_proportion(found, 4, 40) for found in (40, 25, 3)]
        [4, 2, 1]
    """
    return max(1, round(found * count / candidates))
