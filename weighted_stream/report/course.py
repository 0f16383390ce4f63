"""The course of a run: how weights and losses moved over its steps, from one pass over its journal."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weighted_stream.report.drawing import Draw
from weighted_stream.report.feed import Block, Floats, Ids
from weighted_stream.report.steps import Intervals

Array = NDArray[np.float64]

DRAWN = 4096
"""Rows of an interval that its quantiles are made of."""

WEIGHT_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LOSS_QUANTILES = (0.1, 0.5, 0.9)

TENTHS = 10

_CELLS = 1 << 20
_SHARD_CELLS = 1 << 23
_FEW = 20


class Course:
    """Adds up feedback. Sums are of all of it, quantiles of at most `DRAWN` rows of each interval.

    Args:
        intervals: of the run.
        groups: how many there are.
        shards: how many there are.

    Attributes:
        groups: (2, intervals, groups + 1): weights and how many there are, the last column for no
            group; those of candidates that were not chosen are among them, as 0.
        shards: (2, shards + 1): the same, the last one for samples of no known shard.
        shard_weights: (intervals, shards + 1); None where that would be too much.
        rows, bad, zero: feedback, losses that did not count, weights that were 0 of samples that were trained on.
        visits, passed: losses that count, candidates that were not chosen.
    """

    def __init__(self, intervals: Intervals, groups: int, shards: int) -> None:
        self.intervals = intervals
        count = intervals.parts
        self.width = -(-(intervals.last - intervals.first + 1) // _CELLS)
        cells = (intervals.last - intervals.first) // self.width + 1
        self._cells = np.zeros((3, cells))
        rng = np.random.default_rng(0)
        self._draws = [Draw(DRAWN, rng) for _ in range(count)]
        self.groups = np.zeros((2, count, groups + 1))
        self.shards = np.zeros((2, shards + 1))
        self.shard_weights = np.zeros((count, shards + 1)) if count * (shards + 1) <= _SHARD_CELLS else None
        self._losses = np.zeros((2, count))
        self._weighted = np.zeros((2, count))
        self.rows = self.bad = self.zero = self.visits = self.passed = 0

    def add(self, block: Block, groups: Ids, shards: Ids) -> None:
        """More feedback, with the numbers of the samples' groups and shards, (n,) each; -1 for none."""
        steps, _, losses, weights, bad, passed = block
        self.rows += len(steps)
        self.bad += bad
        at = self.intervals.of(steps)
        known = ~np.isnan(losses)
        self.visits += int(np.count_nonzero(known))
        self._add_losses(at, losses, weights, known)
        weighed = ~np.isnan(weights)
        if weighed.any():
            self._add_kinds(at[weighed], weights[weighed], groups[weighed], shards[weighed])
        self.passed += int(np.count_nonzero(passed))
        trained = weighed & ~passed
        if trained.any():
            self._add_weights(steps[trained], weights[trained])
        both = known & weighed
        used = both if both.any() else known
        for interval in np.unique(at[used]).tolist():
            mine = used & (at == interval)
            self._draws[interval].add(losses[mine], weights[mine], groups[mine])

    def _add_losses(self, at: Ids, losses: Floats, weights: Floats, known: NDArray[np.bool_]) -> None:
        at, losses, weights = at[known], losses[known].astype(np.float64), weights[known]
        np.add.at(self._losses[0], at, losses)
        np.add.at(self._losses[1], at, 1.0)
        weighed = ~np.isnan(weights)
        np.add.at(self._weighted[0], at[weighed], losses[weighed] * weights[weighed])
        np.add.at(self._weighted[1], at[weighed], weights[weighed].astype(np.float64))

    def _add_kinds(self, at: Ids, weights: Floats, groups: Ids, shards: Ids) -> None:
        wide = weights.astype(np.float64)
        np.add.at(self.groups[0], (at, groups), wide)
        np.add.at(self.groups[1], (at, groups), 1.0)
        np.add.at(self.shards[0], shards, wide)
        np.add.at(self.shards[1], shards, 1.0)
        if self.shard_weights is not None:
            np.add.at(self.shard_weights, (at, shards), wide)

    def _add_weights(self, steps: Ids, weights: Floats) -> None:
        wide = weights.astype(np.float64)
        self.zero += int(np.count_nonzero(wide == 0.0))
        cell = np.clip((steps - self.intervals.first) // self.width, 0, self._cells.shape[1] - 1)
        np.add.at(self._cells[0], cell, 1.0)
        np.add.at(self._cells[1], cell, wide)
        np.add.at(self._cells[2], cell, wide * wide)

    def ess(self) -> Array:
        """Effective sample size of each step as a share of its samples, (m,): of the steps with several weights."""
        shares: Array = effective(*self._cells)[self._cells[0] > 1]
        return shares

    def ess_of_all(self) -> float:
        """That of all weights together, whatever their steps; 0 if there are none."""
        return float(effective(*self._cells.sum(axis=1, keepdims=True))[0])

    def ess_over_time(self) -> Array:
        """Its mean over the steps of each interval, NaN where there are none: (intervals,)."""
        cells = np.flatnonzero(self._cells[0] > 1)
        at = self.intervals.of(self.intervals.first + cells * self.width)
        count = np.bincount(at, minlength=self.intervals.parts)
        total = np.bincount(at, effective(*self._cells)[cells], self.intervals.parts)
        return _ratio(total, count)

    def moments(self) -> tuple[float, float, float]:
        """How many weights of trained samples there were, their mean, and their coefficient of variation."""
        count, total, squares = (float(cells.sum()) for cells in self._cells)
        mean = total / count if count else float("nan")
        return count, mean, np.sqrt(max(squares / count - mean * mean, 0.0)) / mean if mean > 0 else float("nan")

    def weight_quantiles(self, shares: tuple[float, ...] = WEIGHT_QUANTILES) -> Array:
        """Quantiles of the weights, (intervals, shares)."""
        return np.array([_quantiles(self._drawn(interval)[1], shares) for interval in range(self.intervals.parts)])

    def all_weights(self) -> Array:
        """Weights drawn from all intervals alike, as many of each as it has in proportion to the others."""
        seen = np.array([draw.seen for draw in self._draws], np.float64)
        kept = [self._drawn(interval)[1] for interval in range(self.intervals.parts)]
        least = min((len(k) / s for k, s in zip(kept, seen, strict=True) if s and len(k)), default=0.0)
        wanted = [max(1, round(s * least)) for s in seen]
        parts = [k[np.linspace(0, len(k) - 1, n).astype(int)] for k, n in zip(kept, wanted, strict=True) if len(k)]
        return np.concatenate(parts) if parts else np.empty(0)

    def loss_quantiles(self, shares: tuple[float, ...] = LOSS_QUANTILES) -> Array:
        """Quantiles of the losses, (intervals, shares)."""
        return np.array([_quantiles(self._drawn(interval)[0], shares) for interval in range(self.intervals.parts)])

    def loss_means(self) -> tuple[Array, Array]:
        """Mean loss, and mean loss with each sample counted by its weight, (intervals,) each."""
        return _ratio(*self._losses), _ratio(*self._weighted)

    def tenths(self) -> Array:
        """Mean loss of each tenth of the samples, those of the lowest weights first: (intervals, 10)."""
        return np.array([loss_by_tenth(*self._drawn(interval)) for interval in range(self.intervals.parts)])

    def group_medians(self) -> Array:
        """Median loss of each group in each interval, that of all where few are known: (intervals, groups + 1)."""
        found = np.tile(self.loss_quantiles((0.5,)), self.groups.shape[2])
        for interval, draw in enumerate(self._draws):
            columns = draw.rows()
            if not columns:
                continue
            order = np.argsort(columns[2], kind="stable")
            kinds, begins = np.unique(columns[2][order], return_index=True)
            for kind, losses in zip(kinds.tolist(), np.split(columns[0][order], begins[1:]), strict=True):
                if len(losses) >= _FEW:
                    found[interval, kind] = np.median(losses.astype(np.float64))
        return found

    @property
    def drawn(self) -> bool:
        """Whether the quantiles of any interval are those of rows drawn at random."""
        return not all(draw.all for draw in self._draws)

    def _drawn(self, interval: int) -> tuple[Array, Array]:
        columns = self._draws[interval].rows()
        if not columns:
            return np.empty(0), np.empty(0)
        losses, weights = (column.astype(np.float64) for column in columns[:2])
        return losses, weights[~np.isnan(weights)] if np.isnan(weights).any() else weights


def effective(count: Array, total: Array, squares: Array) -> Array:
    """Effective sample size as a share of the samples: (Σw)² / (n Σw²); 0 where all weights are 0.

    Example:
        >>> effective(np.array([4.0]), np.array([2.0]), np.array([2.0])).tolist()
        [0.5]
    """
    shares: Array = np.divide(total * total, count * squares, out=np.zeros(len(count)), where=squares > 0)
    return shares


def loss_by_tenth(losses: Array, weights: Array) -> Array:
    """The mean loss of each tenth of some samples, in the order of their weights: (10,).

    Samples of one weight are alike: what they share of a tenth has their mean loss. NaN if all weights are equal, or
    there are fewer than ten samples.

    Example:
        >>> loss_by_tenth(np.arange(20.0), np.arange(20.0))[[0, 9]].tolist()
        [0.5, 18.5]
        >>> loss_by_tenth(np.arange(20.0), np.repeat([1.0, 2.0], 10))[[0, 9]].tolist()
        [4.5, 14.5]
    """
    if len(losses) < TENTHS or len(losses) != len(weights):
        return np.full(TENTHS, np.nan)
    values, which = np.unique(weights, return_inverse=True)
    if len(values) < 2:
        return np.full(TENTHS, np.nan)
    alike = np.bincount(which, losses) / np.bincount(which)
    ordered = alike[np.sort(which)]
    return np.array([part.mean() for part in np.array_split(ordered, TENTHS)])


def _ratio(total: Any, count: Any) -> Array:
    found: Array = np.divide(total, count, out=np.full(np.shape(total), np.nan), where=np.asarray(count) > 0)
    return found


def _quantiles(values: Array, shares: tuple[float, ...]) -> Array:
    return np.asarray(np.quantile(values, shares), np.float64) if len(values) else np.full(len(shares), np.nan)
