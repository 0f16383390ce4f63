"""The steps that all loss-based methods share: where a loss lies in its window, and the Gibbs weights.

Source: Sow et al., "Dynamic loss-based sample reweighting", arXiv 2502.06733 (ICLR 2025), section 3 and its code.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

Scalar: TypeAlias = float | Tensor
"""A float, or a tensor of shape () that a device has yet to compute."""

_LARGEST = torch.finfo(torch.float32).max


@lru_cache(1024)
def scalar(value: float) -> Tensor:
    """A number as a tensor of shape (): torch works twice as fast with it, and takes it on every device."""
    with torch.inference_mode(False):  # kept for whoever comes next
        return torch.tensor(value, dtype=torch.float32, device="cpu")


def loss_range(losses: Tensor, quantile: float | None = None) -> tuple[Scalar, Scalar]:
    """The lowest and the highest loss of a window: floats for losses on the host, tensors on a device (no waiting).

    Args:
        losses: (M,) float32, finite.
        quantile: take the ``quantile`` and ``1 - quantile`` quantiles in place of the extremes, so that one huge loss
            does not press all others against the lower end [ours].
    """
    if quantile is None:
        low, high = torch.aminmax(losses)
    else:
        low, high = torch.quantile(losses, losses.new_tensor([quantile, 1 - quantile])).unbind()
    return (low.item(), high.item()) if losses.is_cpu else (low, high)


def within(losses: Tensor, low: Scalar, high: Scalar) -> Tensor:
    """The losses clipped to a range."""
    return torch.clamp(losses, cast(Any, low), cast(Any, high))


def relative_loss(losses: Tensor, low: Scalar, high: Scalar, delta: float = 1.0) -> Tensor:
    """``h = delta * (2 l - (high + low)) / max(high - low, 1e-6)``, in [-delta, delta] for losses in [low, high].

    Example:
        >>> relative_loss(torch.tensor([1.0, 2.0, 3.0, 5.0]), 1.0, 5.0)
        tensor([-1.0000, -0.5000,  0.0000,  1.0000])
    """
    width = high - low
    width = width.clamp(1e-6, _LARGEST) if isinstance(width, Tensor) else max(width, 1e-6)
    # From both ends: the middle of a narrow range is no float32, and high + low may be none either.
    return (losses - low).sub_(high - losses).mul_(delta / width).clamp_(-delta, delta)


def gibbs(scores: Tensor, r: Scalar) -> Tensor:
    """Mean-1 Gibbs weights ``M * softmax(scores / r)``; (M,) float32.

    Args:
        scores: (M,) float32.
        r: temperature, the coefficient of the KL term: the largest weight is at most ``exp((max - min) / r)`` times
            the smallest.

    Example:
        >>> gibbs(torch.tensor([0.0, 0.5, 1.0, 1.0]), r=1.0)
        tensor([0.4947, 0.8157, 1.3448, 1.3448])
    """
    if isinstance(r, Tensor):  # a temperature that was found may be tiny beside the scores
        return torch.softmax((scores - scores.amax()).div_(r), 0).mul_(scalar(scores.numel()))
    return torch.softmax(scores / scalar(r), 0).mul_(scalar(scores.numel()))


def gibbs_against(scores: Tensor, reference: Tensor, r: Scalar) -> Tensor:
    """Gibbs weights of each sample by itself, normalised over a reference window [ours].

    Args:
        scores: (M,) float32, none above the largest of ``reference``.
        reference: (W,) float32, the window's scores; NaN marks an empty place.
        r: temperature.

    Returns:
        (M,) float32, averaging 1 over samples that are distributed as the window is. Parts of a batch get what the
        whole would get.
    """
    top = reference.nan_to_num(-torch.inf).amax()
    return torch.exp((scores - top) / r) / torch.exp((reference - top) / r).nanmean()
