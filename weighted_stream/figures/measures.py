"""What losses and weights of some samples say: pure functions on arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weighted_stream.store.record import Floats, Ids
from weighted_stream.store.statistics import moments, spread

DECILES = 10


def weighing(losses: Floats, weights: Floats) -> dict[str, float]:
    """How the weights of some samples spread, and how they go with the losses.

    Args:
        losses: (n,), of which those that are not finite count only as such.
        weights: (n,) finite, 0 or more.

    Returns:
        ``window``: n. ``ess``, ``weight_mean``, ``weight_cv``, ``weight_q05`` …, ``loss_mean``, ``loss_q05`` …: as in
        `WeightStore.stats`. ``loss_weighted``: Σ w·l / Σ w, which is what was trained on. ``loss_decile_1`` to
        ``loss_decile_10``: see `loss_deciles`. ``nonfinite_share``: of losses that are not finite. NaN where there is
        nothing to say.

    Example:
        >>> figures = weighing(np.float32([1, 2, 3, np.nan]), np.float32([0, 1, 1, 0]))
        >>> figures["ess"], figures["loss_mean"], figures["loss_weighted"], figures["nonfinite_share"]
        (0.5, 2.0, 2.5, 0.25)
    """
    count = weights.size
    figures = {"window": float(count)}
    figures["ess"], figures["weight_mean"], figures["weight_cv"] = moments(weights)
    figures |= spread("weight", weights)
    finite = np.isfinite(losses)
    known = int(np.count_nonzero(finite))  # NumPy 2.4 has its own ints there
    if known < count:
        losses, weights = losses[finite], weights[finite]
    wide, total = weights.astype(np.float64), float(weights.sum(dtype=np.float64))
    figures["loss_mean"] = float(losses.mean(dtype=np.float64)) if known else np.nan
    figures |= spread("loss", losses)
    figures["loss_weighted"] = float(wide.dot(losses)) / total if total else np.nan
    figures |= {f"loss_decile_{place}": loss for place, loss in enumerate(loss_deciles(losses, weights), 1)}
    figures["nonfinite_share"] = 1.0 - known / count if count else np.nan
    return figures


def loss_deciles(losses: Floats, weights: Floats) -> list[float]:
    """The mean loss of each tenth of the samples by weight, those that weigh least first; none of fewer than ten.

    Of samples that weigh alike the earlier ones are taken for the lighter ones.

    Args:
        losses: (n,) finite.
        weights: (n,).

    Example:
        >>> loss_deciles(np.arange(20, dtype=np.float32), np.arange(20, dtype=np.float32)[::-1])[:3]
        [18.5, 16.5, 14.5]
    """
    if losses.size < DECILES:
        return []
    ordered = losses[np.argsort(weights, kind="stable")].astype(np.float64)
    starts = np.arange(DECILES) * ordered.size // DECILES
    sizes = np.diff(starts, append=ordered.size)
    deciles: list[float] = (np.add.reduceat(ordered, starts) / sizes).tolist()
    return deciles


def shares(kinds: NDArray[Any], weights: Floats) -> tuple[Ids, NDArray[np.float64], NDArray[np.float64]]:
    """How the weight of some samples is spread over their kinds (groups, shards).

    Args:
        kinds: (n,) of small numbers; below 0 for samples of no kind, which are left out.
        weights: (n,).

    Returns:
        The kinds there are (k,), ascending; of each its share of the weight (NaN if all weigh 0), and the mean weight
        of its samples.

    Example:
        >>> kinds, share, mean = shares(np.array([2, 0, 2, -1]), np.float32([1.0, 0.5, 0.5, 7.0]))
        >>> kinds.tolist(), share.tolist(), mean.tolist()
        ([0, 2], [0.25, 0.75], [0.5, 0.75])
    """
    known = kinds >= 0
    if not known.all():
        kinds, weights = kinds[known], weights[known]
    found, places, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    sums = np.bincount(places, weights=weights, minlength=found.size)
    total = sums.sum()
    return found, sums / total if total else np.full(found.size, np.nan), sums / counts
