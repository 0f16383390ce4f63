"""What the loss-based strategies have in common: window, temperature, warm-up. Each method adds one formula."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from weighted_stream.signals import Signals
from weighted_stream.strategies.base import Strategy
from weighted_stream.strategies.gibbs import Scalar, gibbs, gibbs_against, loss_range, within
from weighted_stream.strategies.options import check_choice, check_integer, check_number

Window = Literal["batch", "running"]

WARMUP_R = 100.0
"""Temperature during warm-up: weights within 2 % of uniform (the authors' 1.4B and 7B code)."""

RUNNING_MINIMUM = 32
"""A running window of fewer losses says nothing yet: weights are 1."""


class LossStrategy(Strategy):
    """``w = M * softmax(score(l) / r)`` over a window of losses.

    Args:
        r: temperature, > 0. Small r: few samples dominate.
        warmup_steps: near-uniform weights (r = 100) for the first batches.
        window: what a weight is normalised over. ``"batch"``: the losses of this batch, as published; it needs all of
            them at once. ``"running"``: the latest ``memory`` losses before this batch [ours]; it weighs every sample
            by itself, so micro-batches and batches of one sample work, and gives 1 until 32 losses are known.
        memory: size of the running window, in samples.

    Raises:
        StrategyError: for an option outside its range.
    """

    quantile: float | None = None

    def __init__(self, r: float = 1.0, warmup_steps: int = 0, window: Window = "batch", memory: int = 1024) -> None:
        method = type(self).__name__
        self.r = check_number(method, "r", r, above=0)
        self.warmup_steps = check_integer(method, "warmup_steps", warmup_steps, least=0)
        self.window = check_choice(method, "window", window, ("batch", "running"))
        self.memory = check_integer(method, "memory", memory, least=RUNNING_MINIMUM)
        self.joint = window == "batch"
        self._ring: Tensor | None = None
        self._seen = 0

    @abstractmethod
    def scores(self, losses: Tensor, low: Scalar, high: Scalar) -> Tensor:
        """The method's formula: losses (M,) in the window's range [low, high] to scores (M,)."""

    def weights(self, signals: Signals) -> Tensor:
        """Mean-1 weights over the window, (B,) float32."""
        losses = self.losses(signals)
        r = WARMUP_R if signals.step < self.warmup_steps else self.r
        if self.window == "batch":
            low, high = loss_range(losses, self.quantile)
            return gibbs(self.scores(losses if self.quantile is None else within(losses, low, high), low, high), r)
        if self not in signals.scratch:  # frozen for this batch, so that its parts agree
            signals.scratch[self] = None if self._seen < RUNNING_MINIMUM else self._latest().clone()
        latest = signals.scratch[self]
        if latest is None:
            return torch.ones_like(losses)
        low, high = loss_range(latest, self.quantile)
        reference = self.scores(within(latest, low, high), low, high)
        return gibbs_against(self.scores(within(losses, low, high), low, high), reference, r)

    def observe(self, signals: Signals) -> None:
        """Put the losses into the running window."""
        if self.window == "batch" or signals.loss is None:
            return
        losses = signals.loss[-self.memory :]
        if self._ring is None:
            with torch.inference_mode(False):  # it outlives whoever happens to come first
                self._ring = torch.zeros(self.memory, dtype=torch.float32, device=losses.device)
        at = self._seen % self.memory
        head = losses[: self.memory - at]
        self._ring[at : at + len(head)] = head
        self._ring[: len(losses) - len(head)] = losses[len(head) :]
        self._seen += len(losses)

    def _latest(self) -> Tensor:
        assert self._ring is not None
        return self._ring[: self._seen]


class RangeStrategy(LossStrategy):
    """A loss strategy whose score depends only on where a loss lies in the range of its window.

    Source: arXiv 2502.06733 (ICLR 2025). Its theory assumes that no mean-1 weight exceeds 2; the stream warns once when
    one does.

    Args:
        r: temperature, > 0.
        delta: half the width of the range that losses are mapped to, > 0. Weights differ at most by exp(delta / r).
        warmup_steps: near-uniform weights (r = 100) for the first batches.
        window: ``"batch"`` (published) or ``"running"`` [ours]; see `LossStrategy`.
        quantile: take the range between this quantile and its mirror, 0 < quantile < 0.5 [ours]; None: the published
            minimum and maximum.
        memory: size of the running window, in samples.

    Raises:
        StrategyError: for an option outside its range.
    """

    bound = 2.0

    def __init__(
        self,
        r: float = 1.0,
        delta: float = 1.0,
        warmup_steps: int = 0,
        window: Window = "batch",
        quantile: float | None = None,
        memory: int = 1024,
    ) -> None:
        super().__init__(r, warmup_steps, window, memory)
        method = type(self).__name__
        self.delta = check_number(method, "delta", delta, above=0)
        self.quantile = None if quantile is None else check_number(method, "quantile", quantile, above=0, below=0.5)
