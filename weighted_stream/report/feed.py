"""The journal of a store as a report reads it: feedback that belongs to a step, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from weighted_stream.errors import StoreError
from weighted_stream.store import WeightStore
from weighted_stream.store.journal_reading import read_lines
from weighted_stream.store.place import JOURNAL
from weighted_stream.store.record import LARGEST_LOSS

Floats: TypeAlias = NDArray[np.float32]
Ids: TypeAlias = NDArray[np.int64]


class Block(NamedTuple):
    """Feedback of some samples, in the order in which it came; ids may repeat.

    Attributes:
        steps: (n,) int64.
        ids: (n,) int64.
        losses: (n,) float32, NaN where there is none, or none that counts.
        weights: (n,) float32, NaN where there is none.
        bad: how many losses were given and did not count.
    """

    steps: Ids
    ids: Ids
    losses: Floats
    weights: Floats
    bad: int


class Feed:
    """The feedback in the journal of a store, as often as it is wanted.

    Args:
        store: with a path.

    Attributes:
        first, last: steps that there is feedback of; -1 if there is none.
        rows: how much there is, at most.
        trouble: why not all of it could be read; None: it could.
    """

    def __init__(self, store: WeightStore) -> None:
        self._store = store
        self.first = self.last = -1
        self.rows = 0
        self.trouble: str | None = None
        assert store.path is not None
        try:
            for _, line in read_lines(store.path / JOURNAL):
                if line.has("step") and (line.has("loss") or line.has("weight")):
                    self.first = line.first_step if self.first < 0 else min(self.first, line.first_step)
                    self.last = max(self.last, line.last_step)
                    self.rows += line.rows
        except StoreError as error:
            self.trouble = f"{error.problem} {error.found}".strip()

    def __bool__(self) -> bool:
        return self.first >= 0

    def __iter__(self) -> Iterator[Block]:
        if not self:
            return
        try:
            for batch in self._store.history():
                block = _block(batch)
                if block is not None:
                    yield block
        except StoreError as error:
            self.trouble = f"{error.problem} {error.found}".strip()


def _block(batch: Any) -> Block | None:
    steps, ids, loss, weight = (batch.column(place) for place in range(4))
    if steps.null_count == len(steps) or (loss.null_count == len(loss) and weight.null_count == len(weight)):
        return None
    losses = loss.to_numpy(zero_copy_only=False)
    bad = 0
    if loss.null_count == 0:
        good = np.abs(losses) <= LARGEST_LOSS
        bad = len(losses) - int(np.count_nonzero(good))
        losses = np.where(good, losses, np.float32("nan")) if bad else losses
    weights = weight.to_numpy(zero_copy_only=False)
    return Block(steps.to_numpy().astype(np.int64), ids.to_numpy(), losses, weights, bad)
