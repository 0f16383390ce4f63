"""What the charts of a page draw: plain numbers, rounded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weighted_stream.report.course import LOSS_QUANTILES, WEIGHT_QUANTILES
from weighted_stream.report.run import Run
from weighted_stream.report.shown import number, numbers, visible

Array = NDArray[np.float64]

LINES = 8
"""Lines of a chart over time, at most."""

BARS = 40
"""Rows of the table beside it, at most."""

POINTS = 1500
NAME = 80
ENOUGH = 20
"""Visits that a shard needs to be called the highest or lowest."""


def charts(run: Run) -> dict[str, Any]:
    """Everything that is drawn of a run."""
    return {"steps": _steps(run), "groups": _groups(run), "shards": _shards(run), "scatter": _scatter(run)}


def _steps(run: Run) -> dict[str, Any] | None:
    course = run.course
    if course is None:
        return None
    mean, weighted = course.loss_means()
    return {
        "begins": course.intervals.begins(),
        "last": course.intervals.last,
        "shares": WEIGHT_QUANTILES,
        "weights": [numbers(line) for line in course.weight_quantiles().T],
        "ess": numbers(course.ess_over_time()),
        "loss": numbers(mean),
        "weighted": numbers(weighted),
        "loss_shares": LOSS_QUANTILES,
        "losses": [numbers(line) for line in course.loss_quantiles().T],
        "tenths": [numbers(line) for line in course.tenths().T],
    }


class Parts:
    """The weight of the parts of a run: of its groups, or of its shards.

    Attributes:
        names: of them.
        samples: of each in the store.
        visits, weight: of each, as far as the journal goes: how many weights there are, and their sum; without one the
            visited samples, and their last weights.
        known: whether there is any weight at all.
    """

    def __init__(self, names: Sequence[str], counts: Array, weight: Array | None, visits: Array | None) -> None:
        self.names = names
        self.samples = counts[0, :-1]
        self.visits = counts[1, :-1] if visits is None else visits[:-1]
        self.weight = counts[3, :-1] if weight is None else weight[:-1]
        self.known = len(names) > 0 and float(self.weight.sum()) > 0

    def mean(self) -> Array:
        """Mean weight of each over the mean weight of all of them; NaN where it has no visits: (n,)."""
        all_ = self.weight.sum() / self.visits.sum()
        blank = np.full(len(self.weight), np.nan)
        found: Array = np.divide(self.weight, self.visits * all_, out=blank, where=self.visits > 0)
        return found

    def shares(self) -> tuple[Array, Array]:
        """Share of the visits and of the weight of each, (n,) each."""
        return self.visits / self.visits.sum(), self.weight / self.weight.sum()


def group_parts(run: Run) -> Parts:
    """The weight of each group."""
    course = run.course
    weighed = course is not None and course.groups[0].any()
    sums = course.groups.sum(axis=1) if course is not None and weighed else None
    visits = None if sums is None else sums[1]
    return Parts(run.groups, run.census.groups, None if sums is None else sums[0], visits)


def shard_parts(run: Run) -> Parts:
    """The weight of each shard."""
    course = run.course
    weighed = course is not None and course.shards[0].any()
    if course is None or not weighed:
        return Parts(run.places.names, run.census.shards, None, None)
    return Parts(run.places.names, run.census.shards, course.shards[0], course.shards[1])


def _groups(run: Run) -> dict[str, Any] | None:
    parts = group_parts(run)
    if not parts.known:
        return None
    order = np.argsort(-parts.weight, kind="stable")
    course = run.course
    over_time = None if course is None or not course.groups[0].any() else (course.groups[0], course.groups[1])
    return _parts(parts, order, order[:LINES], over_time)


def _shards(run: Run) -> dict[str, Any] | None:
    parts = shard_parts(run)
    if not parts.known:
        return None
    mean = np.where(parts.visits >= ENOUGH, parts.mean(), np.nan)
    order = np.argsort(-np.where(np.isnan(mean), -1.0, mean), kind="stable")
    known = order[~np.isnan(mean[order])]
    shown = order if len(order) <= BARS else _ends(known, BARS)
    lines = _ends(known, LINES)
    course = run.course
    over_time = None if course is None or course.shard_weights is None else (course.shard_weights, None)
    return _parts(parts, shown, lines, over_time)


def _ends(ordered: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """The first and the last ones, or all if they are no more than ``most``."""
    return ordered if len(ordered) <= most else np.concatenate([ordered[: most // 2], ordered[-(most // 2) :]])


def _parts(parts: Parts, rows: Any, lines: Any, over_time: tuple[Array, Array | None] | None) -> dict[str, Any]:
    visits, weight = parts.shares()
    rows = rows[:BARS]
    found: dict[str, Any] = {
        "of": len(parts.names),
        "names": [visible(parts.names[row], NAME) for row in rows],
        "samples": [int(parts.samples[row]) for row in rows],
        "visits": numbers(visits[rows]),
        "weight": numbers(weight[rows]),
        "mean": numbers(parts.mean()[rows]),
        "lines": [],
    }
    if over_time is None:
        return found
    weights, counts = over_time
    total = weights.sum(axis=1)
    for row in lines:
        share = np.divide(weights[:, row], total, out=np.full(len(total), np.nan), where=total > 0)
        line: dict[str, Any] = {"name": visible(parts.names[row], NAME), "share": numbers(share)}
        if counts is not None:
            all_ = counts.sum(axis=1)
            of_visits = np.divide(counts[:, row], all_, out=np.full(len(all_), np.nan), where=all_ > 0)
            line["mean"] = numbers(np.divide(share, of_visits, out=np.full(len(all_), np.nan), where=of_visits > 0))
        found["lines"].append(line)
    return found


def _scatter(run: Run) -> dict[str, Any] | None:
    drawn = run.census.drawn
    if not len(drawn.get("id", ())):
        return None
    loss, similarity, weight = (drawn[name].astype(np.float64) for name in ("last_loss", "similarity", "weight"))
    if not np.isfinite(loss).any():
        return None
    few = slice(0, POINTS) if len(loss) <= POINTS else np.linspace(0, len(loss) - 1, POINTS).astype(int)
    return {
        "of": run.census.visited,
        "id": [str(key) for key in drawn["id"][few].tolist()],
        "loss": numbers(loss[few]),
        "similarity": numbers(similarity[few]) if np.isfinite(similarity).any() else None,
        "weight": numbers(weight[few]) if np.isfinite(weight).any() else None,
        "medians": {
            "similarity": medians(similarity, loss),
            "weight": medians(weight, loss),
        },
    }


def medians(x: Array, y: Array, parts: int = 12) -> list[list[float | None]]:
    """The median ``y`` of each of some parts of equal size in the order of ``x``: ``[median x, median y]`` each.

    Example:
        >>> medians(np.arange(4.0), np.array([1.0, 3.0, 10.0, 20.0]), parts=2)
        [[0.5, 2.0], [2.5, 15.0]]
    """
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    if len(np.unique(x[:1000])) < 2:
        return []
    order = np.argsort(x, kind="stable")
    cut = [part for part in np.array_split(order, parts) if len(part)]
    return [[number(float(np.median(x[part]))), number(float(np.median(y[part])))] for part in cut]
