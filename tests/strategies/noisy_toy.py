"""A small classification with corrupted labels, for strategies that learn from a clean target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from weighted_stream import Strategy, WeightedStream, per_sample_cross_entropy

CLASSES, DIMS, BATCH = 5, 10, 32


class Labelled:
    """2,000 points around five centres, four labels in ten drawn at random; 64 clean points as target."""

    def __init__(self, seed: int = 0, size: int = 2000) -> None:
        draw = torch.Generator().manual_seed(seed)
        centres = 1.2 * torch.randn(CLASSES, DIMS, generator=draw)
        true = torch.randint(CLASSES, (size,), generator=draw)
        self.x = centres[true] + torch.randn(size, DIMS, generator=draw)
        noise = torch.randint(CLASSES, (size,), generator=draw)
        self.y = torch.where(torch.rand(size, generator=draw) < 0.4, noise, true)
        self.wrong = self.y != true
        labels = torch.randint(CLASSES, (64,), generator=draw)
        points = centres[labels] + torch.randn(64, DIMS, generator=draw)
        self.target = [(points[:32], labels[:32]), (points[32:], labels[32:])]

    @property
    def dataset(self) -> TensorDataset:
        return TensorDataset(self.x, self.y)


def classifier(width: int = 32, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(DIMS, width), nn.Tanh(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    )


@dataclass
class Run:
    """What a training gave: the mean weights of wrong and of right labels, batch by batch."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    strategy: Strategy
    stream: WeightedStream
    wrong: list[float] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)

    def late(self, count: int = 25) -> tuple[float, float]:
        """The mean weights over the last batches: wrong labels, right ones."""
        return sum(self.wrong[-count:]) / count, sum(self.right[-count:]) / count


def train(
    make: Callable[[nn.Module, torch.optim.Optimizer], Strategy],
    data: Labelled,
    *,
    steps: int,
    model: nn.Module | None = None,
    adam: bool = True,
    on_step: Callable[[Run], None] | None = None,
) -> Run:
    """The usual loop."""
    model = classifier() if model is None else model
    optimizer: torch.optim.Optimizer
    optimizer = torch.optim.Adam(model.parameters(), 2e-3) if adam else torch.optim.SGD(model.parameters(), 0.1)
    strategy = make(model, optimizer)
    run = Run(model, optimizer, strategy, WeightedStream(data.dataset, strategy))
    loader = run.stream.loader(batch_size=BATCH, shuffle=True)
    while len(run.weights) < steps:
        for (x, y), weight in loader:
            losses = per_sample_cross_entropy(model(x), y)
            optimizer.zero_grad()
            (losses * weight).mean().backward()
            optimizer.step()
            found, wrong = weight.tensor(), data.wrong[weight.ids]
            run.wrong.append(found[wrong].mean().item())
            run.right.append(found[~wrong].mean().item())
            run.weights.append(found)
            if on_step is not None:
                on_step(run)
            if len(run.weights) == steps:
                break
    return run
