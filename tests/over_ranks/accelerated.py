"""A plain loop with accelerate, on one rank or two, in its ways of sharing out batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from weighted_stream import LinUpper, WeightedStream

SAMPLES, BATCH = 64, 8
WAYS = {
    "shard": {"dispatch_batches": False},
    "split": {"dispatch_batches": False, "split_batches": True},
    "dispatch": {"dispatch_batches": True},
    "dispatch, split": {"dispatch_batches": True, "split_batches": True},
}


class Ordered(IterableDataset[Any]):
    """Rows that are read in order, on every rank."""

    def __iter__(self) -> Any:
        return iter(rows())


def rows() -> list[dict[str, Any]]:
    x = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(1))
    return [{"x": row, "name": at} for at, row in enumerate(x)]


def train(way: str, ordered: bool, ranks: int = 1) -> dict[str, torch.Tensor]:
    """Two epochs with accumulation, of as large global batches whatever the number of ranks."""
    config = DataLoaderConfiguration(**WAYS[way])
    accelerator = Accelerator(cpu=True, dataloader_config=config, gradient_accumulation_steps=2)
    data: Any = Ordered() if ordered else rows()
    stream = WeightedStream(data, LinUpper(r=1.0), id_fn="name" if ordered else None, as_dict=True)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    size = BATCH if "split" in way else BATCH // ranks
    model, optimizer, loader = accelerator.prepare(
        network, torch.optim.SGD(network.parameters(), lr=0.1), DataLoader(stream, batch_size=size)
    )
    for epoch in range(2):
        stream.set_epoch(epoch)
        for batch in loader:
            with accelerator.accumulate(model):
                losses = (model(batch["x"]).squeeze(1) - batch["x"].sum(1)).square()
                accelerator.backward((losses * stream.weight(batch["sample_id"])).mean())
                optimizer.step()
                optimizer.zero_grad()
    records = stream.store.get(range(SAMPLES))
    kept = {name: torch.from_numpy(records[name]) for name in ("loss", "weight", "visits", "last_step")}
    stream.close()
    return kept | {name: value.detach().clone() for name, value in network.state_dict().items()}


def one_rank(rank: int, ranks: int, folder: str) -> None:
    """One of several: all ways, of data that is read by index, and in order."""
    for at, way in enumerate(WAYS):
        for ordered in (False, True):
            torch.save(train(way, ordered, ranks), Path(folder) / f"{at}{ordered}{rank}.pt")
