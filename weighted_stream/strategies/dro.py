"""Dro: the larger the loss, the larger the weight, without an upper end.

Over a running window there is one: a loss counts as the largest of the window at most.
"""

from __future__ import annotations

from torch import Tensor

from weighted_stream.strategies.gibbs import Scalar, gibbs
from weighted_stream.strategies.loss_based import LossStrategy


def dro(losses: Tensor, r: float = 1.0) -> Tensor:
    """``w = M * softmax(l / r)``: KL-regularised distributionally robust weights (IR-DRO, arXiv 2402.14270).

    Args:
        losses: (M,) float32, finite, of the whole window.
        r: temperature, in the unit of the loss.

    Returns:
        (M,) float32, averaging 1.

    Example:
        >>> import torch
        >>> dro(torch.tensor([1.0, 1.0, 2.0]))
        tensor([0.6358, 0.6358, 1.7284])
    """
    return gibbs(losses, r)


class Dro(LossStrategy):
    """Favour large losses, ``w = M * softmax(l / r)`` (IR-DRO, arXiv 2402.14270).

    Unlike `LinUpper` it does not map the losses to a fixed range, so r has the unit of the loss, and one outlier can
    take the batch.

    Options: see `LossStrategy`.

    Example:
        >>> Dro(r=2.0)
        Dro(r=2.0, ess=None, warmup_steps=0, window='batch', memory=1024)
    """

    def scores(self, losses: Tensor, low: Scalar, high: Scalar) -> Tensor:
        """The losses themselves."""
        return losses
