"""Quadratic: the middle of the range of losses counts most."""

from __future__ import annotations

from torch import Tensor

from weighted_stream.strategies.gibbs import Scalar, gibbs, loss_range, relative_loss, within
from weighted_stream.strategies.loss_based import RangeStrategy


def quadratic_score(losses: Tensor, low: Scalar, high: Scalar, delta: float = 1.0) -> Tensor:
    """``f = 1 - h^2 / delta^2``, with h the place of each loss (M,) in the range [low, high]."""
    score: Tensor = 1 - (relative_loss(losses, low, high, delta) / delta).square()
    return score


def quadratic(losses: Tensor, r: float = 1.0, delta: float = 1.0, quantile: float | None = None) -> Tensor:
    """``w = M * softmax(f / r)`` with ``f = 1 - h^2 / delta^2``; arXiv 2502.06733, section 3.

    Args:
        losses: (M,) float32, finite, of the whole window.
        r: temperature.
        delta: half the width of the range that losses are mapped to.
        quantile: see `loss_range`.

    Returns:
        (M,) float32, averaging 1.

    Example:
        >>> import torch
        >>> quadratic(torch.tensor([1.0, 2.0, 3.0, 5.0]))
        tensor([0.5852, 1.2389, 1.5907, 0.5852])
    """
    low, high = loss_range(losses, quantile)
    return gibbs(quadratic_score(within(losses, low, high), low, high, delta), r)


class Quadratic(RangeStrategy):
    """Favour the middle: neither what is learned nor what may be an outlier (arXiv 2502.06733, ICLR 2025).

    Options: see `RangeStrategy`.

    Example:
        >>> Quadratic(r=0.4)
        Quadratic(r=0.4, ess=None, warmup_steps=0, window='batch', memory=1024, delta=1.0, quantile=None)
    """

    def scores(self, losses: Tensor, low: Scalar, high: Scalar) -> Tensor:
        """``1 - h^2 / delta^2``."""
        return quadratic_score(losses, low, high, self.delta)
