"""Behind: feedback that is written a little later, many batches at once, because one large update costs less.

Nobody sees the difference: whatever is asked of the store is answered after it was written. A process that is killed
loses the calls since the last writing, at most `MOST_CALLS`, as it loses the optimizer steps since its last checkpoint.
"""

from __future__ import annotations

import os
from threading import Lock

import numpy as np

from weighted_stream.sample_ids import MAX_ID
from weighted_stream.store import inputs
from weighted_stream.store.record import Change, Floats, Ids, unusable
from weighted_stream.store.regions import Regions

MOST_SAMPLES = 2048
MOST_CALLS = 32


def put(regions: Regions, ids: Ids, change: Change) -> None:
    """Write a checked change of at least one id; ids may repeat.

    Raises:
        SampleIdError: if an id is negative.
        StoreError: if the disk is full.
    """
    ordered = ids.view(np.uint64).copy()
    ordered.sort()
    highest = int(ordered[-1])
    if highest > MAX_ID:
        raise inputs.negative(ids)
    regions.write(ids, change, highest, distinct=not np.count_nonzero(ordered[1:] == ordered[:-1]))


class Behind:
    """What is still to be written to the files of a store. Threads may share it.

    Args:
        regions: where it will go.
        threads: held while writing.
    """

    def __init__(self, regions: Regions, threads: Lock) -> None:
        self._regions: Regions | None = regions
        self._process = os.getpid()
        self._calls: list[tuple[Ids, Floats, Floats | None, int]] = []
        self._samples = 0
        self._threads = threads

    def add(self, ids: Ids, loss: Floats, weight: Floats | None, step: int) -> None:
        """Keep a checked call, and write all that is kept once it is enough."""
        with self._threads:
            if self._calls and (self._calls[-1][2] is None) != (weight is None):
                self._write()
            self._calls.append((ids, loss, weight, step))
            self._samples += ids.size
            if self._samples >= MOST_SAMPLES or len(self._calls) >= MOST_CALLS:
                self._write()

    def put(self, ids: Ids, change: Change) -> None:
        """Write a change after what was kept."""
        with self._threads:
            self._write()
            if ids.size and self._regions is not None:
                put(self._regions, ids, change)

    def write(self) -> None:
        """Write what is kept; nothing in a process that was forked off."""
        if self._calls and self._process == os.getpid():
            with self._threads:
                self._write()

    def end(self) -> None:
        """Write what is kept and let go of the files."""
        self.write()
        self._regions = None

    def _write(self) -> None:
        if not self._calls or self._regions is None:
            return
        ids, losses, weights, steps = zip(*self._calls, strict=True)
        loss = np.concatenate(losses)
        weight = None if weights[0] is None else np.concatenate(weights)
        step = np.repeat(np.array(steps, np.uint32), [part.size for part in ids])
        if len(loss):
            put(self._regions, np.concatenate(ids), Change(loss, unusable(loss), weight, None, None, step))
        self._calls, self._samples = [], 0  # not if that failed: a full disk may have room again


def check_call(ids: Ids, loss: Floats, weight: Floats | None, step: int) -> tuple[Ids, Floats, Floats | None, int]:
    """A copy of the arguments of one call, checked but for the weights' values.

    Raises:
        SampleIdError, StoreError: for arguments that do not go together.
    """
    ids = inputs.as_ids(ids)
    if ids.size and np.maximum.reduce(ids.view(np.uint64)) > MAX_ID:
        raise inputs.negative(ids)
    loss = inputs.as_floats("loss", loss, ids.size, finite=False)
    weight = None if weight is None else inputs.as_floats("weight", weight, ids.size, finite=False).copy()
    return ids.copy(), loss.copy(), weight, inputs.as_step(step)
