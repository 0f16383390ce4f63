"""The plain training loop of the demo and the benchmarks: nothing in it knows how the weights are made."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from weighted_stream.demo.tokenizer import PADDING
from weighted_stream.losses import per_sample_cross_entropy
from weighted_stream.weight import Weight


@dataclass
class Curve:
    """What one training run showed.

    Attributes:
        steps: after how many steps the held-out sets were evaluated; the last one is the end.
        losses: of each held-out set, at those steps, in nats per token.
        ess: effective sample size of each batch, (Σw)² / Σw² over its size, in (0, 1].
        seconds: of each step, loader included, evaluation not.
        batch_size: samples in a (full) batch.
    """

    steps: list[int] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)
    ess: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    batch_size: int = 0

    def final(self, name: str) -> float:
        """The loss on one held-out set at the end."""
        return self.losses[name][-1]

    def steps_to(self, name: str, loss: float) -> int | None:
        """The first evaluated step at which the loss on one held-out set is this low; None: never."""
        reached = (step for step, value in zip(self.steps, self.losses[name], strict=True) if value <= loss)
        return next(reached, None)

    def samples_per_second(self) -> float:
        """By the median step, so that a machine that was busy for a moment does not count."""
        return self.batch_size / statistics.median(self.seconds)


def per_sample_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """Each row's mean loss of predicting its next tokens: (B, T + 1) int64 -> (B,) float32."""
    labels = tokens[:, 1:]
    return per_sample_cross_entropy(model(tokens[:, :-1]), labels, ignore_index=PADDING)


@torch.no_grad()
def evaluate(model: nn.Module, tokens: Tensor, batch_size: int = 128) -> float:
    """The mean loss over held-out rows (N, T + 1)."""
    model.eval()
    starts = range(0, len(tokens), batch_size)
    losses = torch.cat([per_sample_loss(model, tokens[start : start + batch_size]) for start in starts])
    model.train()
    return losses.mean().item()


def endless(loader: Iterable[tuple[Tensor, Weight]]) -> Iterator[tuple[Tensor, Weight]]:
    """Epoch after epoch; ends only if an epoch is empty."""
    while True:
        empty = True
        for pair in loader:
            empty = False
            yield pair
        if empty:
            return


def train(
    pairs: Iterable[tuple[Tensor, Weight]],
    model: nn.Module,
    *,
    steps: int = 200,
    rate: float = 1e-2,
    held_out: Mapping[str, Tensor] | None = None,
    evaluate_every: int = 20,
    on_step: Callable[[int, float], None] | None = None,
) -> Curve:
    """Train for a number of steps.

    AdamW, the rate rising over the first twentieth of the steps and falling as a cosine, gradients clipped at norm 1.

    Args:
        pairs: ``(batch, weight)``, batches (B, T + 1) int64; at least ``steps`` of them (see `endless`).
        model: tokens (B, T) to scores of the next token (B, T, V).
        steps: how many.
        rate: the highest learning rate.
        held_out: sets to evaluate by name, (N, T + 1) each.
        evaluate_every: steps between evaluations; the end is evaluated in any case.
        on_step: called after each step with its number (from 1) and the batch's mean loss.

    Returns:
        What was seen.
    """
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share_of_rate(step, steps, warmup))
    curve = Curve(losses={name: [] for name in held_out or {}})
    started = time.perf_counter()
    for step, (batch, weight) in enumerate(islice(pairs, steps), 1):
        losses = per_sample_loss(model, batch)
        (losses * weight).mean().backward()  # type: ignore[no-untyped-call]
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()

        curve.seconds.append(time.perf_counter() - started)
        curve.batch_size = max(curve.batch_size, len(batch))
        curve.ess.append(_effective_share(weight.tensor()))
        if on_step is not None:
            on_step(step, losses.mean().item())
        if step % evaluate_every == 0 or step == steps:
            curve.steps.append(step)
            for name, tokens in (held_out or {}).items():
                curve.losses[name].append(evaluate(model, tokens))
        started = time.perf_counter()
    return curve


def _share_of_rate(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / max(1, steps - warmup))


def _effective_share(weights: Tensor) -> float:
    """(Σw)² / (B Σw²): 1 for equal weights, 1/B for a single sample; 0 if all weights are 0."""
    squares = weights.square().sum().item()
    return weights.sum().item() ** 2 / (len(weights) * squares) if squares else 0.0
