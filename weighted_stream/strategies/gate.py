"""The gate of ADAPT: each sample's score becomes a weight by itself, without a softmax over the batch.

Source: "ADAPT", arXiv 2605.05227 (ICLR 2026), equation for ``w``; normalisation and centring are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from weighted_stream.signals import Signals
from weighted_stream.state import check_keys, copied
from weighted_stream.strategies.base import mean_one
from weighted_stream.strategies.gibbs import Scalar

Normalize: TypeAlias = Literal["none", "mean"]

SMALLEST_TAU = 1e-8
"""The published guard against a temperature of 0."""


def sigmoid_gate(scores: Tensor, tau: Scalar = 1.0) -> Tensor:
    """``w = sigmoid(s / max(tau, 1e-8))``; arXiv 2605.05227.

    Args:
        scores: (M,) float32.
        tau: temperature, in the unit of the score. Small tau: a step at 0. A tensor of shape () is taken as it is.

    Returns:
        (M,) float32 in (0, 1); 0.5 for a score of 0.

    Example:
        >>> sigmoid_gate(torch.tensor([0.702782, 0.0]), 1.0)
        tensor([0.6688, 0.5000])
    """
    return torch.sigmoid(scores / (tau if isinstance(tau, Tensor) else max(tau, SMALLEST_TAU)))


def normalized(weights: Tensor, how: Normalize, signals: Signals | None = None) -> Tensor:
    """Weights as published (``"none"``), or scaled to average 1 over the batch (``"mean"``) [ours]; see `mean_one`.

    Example:
        >>> normalized(torch.tensor([0.2, 0.6]), "mean")
        tensor([0.5000, 1.5000])
    """
    return mean_one(weights, signals) if how == "mean" else weights


class RunningMean:
    """The mean of the latest scores: of all at first, then with exponential forgetting over ``memory`` samples [ours].

    It lives on the scores' device and waits for nothing there.

    Args:
        memory: how many samples it looks back, about.

    Example:
        >>> mean = RunningMean()
        >>> mean.update(torch.tensor([1.0, 2.0, 3.0]))
        >>> mean.update(torch.tensor([6.0]))
        >>> mean.value
        tensor(3.)
    """

    def __init__(self, memory: int = 1024) -> None:
        self.memory = memory
        self.seen = 0
        self.value: Tensor | None = None
        """A tensor of shape (), or (d,) for vectors, float32; None before the first scores."""

    def update(self, scores: Tensor) -> None:
        """Take in more scores, (n,), or vectors, (n, d): float32, finite."""
        if not len(scores):
            return
        self.seen += len(scores)
        latest = scores.detach().mean(0)
        share = len(scores) / max(len(scores), min(self.seen, self.memory))
        self.value = latest if self.value is None else torch.lerp(self.value.to(latest.device), latest, share)

    def state_dict(self) -> dict[str, Any]:
        """The mean, and of how many."""
        return {"seen": self.seen, "value": copied(self.value)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        check_keys("a running mean's state", state, ("seen", "value"))
        self.seen, self.value = int(state["seen"]), copied(state["value"])
