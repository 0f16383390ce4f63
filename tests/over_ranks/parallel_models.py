"""One model, trained by one process, or by several with DistributedDataParallel or FSDP2, with accumulation."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from global_batches import Batches
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from weighted_stream import LinUpper, WeightedStream

SAMPLES, ACCUMULATION = 64, 2


def rows_of(rank: int, ranks: int) -> list[list[int]]:
    """The batches of a rank: its part of each of eight global ones."""
    size = 8 // ranks
    return [[8 * n + size * rank + k for k in range(size)] for n in range(SAMPLES // 8)]


def fresh_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def wrapped(model: nn.Module, how: str, ranks: int) -> nn.Module:
    """The model as ranks train it."""
    if how == "ddp":
        return DistributedDataParallel(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (ranks,))
    for part in model:
        if isinstance(part, nn.Linear):
            fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def train(model: nn.Module, batches: list[list[int]], epochs: int = 3) -> tuple[list[list[float]], Any]:
    """Weights by step, and the stream."""
    data = list(torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(1)))
    stream = WeightedStream(data, LinUpper(r=1.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weights = []
    for _ in range(epochs):
        for n, (x, weight) in enumerate(stream.loader(batch_sampler=Batches(batches))):
            last = n % ACCUMULATION == ACCUMULATION - 1
            if hasattr(model, "set_requires_gradient_sync"):
                model.set_requires_gradient_sync(last)
            with nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync():
                losses = (model(x).squeeze(1) - x.sum(1)).square()
                ((losses * weight).mean() / ACCUMULATION).backward()
            weights.append(weight.tensor().tolist())
            if last:
                optimizer.step()
                optimizer.zero_grad()
    return weights, stream


def one_rank(rank: int, ranks: int, how: str, folder: str) -> None:
    """One of several; what it has at the end goes to a file."""
    model = wrapped(fresh_model(), how, ranks)
    weights, stream = train(model, rows_of(rank, ranks))
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
    loss = torch.from_numpy(stream.store.get(range(SAMPLES))["loss"])
    kept = {"weights": weights, "parameters": [p.detach().clone() for p in whole], "loss": loss}
    torch.save(kept, Path(folder) / f"{rank}.pt")
