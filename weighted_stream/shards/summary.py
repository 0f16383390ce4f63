"""What any number of values look like, in bounded memory: count, mean, quantiles, histogram, highest and lowest."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"min": 0.0, "q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}
BINS = 12
SAMPLE = 1 << 20


class Summary:
    """The distribution of values that come in batches; NaN is counted as unknown.

    Quantiles and histogram are exact up to 1,048,576 values, and from there those of so many drawn at random.

    Args:
        sample: how many values are kept.

    Example:
        >>> summary = Summary()
        >>> summary.add(np.array([1.0, 2.0, 3.0, np.nan]))
        >>> summary.count, summary.unknown, summary.mean, summary.figures()["q50"]
        (3, 1, 2.0, 2.0)
    """

    def __init__(self, sample: int = SAMPLE) -> None:
        self.count = self.unknown = 0
        self.mean = 0.0
        self._squares, self._least, self._most = 0.0, math.inf, -math.inf
        self._sample, self._rng = sample, np.random.default_rng(0)
        self._kept: NDArray[np.float64] = np.empty(0)
        self._rank: NDArray[np.float64] = np.empty(0)

    def add(self, values: NDArray[Any]) -> None:
        """More values: (n,) numbers."""
        known = values[~np.isnan(values)].astype(np.float64)
        self.unknown += len(values) - len(known)
        if not len(known):
            return
        count, delta = self.count + len(known), float(known.mean()) - self.mean
        self._squares += float(((known - known.mean()) ** 2).sum()) + delta**2 * self.count * len(known) / count
        self.mean += delta * len(known) / count
        self.count = count
        self._least, self._most = min(self._least, float(known.min())), max(self._most, float(known.max()))
        # Each value draws a rank; those of lowest rank are a uniform sample, however many come.
        self._kept = np.concatenate([self._kept, known])
        self._rank = np.concatenate([self._rank, self._rng.random(len(known))])
        if len(self._kept) > self._sample:
            lowest = np.argpartition(self._rank, self._sample)[: self._sample]
            self._kept, self._rank = self._kept[lowest], self._rank[lowest]

    @property
    def exact(self) -> bool:
        """Whether quantiles and histogram are of all values."""
        return len(self._kept) == self.count

    def figures(self) -> dict[str, float]:
        """Mean, standard deviation, minimum, quantiles, maximum; empty without values."""
        if not self.count:
            return {}
        found = np.quantile(self._kept, list(QUANTILES.values())).tolist()
        figures = {"mean": self.mean, "std": math.sqrt(self._squares / self.count)}
        return {**figures, **dict(zip(QUANTILES, found, strict=True)), "min": self._least, "max": self._most}

    def histogram(self) -> list[tuple[float, float, float]]:
        """``(from, to, share)`` of 12 bins of equal width; empty without values."""
        if not self.count:
            return []
        counts, edges = np.histogram(self._kept, BINS, (self._least, self._most))
        shares = (counts / len(self._kept)).tolist()
        return list(zip(edges[:-1].tolist(), edges[1:].tolist(), shares, strict=True))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        figures = {"count": self.count, "unknown": self.unknown, **self.figures()}
        return {**figures, "exact": self.exact, "histogram": self.histogram()}


class Place(NamedTuple):
    """A value, whose it is, and where the sample is."""

    value: float
    id: int
    shard: str | None


class Extremes:
    """The samples with the highest and lowest values among those that come in batches.

    Args:
        most: how many of each.

    Example:
        >>> extremes = Extremes(1)
        >>> extremes.add(np.array([7, 8, 9]), np.array([0.5, 2.0, -1.0]))
        >>> extremes.highest(), extremes.lowest()
        ([Place(value=2.0, id=8, shard=None)], [Place(value=-1.0, id=9, shard=None)])
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._high: list[Place] = []
        self._low: list[Place] = []

    def add(self, ids: NDArray[np.int64], values: NDArray[Any], shard: str | None = None) -> None:
        """More samples: (n,) ids and (n,) values, NaN for none; all of one shard, if one is named."""
        known = ~np.isnan(values)
        ids, values = ids[known], values[known]
        if not self._most or not len(ids):
            return
        order = np.argsort(values, kind="stable")
        for kept, ends, sign in ((self._high, order[-self._most :], -1), (self._low, order[: self._most], 1)):
            kept += [Place(float(values[i]), int(ids[i]), shard) for i in ends]
            kept.sort(key=lambda place: (sign * place.value, place.id))
            del kept[self._most :]

    def highest(self) -> list[Place]:
        """The highest, the highest of all first."""
        return list(self._high)

    def lowest(self) -> list[Place]:
        """The lowest, the lowest of all first."""
        return list(self._low)
