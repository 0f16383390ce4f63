"""SmallLoss: the smaller the loss, the larger the weight; for noisy labels."""

from __future__ import annotations

from torch import Tensor

from weighted_stream.strategies.gibbs import Scalar, gibbs
from weighted_stream.strategies.loss_based import LossStrategy


def small_loss(losses: Tensor, r: float = 1.0) -> Tensor:
    """``w = M * softmax(-l / r)``: the soft form of the small-loss trick for noisy labels [ours].

    Args:
        losses: (M,) float32, finite, of the whole window.
        r: temperature, in the unit of the loss.

    Returns:
        (M,) float32, averaging 1.

    Example:
        >>> import torch
        >>> small_loss(torch.tensor([1.0, 1.0, 2.0]))
        tensor([1.2670, 1.2670, 0.4661])
    """
    return gibbs(-losses, r)


class SmallLoss(LossStrategy):
    """Favour small losses, ``w = M * softmax(-l / r)`` [ours]: a mislabelled sample keeps a large loss for long.

    Right for noisy labels, wrong for redundant data; fragile in r (see the noisy-label benchmark).

    Options: see `LossStrategy`.

    Example:
        >>> SmallLoss(r=2.0)
        SmallLoss(r=2.0, ess=None, warmup_steps=0, window='batch', memory=1024)
    """

    def scores(self, losses: Tensor, low: Scalar, high: Scalar) -> Tensor:
        """The losses with their sign changed."""
        return -losses
