"""Behind: feedback that is written a little later, many batches at once, because one large update costs less.

Nobody sees the difference: whatever is asked of the store is answered after it was written. A process that is killed
loses the calls since the last writing, at most `MOST_CALLS`, as it loses the optimizer steps since its last checkpoint.
"""

from __future__ import annotations

import os
from threading import Lock
from typing import Any

import numpy as np

from weighted_stream.errors import StoreError
from weighted_stream.store import inputs
from weighted_stream.store.journal_entry import MOST_ROWS
from weighted_stream.store.record import Change, Floats, Ids, unusable
from weighted_stream.store.regions import Regions

MOST_SAMPLES = 2048
MOST_CALLS = 32

MANY = 1024
"""From so many ids on their order costs as little as sorting them, and it says where they come again."""


def put(regions: Regions, ids: Ids, change: Change) -> None:
    """Write a checked change of at least one id; ids may repeat.

    Raises:
        SampleIdError: if an id is negative.
        StoreError: if the disk is full.
    """
    order = None
    if ids.size < MANY:
        ordered = ids.copy()
        ordered.sort()
    else:
        order = np.argsort(ids, kind="stable")
        ordered = ids[order]
    if ordered.item(0) < 0:
        raise inputs.negative(ids)
    highest = ordered.item(-1)
    distinct = not np.count_nonzero(ordered[1:] == ordered[:-1])
    if ids.size <= MOST_ROWS or regions.journal is None:
        regions.write(ids, change, highest, distinct=distinct, order=order)
        return
    known = regions.known
    try:
        for first in range(0, ids.size, MOST_ROWS):
            part = np.arange(first, min(first + MOST_ROWS, ids.size))
            regions.write(ids[part], change.pick(part), highest, distinct=distinct)
    except StoreError:
        regions.journal.take_back(known)
        raise


class Behind:
    """What is still to be written to the files of a store. Threads may share it.

    Args:
        regions: where it will go.
        threads: held while writing.
    """

    def __init__(self, regions: Regions, threads: Lock) -> None:
        self._regions: Regions | None = regions
        self._process = os.getpid()
        self._threads = threads
        self._ids = np.empty(MOST_SAMPLES, np.int64)
        self._loss, self._weight = np.empty((2, MOST_SAMPLES), np.float32)
        self._step = np.empty(MOST_SAMPLES, np.uint32)
        self._weighed = True
        self._samples = self._calls = 0

    def add(self, ids: Ids, loss: Floats, weight: Floats | None, step: int) -> None:
        """Keep a checked call (copied), and write all that is kept once it is enough."""
        count = ids.size
        with self._threads:
            if self._samples + count > MOST_SAMPLES or self._weighed is not (weight is not None):
                self._write()
            if count > MOST_SAMPLES:
                self._put(ids, Change(loss, unusable(loss), weight, None, None, step))
                return
            start, end = self._samples, self._samples + count
            self._ids[start:end] = ids
            self._loss[start:end] = loss
            if weight is not None:
                self._weight[start:end] = weight
            self._weighed = weight is not None
            self._step[start:end] = step
            calls = self._calls
            self._samples, self._calls = end, calls + 1
            if end == MOST_SAMPLES or self._calls == MOST_CALLS:
                try:
                    self._write()
                except BaseException:
                    if self._samples:  # not written: this call has not been, it may be tried again
                        self._samples, self._calls = start, calls
                    raise

    def put(self, ids: Ids, change: Change) -> None:
        """Write a change after what was kept."""
        with self._threads:
            if self._samples:
                self._write()
            if ids.size:
                self._put(ids, change)

    def write(self) -> None:
        """Write what is kept; nothing in a process that was forked off."""
        if self._samples and self._process == os.getpid():
            with self._threads:
                self._write()

    def forget(self) -> None:
        """Drop what is kept: the caller, who holds the lock, goes back to before it."""
        self._samples = self._calls = 0

    def end(self) -> None:
        """Write what is kept and let go of the files."""
        self.write()
        self._regions = None

    def _write(self) -> None:
        if not self._samples or self._regions is None:
            self._samples = self._calls = 0
            return
        kept, known = slice(self._samples), self._regions.known
        loss, weight = self._loss[kept], self._weight[kept] if self._weighed else None
        try:
            self._put(self._ids[kept], Change(loss, unusable(loss), weight, None, None, self._step[kept]))
        except BaseException:
            if self._regions.known != known:
                self._samples = self._calls = 0  # in the journal: made when the records are mended
            raise  # otherwise it is kept: a full disk may have room again
        self._samples = self._calls = 0

    def _put(self, ids: Ids, change: Change) -> None:
        if self._regions is not None:
            put(self._regions, ids, change)


def check_call(ids: Any, loss: Any, weight: Any, step: int) -> tuple[Ids, Floats, Floats | None, int]:
    """The arguments of one call, checked but for the weights' values.

    Raises:
        SampleIdError, StoreError: for arguments that do not go together.
    """
    ids = inputs.as_ids(ids)
    if ids.size and np.minimum.reduce(ids) < 0:
        raise inputs.negative(ids)
    loss = inputs.as_floats("loss", loss, ids.size, finite=False)
    weight = None if weight is None else inputs.as_floats("weight", weight, ids.size, finite=False)
    return ids, loss, weight, inputs.as_step(step)
