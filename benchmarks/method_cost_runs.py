"""What `benchmarks.method_cost` measures: a small GPT and, for each method, something that makes one step with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.utils.data import DataLoader

from weighted_stream import (
    Adapt,
    DataWeightingModel,
    FilterThenWeight,
    Greats,
    InfoBatch,
    LinUpper,
    MetaWeightNet,
    RhoLoss,
    Similarity,
    Strategy,
    Uniform,
    WeightedStream,
)
from weighted_stream.demo.model import GPT, GPTConfig
from weighted_stream.demo.tokenizer import PADDING
from weighted_stream.demo.train import endless, per_sample_loss
from weighted_stream.probes.factors import send_factors
from weighted_stream.probes.gradient_layers import Layers
from weighted_stream.probes.gradients import GradientProbe

SIZES = {
    "cpu": {
        "1M": GPTConfig(vocab=512, context=64, layers=4, width=128, heads=4),
        "5M": GPTConfig(vocab=512, context=64, layers=6, width=256, heads=4),
    },
    "cuda": {
        "1M": GPTConfig(vocab=512, context=512, layers=4, width=128, heads=4),
        "30M": GPTConfig(vocab=8192, context=512, layers=7, width=512, heads=8),
        "124M": GPTConfig(vocab=25_000, context=512, layers=12, width=768, heads=12),
        "350M": GPTConfig(vocab=24_000, context=512, layers=24, width=1024, heads=16),
    },
}
BATCH, ROWS = 16, 1024
TARGET, REFRESH = 8, 5
"""Examples of a target, and how many steps their mean lasts; as dear as 80 examples that last 50 steps."""

NEVER = 10**9

STAGE = 25
"""Batches of a stage of the Data Weighting Model; it learns on the first."""

PROJECTION = (64, 64)
HEAD = ("head",)
"""The output layer, by its name in the model."""

Step = Callable[[], Any]


@dataclass(frozen=True)
class Setup:
    """A model in training and rows of tokens to train on.

    Attributes:
        model: on its device.
        optimizer: AdamW.
        rows: (N, T + 1) random tokens, on the host.
        target: (8, T + 1).
        batch: samples a step.
        parts: micro-batches that a step is made of.
    """

    model: GPT
    optimizer: AdamW
    rows: Tensor
    target: Tensor
    batch: int = BATCH
    parts: int = 1

    @classmethod
    def of(cls, config: GPTConfig, device: str, batch: int = BATCH, parts: int = 1) -> Setup:
        """A new one, always the same."""
        draw = torch.Generator().manual_seed(0)
        rows = torch.randint(1, config.vocab, (ROWS, config.context + 1), generator=draw)
        with torch.device(device):  # made there: a GPU draws its parameters in no time
            model = GPT(config)
        optimizer = AdamW(model.parameters(), lr=1e-4, fused=True)
        return cls(model, optimizer, rows, rows[:TARGET].clone(), batch, parts)

    @property
    def parameters(self) -> int:
        """How many the model has."""
        return sum(p.numel() for p in self.model.parameters())

    def train(self, batch: Tensor, weight: Any) -> None:
        """One step of the optimizer; ``weight`` is a `Weight`, or None for plain training."""
        size = -(-len(batch) // self.parts)
        parts: Any = batch.split(size) if self.parts > 1 else [batch]  # type: ignore[no-untyped-call]
        weights = [None] * len(parts) if weight is None else weight.split(size) if self.parts > 1 else [weight]
        for part, one in zip(parts, weights, strict=True):
            loss = mean_loss(self.model, part) if weight is None else (losses_of(self.model, part) * one).mean()
            (loss * (len(part) / len(batch))).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def losses_of(model: nn.Module, batch: Tensor) -> Tensor:
    """(B,); on a GPU under autocast to bfloat16."""
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        return exact_losses_of(model, batch)


def exact_losses_of(model: nn.Module, batch: Tensor) -> Tensor:
    """(B,); as exact as the parameters."""
    return per_sample_loss(model, batch.to(next(model.parameters()).device, non_blocking=True))


def mean_loss(model: nn.Module, batch: Tensor) -> Tensor:
    """The mean over all tokens, as a loop has it that knows of no weights; precise as `losses_of`."""
    device = next(model.parameters()).device
    batch = batch.to(device, non_blocking=True)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        logits = model(batch[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), ignore_index=PADDING)


def batches(setup: Setup) -> Iterator[Tensor]:
    """Of a plain DataLoader, epoch after epoch."""
    rows: Any = setup.rows
    loader: DataLoader[Tensor] = DataLoader(rows, setup.batch, shuffle=True, drop_last=True)
    while True:
        yield from loader


def plain(setup: Setup) -> Step:
    """Training without this library."""
    source = batches(setup)
    return lambda: setup.train(next(source), None)


def weighted(strategy_of: Callable[[Setup], Strategy], setup: Setup) -> Step:
    """Training with a strategy. The store has losses and similarities, as in the midst of a training."""
    stream = WeightedStream(list(setup.rows), strategy_of(setup))
    draw = np.random.default_rng(0)
    ids = np.arange(ROWS)
    stream.store.update(ids, loss=draw.random(ROWS, np.float32), similarity=draw.random(ROWS, np.float32))
    source = endless(stream.loader(batch_size=setup.batch, shuffle=True, drop_last=True))
    next(source)  # its first epoch has no losses for InfoBatch

    return lambda: setup.train(*next(source))


def probe(layers: Layers, projection: tuple[int, int] | None, setup: Setup) -> Step:
    """One forward and backward for the products of a batch's gradients with each other and with a target's gradient,
    and nothing else: no training."""
    made = GradientProbe(setup.model, layers, projection=projection)
    direction, _ = made.gradient(lambda: losses_of(setup.model, setup.target))
    source = batches(setup)
    return lambda: made.products(partial(losses_of, setup.model, next(source)), direction)


def bare_probe(layers: Layers, setup: Setup) -> Step:
    """The same forward and backward without any products: what is left of a probe if these cost nothing."""
    made = GradientProbe(setup.model, layers)
    source = batches(setup)
    return lambda: send_factors(
        setup.model, made.layers, partial(losses_of, setup.model, next(source)), lambda *_: None, True
    )


def forward_only(setup: Setup) -> Step:
    """A forward without gradients."""
    source = batches(setup)

    def step() -> None:
        with torch.no_grad():
            losses_of(setup.model, next(source))

    return step


def filter_then_weight(
    budget: float, layers: Layers, projection: tuple[int, int] | None, setup: Setup
) -> FilterThenWeight:
    """With a target as dear as it is said above."""
    return FilterThenWeight(
        setup.model,
        setup.optimizer,
        [setup.target],
        budget,
        layers,
        losses_of,
        refresh_every=REFRESH,
        projection=projection,
    )


def greats(budget: float, setup: Setup) -> Greats:
    """With the same target."""
    return Greats(setup.model, [setup.target], budget, loss_fn=losses_of, refresh_every=REFRESH)


def meta_weight_net(every: int, setup: Setup) -> MetaWeightNet:
    """With target batches as large as the others."""
    return MetaWeightNet(setup.model, [setup.rows[:BATCH]], setup.optimizer, loss_fn=exact_losses_of, every=every)


def data_weighting_model(updates: int, setup: Setup) -> DataWeightingModel:
    """Learning on so many of 25 batches, with 16 anchors that last as long: by default it is 40 of 1,000, and 32 that
    last 50."""
    return DataWeightingModel(
        setup.model,
        [setup.rows[:BATCH]],
        setup.optimizer,
        loss_fn=exact_losses_of,
        stages=10**6,
        stage_steps=STAGE,
        updates=updates,
        anchors=16,
        refresh_every=STAGE,
        head="head",
    )


def similarity(setup: Setup) -> Similarity:
    """By the scores of the store."""
    return Similarity(ess=0.7)


def adapt(refresh: int, setup: Setup) -> Adapt:
    """By the states of the training forward, with a new target after so many steps."""
    return Adapt(setup.model, [setup.target[:, :-1]], refresh_every=refresh, head="head")


def rho_loss(budget: float, setup: Setup) -> RhoLoss:
    """Losses of a reference model that are known already."""
    return RhoLoss(setup.model, lambda batch: torch.zeros(len(batch)), losses_of, budget)


METHODS: dict[str, Callable[[Setup], Step]] = {
    "Uniform": partial(weighted, lambda setup: Uniform()),
    "LinUpper": partial(weighted, lambda setup: LinUpper()),
    "LinUpper, running window": partial(weighted, lambda setup: LinUpper(window="running")),
    "InfoBatch": partial(weighted, lambda setup: InfoBatch()),
    "InfoBatch, pruning": partial(weighted, lambda setup: InfoBatch(prune=True)),
    "Similarity, stored scores": partial(weighted, similarity),
    "Adapt": partial(weighted, partial(adapt, REFRESH)),
    "Adapt, between refreshes": partial(weighted, partial(adapt, NEVER)),
    "MetaWeightNet": partial(weighted, partial(meta_weight_net, 1)),
    "MetaWeightNet, every 5": partial(weighted, partial(meta_weight_net, 5)),
    "DataWeightingModel": partial(weighted, partial(data_weighting_model, 1)),
    "RhoLoss, 10%": partial(weighted, partial(rho_loss, 0.1)),
    "probe alone, head": partial(probe, HEAD, None),
    "probe alone, all linear": partial(probe, "all", None),
    "probe alone, all linear, projected": partial(probe, "all", PROJECTION),
    "FilterThenWeight, 100%, head": partial(weighted, partial(filter_then_weight, 1.0, HEAD, None)),
    "FilterThenWeight, 100%, all linear": partial(weighted, partial(filter_then_weight, 1.0, "all", None)),
    "FilterThenWeight, 100%, projected": partial(weighted, partial(filter_then_weight, 1.0, "all", PROJECTION)),
    "Greats, 25%, all linear": partial(weighted, partial(greats, 0.25)),
    "FilterThenWeight, 25%, head": partial(weighted, partial(filter_then_weight, 0.25, HEAD, None)),
    "FilterThenWeight, 25%, all linear": partial(weighted, partial(filter_then_weight, 0.25, "all", None)),
    "FilterThenWeight, 25%, projected": partial(weighted, partial(filter_then_weight, 0.25, "all", PROJECTION)),
}
"""What makes a step, by the name of its row."""

IN_PARTS = ("Uniform", "LinUpper, running window", "InfoBatch", "Adapt", "Adapt, between refreshes")
"""Methods whose weights of a micro-batch do not depend on the others: those of a table of accumulation."""

WITHIN_A_HUNDREDTH = ("LinUpper", "LinUpper, running window", "Similarity, stored scores", "Adapt, between refreshes")
"""Methods that may take 1.01 of a plain step at 124 million parameters on a GPU.

A refresh of Adapt's target is forwards of as many examples as its user wants: a third of a step per batch of them.
"""

BOUNDS = {"probe alone, head": 1.1, "probe alone, all linear": 1.5, "DataWeightingModel": 1.15}
"""The longest a step may take, as a ratio to plain training."""

STEPS = {"DataWeightingModel": STAGE}
"""How many steps are timed at once, if not 5: whole stages."""

PARTS: dict[str, dict[str, Callable[[Setup], Step]]] = {
    "probe alone, head": {"forward": forward_only, "forward and backward": partial(bare_probe, HEAD)},
    "probe alone, all linear": {"forward": forward_only, "forward and backward": partial(bare_probe, "all")},
    "DataWeightingModel": {
        "frozen": partial(weighted, partial(data_weighting_model, 0)),
        "learning on each batch": partial(weighted, partial(data_weighting_model, STAGE)),
    },
}
"""What a bounded method is made of, to be timed if it takes longer."""
