"""Clip: no weight beyond given limits."""

from __future__ import annotations

import torch
from torch import Tensor

from weighted_stream.errors import StrategyError
from weighted_stream.signals import Signals
from weighted_stream.strategies.around import Around
from weighted_stream.strategies.base import Strategy
from weighted_stream.strategies.options import check_number
from weighted_stream.strategies.selecting import check_whole


def clip_mean(weights: Tensor, low: float, high: float) -> Tensor:
    """``clamp(s * w, low, high)`` with the one scale s that keeps the mean of ``w`` [ours].

    The mean as a function of s is piecewise linear with a corner where a weight meets a limit: sort the corners, find
    the two around the wanted mean, solve for s between them. Where too many weights are zero for the mean to be kept,
    all others end at ``high``.

    Args:
        weights: (M,) float32, not negative.
        low: lowest weight, >= 0.
        high: highest weight, > low.

    Returns:
        (M,) float32 in [low, high].

    Example:
        >>> clip_mean(torch.tensor([0.1, 0.5, 3.4, 0.0]), 0.0, 2.0)
        tensor([0.3333, 1.6667, 2.0000, 0.0000])
    """
    count = len(weights)
    precise = weights.cpu().double()  # on the host: not every device has float64, or adds up in a fixed order
    wanted = precise.mean().clamp(low, high) * count
    live = precise.clamp_min(1e-60).sort().values  # zeros far below any float32, so that every one has its corners
    corners, order = torch.cat([low / live, high / live]).sort(stable=True)
    above, full = (order < count).cumsum(0), (order >= count).cumsum(0)  # of the largest: past low, arrived at high
    # Summed from the smallest up: no small weights are lost in a difference of two sums, as none larger came before.
    sums = torch.cat([live.new_zeros(1), live.cumsum(0)])
    slopes, ends = sums[count - full] - sums[count - above], low * (count - above) + high * full
    reach = (ends + slopes * corners < wanted).sum().clamp(1, 2 * count - 1)  # the corner at or after the wanted total
    before, after, slope = corners[reach - 1], corners[reach], slopes[reach - 1]
    scale = torch.where(slope > 0, (wanted - ends[reach - 1]) / slope, after).clamp(before, after)
    return (precise * scale).clamp(low, high).to(weights)


class Clip(Around):
    """The weights of another strategy kept within [low, high].

    A joint strategy's weights are also rescaled so that their mean survives (`clip_mean`); weights that are made one
    by one are only clamped.

    Args:
        strategy: whose weights to clip.
        low: lowest weight, 0 <= low < high.
        high: highest weight.

    Raises:
        StrategyError: if the limits are no range, or cannot hold an average of 1; if the strategy selects.

    Example:
        >>> from weighted_stream import LinUpper
        >>> Clip(LinUpper(r=0.1), high=2.0).high
        2.0
    """

    def __init__(self, strategy: Strategy, low: float = 0.0, high: float = 2.0) -> None:
        check_whole("Clip", strategy)
        self.strategy = strategy
        self.low, self.high = check_number("Clip", "low", low), check_number("Clip", "high", high)
        if not 0 <= self.low <= 1 <= self.high or self.low == self.high:
            raise StrategyError(
                "Clip cannot keep mean-1 weights within these limits.",
                found=f"low={low}, high={high}",
                expected="0 <= low <= 1 <= high, low < high",
                do="for example Clip(strategy, low=0.1, high=2.0)",
            )
        self.joint, self.constant, self.remembers = strategy.joint, strategy.constant, strategy.remembers
        self.scoring, self.keeps_samples, self.local = strategy.scoring, strategy.keeps_samples, strategy.local
        self.together = strategy.together

    def weights(self, signals: Signals) -> Tensor:
        """(B,) float32 in [low, high]."""
        weights = self.strategy.weights(signals)
        return clip_mean(weights, self.low, self.high) if self.joint else weights.clamp(self.low, self.high)
