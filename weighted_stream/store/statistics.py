"""What a store says about a run, cheap enough to be logged every step."""

from __future__ import annotations

import math

import numpy as np

from weighted_stream.store.record import Floats, Tally

_QUANTILES = {"q05": 0.05, "q50": 0.5, "q95": 0.95}


def summary(tally: Tally, losses: Floats, weights: Floats) -> dict[str, float]:
    """The figures of `WeightStore.stats`: exact counters, and figures over the windows given.

    Example:
        >>> stats = summary(Tally(2, 3, 0, 2, 0), np.float32([1, 2, 3]), np.float32([1, 1, 0, 0]))
        >>> stats["samples"], stats["ess"], stats["loss_q50"]
        (2.0, 0.5, 2.0)
    """
    stats = {name: float(count) for name, count in tally._asdict().items()}
    weights = weights[~np.isnan(weights)]  # that of a sample nobody weighed
    stats["window"] = float(weights.size)
    stats["ess"], stats["weight_mean"], stats["weight_cv"] = moments(weights)
    stats.update(spread("weight", weights))
    stats["loss_mean"] = float(losses.mean(dtype=np.float64)) if losses.size else math.nan
    stats.update(spread("loss", losses))
    return stats


def moments(weights: Floats) -> tuple[float, float, float]:
    """Effective sample size as a share of the samples, mean, and coefficient of variation (std / mean)."""
    if not weights.size:
        return math.nan, math.nan, math.nan
    wide = weights.astype(np.float64)
    mean, square = float(wide.mean()), float(wide.dot(wide)) / wide.size
    if square == 0.0:
        return 0.0, 0.0, math.nan
    return mean * mean / square, mean, math.sqrt(max(square - mean * mean, 0.0)) / mean if mean else math.inf


def spread(name: str, values: Floats) -> dict[str, float]:
    """Quantiles by nearest rank."""
    if not values.size:
        return {f"{name}_{key}": math.nan for key in _QUANTILES}
    ordered = np.sort(values)
    last = ordered.size - 1
    return {f"{name}_{key}": float(ordered[round(share * last)]) for key, share in _QUANTILES.items()}
