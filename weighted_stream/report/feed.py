"""The journal of a store as a report reads it: feedback that belongs to a step, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from weighted_stream.errors import StoreError
from weighted_stream.figures.beginnings import Beginnings
from weighted_stream.store import WeightStore
from weighted_stream.store.journal_entry import Entry
from weighted_stream.store.journal_index import Line
from weighted_stream.store.journal_reading import read_entries, read_lines
from weighted_stream.store.journal_segment import Segment
from weighted_stream.store.place import JOURNAL

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
        passed: (n,) bool, candidates that were not chosen: weight 0, and no loss was given, not even a bad one.
    """

    steps: Ids
    ids: Ids
    losses: Floats
    weights: Floats
    bad: int
    passed: NDArray[np.bool_]


class Feed:
    """The feedback in the journal of a store, as often as it is wanted: that of the latest run, if there are several.

    Args:
        store: with a path.

    Attributes:
        first, last: steps that there is feedback of; -1 if there is none.
        rows: about how much there is.
        falls: where a run begins that counts its steps from the start again, see `Beginnings`.
        trouble: why not all of it could be read; None: it could.
    """

    def __init__(self, store: WeightStore) -> None:
        self.first = self.last = -1
        self.rows = 0
        self.trouble: str | None = None
        assert store.path is not None
        self._folder = store.path / JOURNAL
        self._begin = (0, 0)
        beginnings, after = Beginnings(), 0
        self.falls = beginnings.falls
        try:
            for segment, line in read_lines(self._folder):
                if not line.has("step") or not (line.has("loss") or line.has("weight")):
                    continue
                begin = _begins(segment, line, beginnings) if line.has("loss") else None
                if begin is None:
                    self.first = line.first_step if self.first < 0 else min(self.first, line.first_step)
                    self.last = max(self.last, line.last_step)
                    self.rows += line.rows
                else:
                    # What was passed over in the first step is written before its losses.
                    self._begin = (line.position, begin) if begin else (after, 0)
                    self.first, self.last = beginnings.first, beginnings.highest
                    self.rows = line.rows - begin
                if line.has("loss"):
                    after = line.position + 1
        except StoreError as error:
            self.trouble = f"{error.problem} {error.found}".strip()

    def __bool__(self) -> bool:
        return self.first >= 0

    def __iter__(self) -> Iterator[Block]:
        if not self:
            return
        position, row = self._begin
        try:
            for entry in read_entries(self._folder, position):
                block = _block(entry, row if entry.line.position == position else 0)
                if block is not None:
                    yield block
        except StoreError as error:
            self.trouble = f"{error.problem} {error.found}".strip()


def _begins(segment: Segment, line: Line, beginnings: Beginnings) -> int | None:
    """The row of an entry that another run begins at; the entry itself is read only if the index cannot tell."""
    if line.first_step < line.last_step and (line.first_step <= beginnings.first or beginnings.first < 0):
        entry = segment.read(line)
        if entry is not None and isinstance(entry.change.step, np.ndarray):  # of damage the next reading tells
            return beginnings.see(entry.change.step.astype(np.int64))
    return beginnings.see(np.array([line.first_step, line.last_step]))


def _block(entry: Entry, begin: int) -> Block | None:
    """An entry from a row on; None if it says nothing of a step."""
    loss, bad, weight, *_, step = entry.change
    if not isinstance(step, np.ndarray) or (loss is None and weight is None):
        return None
    blank = np.full(len(entry.ids), np.nan, np.float32)
    losses = blank if loss is None else loss if bad is None else np.where(bad, np.float32("nan"), loss)
    weights = blank if weight is None else weight
    passed = weights == 0 if loss is None else np.zeros(len(losses), np.bool_)
    count = 0 if bad is None else int(np.count_nonzero(bad[begin:]))
    steps = step.astype(np.int64)
    return Block(steps[begin:], entry.ids[begin:], losses[begin:], weights[begin:], count, passed[begin:])
