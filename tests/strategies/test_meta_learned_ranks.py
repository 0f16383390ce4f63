"""Strategies that learn beside DistributedDataParallel, in two processes (that import little: this file is small)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from ranks import run_ranks
from torch import Tensor, nn

from weighted_stream import Adapt, DataWeightingModel, MetaWeightNet, WeightedStream
from weighted_stream.probes.look_ahead import LookAhead

SIZE = 8


def data(size: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(size, 6, generator=draw), torch.randint(0, 3, (size,), generator=draw)


def model_of() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def same_everywhere(values: Tensor) -> bool:
    both = [torch.empty_like(values) for _ in range(2)]
    torch.distributed.all_gather(both, values)
    return torch.equal(*both)


def look_ahead_as_a_rank(rank: int) -> None:
    """The step that both take together, and a target that is another on each."""
    (x, y), (a, b) = data(2 * SIZE, 1), data(10, 2)
    x, a, whole = x.double(), a.double(), model_of().double()
    weights = torch.linspace(0.5, 1.5, 2 * SIZE, dtype=torch.float64)
    expected = LookAhead(whole, [(a, b)], eta=0.3, derivatives="exact").effect((x, y), weights)
    model = nn.parallel.DistributedDataParallel(model_of().double())
    mine, half = slice(SIZE * rank, SIZE * (rank + 1)), slice(5 * rank, 5 * (rank + 1))
    ahead = LookAhead(torch.compile(model), [(a[half], b[half])], eta=0.3, derivatives="exact")
    found = ahead.effect((x[mine], y[mine]), weights[mine])
    torch.testing.assert_close(found.helps, expected.helps[mine], rtol=1e-9, atol=1e-12)


def train_as_a_rank(rank: int, kind: str) -> None:
    """Another half of the data on each rank: psi and the model stay the same on both."""
    model = nn.parallel.DistributedDataParallel(model_of())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    target = [data(8, 5), data(8, 6)]
    strategy: Any
    if kind == "dwm":
        strategy = DataWeightingModel(model, target, optimizer, lr=0.05, stage_steps=4, updates=3, anchors=8, head="2")
    else:
        strategy = MetaWeightNet(model, target, optimizer, lr=0.05)
    x, y = data(96, 7)
    stream = WeightedStream(torch.utils.data.TensorDataset(x[rank::2], y[rank::2]), strategy)
    for (some, labels), weight in stream.loader(batch_size=SIZE):
        losses = nn.functional.cross_entropy(model(some), labels, reduction="none")
        optimizer.zero_grad()
        (losses * weight).mean().backward()
        optimizer.step()
        assert same_everywhere(torch.cat([p.detach().flatten() for p in strategy._psi.values()]))
        assert same_everywhere(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert strategy.updates_made == {"dwm": 5, "mwn": 6}[kind]
    assert weight.tensor().std() > 1e-3


def a_model_of_its_own(rank: int) -> None:
    """The model inside DistributedDataParallel is no model of all ranks, as far as anyone can see."""
    model = model_of()
    strategy = MetaWeightNet(model, [data(8, 5)], eta=0.1)
    for batch, weight in WeightedStream(torch.utils.data.TensorDataset(*data(16, rank)), strategy).loader(batch_size=8):
        losses = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            weight.resolve(losses)
        found = [str(one.message) for one in said if "of its own" in str(one.message)]
        assert len(found) == (strategy.updates_made == 1)


def a_rank_without_losses(rank: int, product: bool) -> None:
    """One rank has no finite loss in a batch that both were to learn from: neither does, and both go on together."""
    model = nn.parallel.DistributedDataParallel(model_of())
    strategy = MetaWeightNet(model, [data(8, 5)], eta=0.1, lr=0.05, every=2)
    whole: Any = strategy
    if product:  # with a factor that asks the other ranks in a way of its own
        whole = Adapt(model, [data(8, 5)[0]], head="2", normalize="mean") * strategy
    stream = WeightedStream(torch.utils.data.TensorDataset(*data(48, rank)), whole)
    for step, ((x, y), weight) in enumerate(stream.loader(batch_size=SIZE)):
        losses = nn.functional.cross_entropy(model(x), y, reduction="none")
        broken = step in (2, 3) and rank == 1
        weights = weight.resolve(torch.full_like(losses, torch.nan) if broken else losses)
        weight.resolve(losses)  # run again: it counts once
        (losses * weights).mean().backward()
        assert same_everywhere(torch.cat([p.detach().flatten() for p in strategy._psi.values()]))
    assert strategy.updates_made == 2  # of batches 0, 2 and 4


def work(rank: int) -> None:
    warnings.filterwarnings("ignore", "Weights are normalised over this rank's batch")
    look_ahead_as_a_rank(rank)
    for kind in "dwm", "mwn":
        train_as_a_rank(rank, kind)
    for product in False, True:
        a_rank_without_losses(rank, product)
    a_model_of_its_own(rank)


def test_two_ranks(tmp_path: Path) -> None:
    run_ranks(work, 2, tmp_path)
