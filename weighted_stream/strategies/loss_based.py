"""What the loss-based strategies have in common: window, temperature, warm-up. Each method adds one formula."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from weighted_stream.signals import Signals
from weighted_stream.state import check_keys
from weighted_stream.strategies.base import Strategy
from weighted_stream.strategies.gibbs import Scalar, gibbs, gibbs_against, loss_range, within
from weighted_stream.strategies.options import check_choice, check_either, check_integer, check_number
from weighted_stream.strategies.temperature import temperature_for
from weighted_stream.strategies.window import RUNNING_MINIMUM, RunningWindow, Window

WARMUP_R = 100.0
"""Temperature during warm-up: weights within 2 % of uniform (the authors' 1.4B and 7B code). Published for scores
from 0 to 1; for scores further apart than 1 it is so many times their spread [ours]."""


class LossStrategy(Strategy):
    """``w = M * softmax(score(l) / r)`` over a window of losses.

    Args:
        r: temperature, > 0. Small r: few samples dominate. 1.0 unless ``ess`` is given.
        warmup_steps: near-uniform weights (r = 100, times the spread of the scores where that is above 1) for the first
            batches.
        window: what a weight is normalised over. ``"batch"``: the losses of this batch, as published; it needs all of
            them at once. ``"running"``: the latest ``memory`` losses before this batch [ours]; it weighs every sample
            by itself, so micro-batches and batches of one sample work, and gives 1 until 32 losses are known.
        memory: size of the running window, in samples.
        ess: in place of r: the effective sample size (sum w)^2 / sum w^2 that the weights shall have, as a share of
            the window, 0 < ess < 1 [ours]. The temperature is found anew for each batch (`temperature_for`).

    Raises:
        StrategyError: for an option outside its range, or both r and ess.
    """

    quantile: float | None = None

    def __init__(
        self,
        r: float | None = None,
        warmup_steps: int = 0,
        window: Window = "batch",
        memory: int = 1024,
        ess: float | None = None,
    ) -> None:
        method = type(self).__name__
        self.r, self.ess = check_either(method, "r", r, "ess", ess)
        if self.r is None and self.ess is None:
            self.r = 1.0
        self.warmup_steps = check_integer(method, "warmup_steps", warmup_steps, least=0)
        self.window = check_choice(method, "window", window, ("batch", "running"))
        self.memory = check_integer(method, "memory", memory, least=RUNNING_MINIMUM)
        self.joint = window == "batch"
        self._latest = RunningWindow(self.memory)

    @abstractmethod
    def scores(self, losses: Tensor, low: Scalar, high: Scalar) -> Tensor:
        """The method's formula: losses (M,) in the window's range [low, high] to scores (M,)."""

    def weights(self, signals: Signals) -> Tensor:
        """Mean-1 weights over the window, (B,) float32."""
        losses = self.losses(signals)
        if self.window == "batch":
            low, high = loss_range(losses, self.quantile)
            scores = self.scores(losses if self.quantile is None else within(losses, low, high), low, high)
            return gibbs(scores, self._temperature(scores, signals.step))
        if self not in signals.scratch:  # frozen for this batch, so that its parts agree
            signals.scratch[self] = self._reference(signals)
        known = signals.scratch[self]
        if known is None:
            return torch.ones_like(losses)
        low, high, reference, r = known
        return gibbs_against(self.scores(within(losses, low, high), low, high), reference, r)

    def observe(self, signals: Signals) -> None:
        """Put the losses into the running window."""
        if self.window == "running" and signals.loss is not None:
            self._latest.push(signals.loss)

    def _temperature(self, scores: Tensor, step: int) -> Scalar:
        if step < self.warmup_steps:
            spread = self._spread(scores)
            return WARMUP_R * (spread.clamp_min(1.0) if isinstance(spread, Tensor) else max(spread, 1.0))
        if self.r is not None:
            return self.r
        assert self.ess is not None  # one of them there is
        return temperature_for(scores, self.ess)

    def _spread(self, scores: Tensor) -> Scalar:
        low, high = loss_range(scores)
        return high - low

    def state_dict(self) -> dict[str, Any]:
        """The running window."""
        return {"latest": self._latest.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with that running window.

        Raises:
            StateError: for a state of another kind of strategy, or a window of another size.
        """
        check_keys(f"{type(self).__name__}'s state", state, ("latest",))
        self._latest.load_state_dict(state["latest"])

    def _reference(self, signals: Signals) -> tuple[Scalar, Scalar, Tensor, Scalar] | None:
        """Range and scores of the running window, and the temperature."""
        latest = self._latest.values(signals.device)
        if latest is None:
            return None
        low, high = loss_range(latest, self.quantile)
        scores = self.scores(within(latest, low, high), low, high)
        return low, high, scores, self._temperature(scores, signals.step)


class RangeStrategy(LossStrategy):
    """A loss strategy whose score depends only on where a loss lies in the range of its window.

    Source: arXiv 2502.06733 (ICLR 2025). Its theory assumes that no mean-1 weight exceeds 2; the stream warns once when
    one does.

    Args:
        r: temperature, > 0. 1.0 unless ``ess`` is given.
        delta: half the width of the range that losses are mapped to, > 0. Weights differ at most by exp(delta / r).
        warmup_steps: near-uniform weights (r = 100, times the spread of the scores where that is above 1) for the first
            batches.
        window: ``"batch"`` (published) or ``"running"`` [ours]; see `LossStrategy`.
        quantile: take the range between this quantile and its mirror, 0 < quantile < 0.5 [ours]; None: the published
            minimum and maximum.
        memory: size of the running window, in samples.
        ess: in place of r: the effective sample size of the weights as a share of the window [ours]; see
            `LossStrategy`. Samples that share the largest score share their weight, so no smaller ess than their
            share can be had: for LinUpper, all losses in the upper half of the range.

    Raises:
        StrategyError: for an option outside its range, or both r and ess.
    """

    bound = 2.0

    def __init__(
        self,
        r: float | None = None,
        delta: float = 1.0,
        warmup_steps: int = 0,
        window: Window = "batch",
        quantile: float | None = None,
        memory: int = 1024,
        ess: float | None = None,
    ) -> None:
        super().__init__(r, warmup_steps, window, memory, ess)
        method = type(self).__name__
        self.delta = check_number(method, "delta", delta, above=0)
        self.quantile = None if quantile is None else check_number(method, "quantile", quantile, above=0, below=0.5)

    def _spread(self, scores: Tensor) -> Scalar:
        return 1.0 if self.delta <= 1 else super()._spread(scores)  # at most delta, or Quadratic's 1
