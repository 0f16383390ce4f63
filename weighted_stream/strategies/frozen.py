"""Frozen: the weights as they stand in the store."""

from __future__ import annotations

from torch import Tensor

from weighted_stream.signals import Signals
from weighted_stream.strategies.base import Strategy


class Frozen(Strategy):
    """The last weight the store holds of each sample, 1 for one never weighed; nothing moves any more.

    A control for experiments (are weights of an earlier run as good as live ones?) and a way to train a second model
    on the weights of a first. Losses are still remembered, weights are not, in products with other strategies neither.
    Known at hand-over time, so ``weight.tensor()`` works without losses.

    Example:
        >>> Frozen()
        Frozen()
    """

    remembers = False

    def weights(self, signals: Signals) -> Tensor:
        """(B,) float32 from the store."""
        return signals.history("weight").nan_to_num(1.0)
