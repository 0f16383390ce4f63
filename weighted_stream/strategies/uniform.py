"""Uniform: every sample counts the same."""

from __future__ import annotations

import torch
from torch import Tensor

from weighted_stream.signals import Signals
from weighted_stream.strategies.base import Strategy


class Uniform(Strategy):
    """Weight 1 for every sample: plain training, with everything else (ids, store, statistics) in place.

    The baseline to compare with, and the way to collect losses for a later run.

    Example:
        >>> Uniform()
        Uniform()
    """

    constant = True

    def weights(self, signals: Signals) -> Tensor:
        """(B,) ones."""
        return torch.ones(len(signals), dtype=torch.float32, device=signals.device)
