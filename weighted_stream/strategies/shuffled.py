"""Shuffled: the right weights on the wrong samples."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from weighted_stream.signals import Signals
from weighted_stream.strategies.around import Around
from weighted_stream.strategies.base import Strategy
from weighted_stream.strategies.options import check_integer
from weighted_stream.strategies.selecting import check_whole


class Shuffled(Around):
    """The weights of another strategy, permuted within the batch: the control every weighting claim needs.

    The distribution of the weights, and with it the effective sample size and the gradient noise, stays; which sample
    gets which is chance. A gain that survives shuffling was not the weighting's. The permutation is a function of
    ``seed`` and the step at which the batch is first weighed.

    Args:
        strategy: whose weights to permute.
        seed: of the permutations.

    Raises:
        StrategyError: if ``seed`` is negative, or the strategy selects.

    Example:
        >>> from weighted_stream import LinUpper
        >>> Shuffled(LinUpper(), seed=1).joint
        True
    """

    joint = True

    def __init__(self, strategy: Strategy, seed: int = 0) -> None:
        check_whole("Shuffled", strategy)
        self.strategy = strategy
        self.seed = check_integer("Shuffled", "seed", seed, least=0)
        self.bound, self.constant, self.remembers = strategy.bound, strategy.constant, strategy.remembers
        self.scoring, self.keeps_samples, self.local = strategy.scoring, strategy.keeps_samples, strategy.local
        self.together = strategy.together

    def weights(self, signals: Signals) -> Tensor:
        """(B,) float32, a permutation of the inner strategy's."""
        weights = self.strategy.weights(signals)
        step = signals.scratch.setdefault((self, "step"), signals.step)  # what it said before the feedback holds
        order = np.random.default_rng((self.seed, step)).permutation(len(weights))
        return weights[torch.from_numpy(order).to(weights.device)]
