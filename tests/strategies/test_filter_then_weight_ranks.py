"""FilterThenWeight beside DistributedDataParallel, in two processes (that import little: this file is small)."""

from __future__ import annotations

from pathlib import Path

import torch
from ranks import run_ranks
from torch import nn
from torch.optim import AdamW

from weighted_stream import FilterThenWeight, WeightedStream


def train_as_a_rank(rank: int) -> None:
    """One of two ranks: another half of the data, the same model afterwards."""
    torch.manual_seed(0)
    x, y = torch.randn(40, 6), torch.randint(0, 3, (40,))
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)))
    optimizer = AdamW(model.parameters(), lr=0.01)
    strategy = FilterThenWeight(model, optimizer, [(x[:4], y[:4])], budget=0.25)
    stream = WeightedStream(torch.utils.data.TensorDataset(x[rank::2], y[rank::2]), strategy)
    batches = 0
    for _ in range(2):
        for (some, labels), weight in stream.loader(batch_size=2):
            losses = nn.functional.cross_entropy(model(some), labels, reduction="none")
            optimizer.zero_grad()
            (losses * weight).mean().backward()
            optimizer.step()
            batches += 1
    mine = torch.cat([p.detach().flatten() for p in model.parameters()])
    both = [torch.empty_like(mine) for _ in range(2)]
    torch.distributed.all_gather(both, mine)
    assert torch.equal(*both)
    assert batches == 6


def test_two_ranks(tmp_path: Path) -> None:
    run_ranks(train_as_a_rank, 2, tmp_path)
