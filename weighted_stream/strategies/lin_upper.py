"""LinUpper: low losses count less, all above the middle of the range count the same."""

from __future__ import annotations

from torch import Tensor

from weighted_stream.strategies.gibbs import Scalar, gibbs, loss_range, relative_loss, scalar, within
from weighted_stream.strategies.loss_based import RangeStrategy


def lin_upper_score(losses: Tensor, low: Scalar, high: Scalar, delta: float = 1.0) -> Tensor:
    """``f = min(h + delta, delta)``, with h the place of each loss (M,) in the range [low, high]."""
    return relative_loss(losses, low, high, delta).add_(scalar(delta)).clamp_max_(delta)


def lin_upper(losses: Tensor, r: float = 1.0, delta: float = 1.0, quantile: float | None = None) -> Tensor:
    """``w = M * softmax(f / r)`` with ``f = min(h + delta, delta)``; arXiv 2502.06733, section 3.

    Args:
        losses: (M,) float32, finite, of the whole window.
        r: temperature.
        delta: half the width of the range that losses are mapped to.
        quantile: see `loss_range`.

    Returns:
        (M,) float32, averaging 1.

    Example:
        >>> import torch
        >>> lin_upper(torch.tensor([1.0, 2.0, 3.0, 5.0]))
        tensor([0.4947, 0.8157, 1.3448, 1.3448])
    """
    low, high = loss_range(losses, quantile)
    return gibbs(lin_upper_score(within(losses, low, high), low, high, delta), r)


class LinUpper(RangeStrategy):
    """Play down what the model has already learned (arXiv 2502.06733, ICLR 2025).

    It helps where data repeats itself, costs a little where it does not, and hurts on noisy labels. The published
    settings are r = 1.0 (124M parameters) and 0.4 (210M and more), and 1,000 to 2,000 warm-up steps. Options: see
    `RangeStrategy`.

    Example:
        >>> LinUpper(r=0.4)
        LinUpper(r=0.4, ess=None, warmup_steps=0, window='batch', memory=1024, delta=1.0, quantile=None)
    """

    def scores(self, losses: Tensor, low: Scalar, high: Scalar) -> Tensor:
        """``min(h + delta, delta)``."""
        return lin_upper_score(losses, low, high, self.delta)
