"""The latest batches that a loader handed over, found again by the ids of their samples."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import MutableMapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weighted_stream.selection import cut

KEPT = 64
"""So many of the latest batches are kept at most: frameworks read ahead, gradient accumulation reads all its parts."""


class HandedOver:
    """Keeps batches for a strategy that looks at them, where ids travel in the batch and its `Weight` is made later.

    A batch is forgotten once all of it was asked for, or after `KEPT` others.

    Example:
        >>> latest = HandedOver()
        >>> latest.add(np.array([4, 2, 9]), {"x": [40, 20, 90]})
        >>> latest.find(np.array([9, 4]))
        {'x': [90, 40]}
        >>> latest.find(np.array([4, 2, 9])), latest.find(np.array([4, 2, 9]))
        ({'x': [40, 20, 90]}, None)
    """

    def __init__(self) -> None:
        self._latest: deque[tuple[NDArray[np.int64], Any]] = deque(maxlen=KEPT)

    def add(self, ids: NDArray[np.int64], batch: Any) -> None:
        """Keep the batch of these samples, (B,) int64."""
        self._latest.append((ids, batch))

    def find(self, ids: NDArray[np.int64]) -> Any:
        """The latest batch of these samples, or what of it these are; None if it is not known (any more).

        Raises:
            StrategyError: for a part of a batch that cannot be cut.
        """
        for at in range(len(self._latest) - 1, -1, -1):
            known, batch = self._latest[at]
            if np.array_equal(known, ids):
                del self._latest[at]
                return batch
            if len(ids) and np.isin(ids, known).all():
                order = np.argsort(known, kind="stable")
                return cut(batch, order[np.searchsorted(known, ids, sorter=order)], len(known))
        return None


def shallow(batch: Any) -> Any:
    """A batch whose outermost dict or list is a copy: a training loop may take things out of its own."""
    return copy.copy(batch) if isinstance(batch, (MutableMapping, list)) else batch
