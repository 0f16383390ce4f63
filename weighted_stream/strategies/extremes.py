"""Extremes: both ends of the range of losses count most."""

from __future__ import annotations

from torch import Tensor

from weighted_stream.strategies.gibbs import Scalar, gibbs, loss_range, relative_loss, within
from weighted_stream.strategies.loss_based import RangeStrategy


def extremes_score(losses: Tensor, low: Scalar, high: Scalar, delta: float = 1.0) -> Tensor:
    """``f = |h|``, with h the place of each loss (M,) in the range [low, high]."""
    return relative_loss(losses, low, high, delta).abs()


def extremes(losses: Tensor, r: float = 1.0, delta: float = 1.0, quantile: float | None = None) -> Tensor:
    """``w = M * softmax(f / r)`` with ``f = |h|``; arXiv 2502.06733, section 3.

    Args:
        losses: (M,) float32, finite, of the whole window.
        r: temperature.
        delta: half the width of the range that losses are mapped to.
        quantile: see `loss_range`.

    Returns:
        (M,) float32, averaging 1.

    Example:
        >>> import torch
        >>> extremes(torch.tensor([1.0, 2.0, 3.0, 5.0]))
        tensor([1.3448, 0.8157, 0.4947, 1.3448])
    """
    low, high = loss_range(losses, quantile)
    return gibbs(extremes_score(within(losses, low, high), low, high, delta), r)


class Extremes(RangeStrategy):
    """Favour both ends of the range, the easiest and the hardest samples (arXiv 2502.06733, ICLR 2025).

    Options: see `RangeStrategy`.

    Example:
        >>> Extremes(r=0.4)
        Extremes(r=0.4, ess=None, warmup_steps=0, window='batch', memory=1024, delta=1.0, quantile=None)
    """

    def scores(self, losses: Tensor, low: Scalar, high: Scalar) -> Tensor:
        """``|h|``."""
        return extremes_score(losses, low, high, self.delta)
