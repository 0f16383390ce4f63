"""The temperature that gives a window of weights a wanted effective sample size [ours].

How much a temperature does depends on the spread of the scores, so no fixed one carries over between encoders, losses
or batch sizes. The effective sample size (sum w)^2 / sum w^2 says the same everywhere.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from weighted_stream.strategies.gibbs import scalar

Gate: TypeAlias = Literal["softmax", "sigmoid"]

_POWERS = range(-10, 128)  # of two: 1 / tau in units of the scores' range, up to what float32 can hold
_STEPS = 16  # of the second grid, within one power of two
_FAINT = -60.0  # exp of less is nothing beside the largest weight, and slow to compute
_TINY = torch.finfo(torch.float32).tiny


@lru_cache(16)
def _grids(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Inverse temperatures: powers of two (G, 1); where the second grid begins if so many of them are not too sharp
    (G + 1,); the second grid in units of that (_STEPS + 1, 1)."""
    with torch.inference_mode(False):  # kept for whoever comes next
        coarse = torch.exp2(torch.arange(_POWERS.start, _POWERS.stop, dtype=torch.float32))
        begin = torch.cat([coarse[:1], coarse[:-1], coarse[-2:-1]])
        fine = torch.exp2(torch.arange(_STEPS + 1, dtype=torch.float32) / _STEPS)
        return coarse[:, None].to(device), begin.to(device), fine[:, None].to(device)


def effective_share(weights: Tensor) -> Tensor:
    """``(sum w)^2 / (M * sum w^2)``: the effective sample size as a share of the window; a tensor of shape ().

    Example:
        >>> effective_share(torch.tensor([1.0, 1.0, 0.0, 0.0]))
        tensor(0.5000)
    """
    return weights.sum().square() / (weights.square().sum() * len(weights))


def middle(scores: Tensor) -> Tensor:
    """The mean of a window, kept within its range: rounded, that of equal scores may lie beside them all.

    Example:
        >>> scores = torch.full((3,), -0.003)
        >>> (scores - scores.mean()).any(), (scores - middle(scores)).any()
        (tensor(True), tensor(False))
    """
    return torch.clamp(scores.mean(), *torch.aminmax(scores))


def temperature_for(scores: Tensor, share: float, gate: Gate = "softmax") -> Tensor:
    """The temperature at which the weights have an effective sample size of ``share`` times the window [ours].

    For ``"softmax"`` the weights are ``softmax(s / tau)``: the share rises with tau, from that of the largest scores
    alone to 1. For ``"sigmoid"`` they are ``sigmoid((s - mean) / tau)``; the share then starts near that of the scores
    above the mean, and the largest tau is taken where it does not rise throughout.

    Two rounds of a logarithmic grid and a line between its last two points: nothing has to be waited for on a device.

    Args:
        scores: (M,) float32, finite, M >= 1. Their scale and their offset do not matter.
        share: above 0 and below 1.
        gate: what makes weights of the scores.

    Returns:
        A tensor of shape (), float32, above 0, on the device of the scores. The share is met to 1e-3. Where ties keep
        it out of reach (three of four scores equal and largest: 0.75 at least) the temperature is as good as 0; where
        all scores are equal any will do.

    Example:
        >>> scores = torch.tensor([0.1, 0.2, 0.4, 0.8])
        >>> tau = temperature_for(scores, 0.7)
        >>> effective_share(torch.softmax(scores / tau, 0))
        tensor(0.7...)
    """
    low, high = torch.aminmax(scores)
    width = (high - low).clamp_min_(_TINY)
    places = (scores - (high if gate == "softmax" else middle(scores))).div_(width)
    wanted = scalar(share * len(scores))
    coarse, begin, fine = _grids(scores.device)
    start = begin.take(torch.count_nonzero(_sizes(places, coarse, gate) >= wanted))
    sizes = _sizes(places, fine * start, gate)
    before, after = sizes[:-1], sizes[1:]
    steps = (before - wanted).div_((before - after).clamp_min_(1e-9)).clamp_(0.0, 1.0).sum()  # parts of one count
    return (width / (start * torch.exp2(steps * scalar(1 / _STEPS)))).clamp_min_(_TINY)


def _sizes(places: Tensor, sharpness: Tensor, gate: Gate) -> Tensor:
    """Effective sample sizes (G,) of scores (M,) at inverse temperatures (G, 1)."""
    weights = (sharpness * places).clamp_min_(_FAINT)
    if gate == "softmax":
        weights = weights.exp_()
        return weights.sum(1).square_().div_(weights.square_().sum(1))
    weights = weights.sigmoid_()
    sizes = weights.sum(1).square_().div_(weights.square_().sum(1))
    return sizes.cummin(0).values  # it may rise again towards a step at the mean
