"""Two runs beside each other: weights and losses of the same samples."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weighted_stream.report.charts import POINTS
from weighted_stream.report.findings import Finding
from weighted_stream.report.ledger import Account
from weighted_stream.report.shown import numbers

Array = NDArray[np.float64]
Places = NDArray[np.int64]


class Comparison(NamedTuple):
    """What two accounts of the same ids have in common, and where they differ.

    Attributes:
        weighed: places of the samples that both have a weight of.
        seen: places of the samples that both have a loss of.
        by_weight: places, the widest difference of the weight first.
        by_loss: places, the widest difference of the last loss first.
        weights_agree, losses_agree: rank correlations, NaN where there is nothing to correlate.
    """

    weighed: Places
    seen: Places
    by_weight: Places
    by_loss: Places
    weights_agree: float
    losses_agree: float


def compare(one: Account, other: Account, most: int) -> Comparison:
    """Compare the accounts of two runs.

    Args:
        one, other: of the same ids.
        most: places in ``by_weight`` and ``by_loss``, at most.
    """
    weighed = np.flatnonzero(np.isfinite(one.weight) & np.isfinite(other.weight))
    seen = np.flatnonzero(np.isfinite(one.last) & np.isfinite(other.last))
    return Comparison(
        weighed,
        seen,
        _widest(one.weight, other.weight, weighed, most),
        _widest(one.last, other.last, seen, most),
        rank_correlation(one.weight[weighed], other.weight[weighed]),
        rank_correlation(one.last[seen], other.last[seen]),
    )


def rank_correlation(x: Array, y: Array) -> float:
    """Spearman's rank correlation; NaN if one of the two does not vary.

    Example:
        >>> rank_correlation(np.array([1.0, 2.0, 30.0]), np.array([0.0, 5.0, 6.0]))
        1.0
    """
    if len(x) < 2:
        return float("nan")
    ranks = [_ranks(values) for values in (x, y)]
    one, other = (rank - rank.mean() for rank in ranks)
    size = float(np.sqrt(one.dot(one) * other.dot(other)))
    return round(float(one.dot(other)) / size, 12) if size > 0 else float("nan")


def described(found: Comparison, one: Account, other: Account, names: tuple[str, str], whole: bool) -> list[Finding]:
    """The comparison in words."""
    some = "" if whole else " Among the samples that are looked at one by one."
    if not len(found.seen):
        return [Finding("Do they compare?", "No sample in common", "Are they runs over the same dataset?", "look")]
    a, b = names
    result = []
    if len(found.weighed):
        gap = np.abs(one.weight - other.weight)[found.weighed]
        agree = found.weights_agree
        alike = "Too few to say" if len(found.weighed) < 2 else "The weights of at least one do not vary"
        answer = alike if agree != agree else _word(agree)
        figures = f"Rank correlation of the mean weights {agree:.2f}; " if agree == agree else ""
        result.append(
            Finding(
                "Did they weigh the same samples up?",
                answer,
                f"{figures}half of the samples differ by {np.median(gap):.2f} or more, one in twenty by "
                f"{np.quantile(gap, 0.95):.2f}. {len(found.weighed):,} samples in common.{some}",
            )
        )
    first, second = float(one.last[found.seen].mean()), float(other.last[found.seen].mean())
    lower = float((one.last < other.last)[found.seen].mean())
    if abs(first - second) <= 0.005 * max(abs(first), abs(second)):
        answer = "Neither, to half a percent"
    else:
        answer = f"{a if first < second else b} ({min(first, second):.3g} against {max(first, second):.3g})"
    result.append(
        Finding(
            "Which has the lower loss on the training samples?",
            answer,
            f"Mean of the last loss of {len(found.seen):,} samples in common: {a} {first:.4g}, {b} {second:.4g}; "
            f"{a} is the lower of the two on {lower:.0%} of them. These are losses before a step on the sample, "
            f"at whatever step it came: only held-out text can tell which run is better.{some}",
        )
    )
    return result


def drawn(found: Comparison, one: Account, other: Account) -> dict[str, Any]:
    """Points of a chart of one run's weights and losses against the other's."""
    return {
        kind: {"x": numbers(values[few]), "y": numbers(others[few]), "id": [str(key) for key in one.ids[few].tolist()]}
        for kind, places, values, others in (
            ("weight", found.weighed, one.weight, other.weight),
            ("loss", found.seen, one.last, other.last),
        )
        if len(few := _some(places))
    }


def _some(places: Places) -> Places:
    return places if len(places) <= POINTS else places[np.linspace(0, len(places) - 1, POINTS).astype(int)]


def _word(correlation: float) -> str:
    if correlation > 0.7:
        return "Mostly the same"
    if correlation > 0.3:
        return "In part"
    return "Hardly" if correlation > -0.3 else "Rather the opposite ones"


def _widest(one: Array, other: Array, places: Places, most: int) -> Places:
    gap = np.abs(one - other)[places]
    widest: Places = places[np.argsort(-gap, kind="stable")[:most]]
    return widest


def _ranks(values: Array) -> Array:
    """Ranks, equal ones of equal values."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Array = (ends - (counts - 1) / 2)[which]
    return ranks
