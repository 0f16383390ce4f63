"""What ranks weigh, and the same in one process whose batches are theirs together."""

from __future__ import annotations

from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weighted_stream import (
    Clip,
    Dro,
    Frozen,
    InfoBatch,
    LinUpper,
    OnlineDataMixing,
    Product,
    Shuffled,
    Similarity,
    SmallLoss,
    Uniform,
    WeightedStream,
)

SAMPLES = 120
BATCHES = ([5, 3, 4, 1, 6, 4], [2, 7, 4, 4, 3], [4, 4, 1, 5, 2, 6, 3], [1, 1])
"""The sizes of each rank's batches in an epoch: uneven, and not as many."""

STRATEGIES: dict[str, Any] = {
    "Uniform": Uniform,
    "LinUpper": lambda: LinUpper(r=1.0),
    "LinUpper running": lambda: LinUpper(r=1.0, window="running", memory=64),
    "LinUpper ess": lambda: LinUpper(ess=0.6),
    "SmallLoss": lambda: SmallLoss(),
    "Dro": lambda: Dro(),
    "Shuffled": lambda: Shuffled(LinUpper(), seed=3),
    "Clip": lambda: Clip(LinUpper(r=0.9), 0.5, 1.5),
    "Product": lambda: Product(LinUpper(r=1.0), Frozen()),
    "Similarity": lambda: Similarity(ess=0.7),
    "InfoBatch": lambda: InfoBatch(epochs=3),
    "OnlineDataMixing": lambda: OnlineDataMixing(),
}


def data() -> list[dict[str, Any]]:
    """Samples with a loss each, one of them now and then not finite, and a group."""
    rng = np.random.default_rng(5)
    losses = rng.gamma(2.0, size=SAMPLES).astype(np.float32)
    losses[17], losses[44] = np.nan, np.inf
    return [{"loss": float(loss), "domain": "abc"[number % 3]} for number, loss in enumerate(losses)]


def batches_of(rank: int, ranks: int, epoch: int) -> list[list[int]]:
    """The samples of each batch of a rank, by index: no two ranks have the same."""
    order = np.random.default_rng(epoch).permutation(SAMPLES)[rank::ranks]
    ends = np.cumsum(BATCHES[rank])
    return [part.tolist() for part in np.split(order, ends)[:-1]]


def together(ranks: int, epoch: int) -> list[list[int]]:
    """The global batches."""
    rows = zip_longest(*(batches_of(rank, ranks, epoch) for rank in range(ranks)), fillvalue=())
    return [list(chain.from_iterable(row)) for row in rows]


class Batches:
    """A batch sampler."""

    def __init__(self, batches: list[list[int]]) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def weigh(stream: WeightedStream, sampler: Batches, step_size: float = 0.1) -> list[torch.Tensor]:
    """One epoch: losses fall with the epochs, and differ in each."""
    weights = []
    for batch, weight in stream.loader(batch_sampler=sampler):
        losses = batch["loss"].float() * (1.0 - step_size * stream.epoch)
        weights.append(weight.resolve(losses))
    return weights


def in_one_process(name: str, ranks: int, epochs: int) -> tuple[list[list[torch.Tensor]], dict[str, Any], Any]:
    """Weights of the global batches by epoch, the records of the store, and what the strategy has learned."""
    stream = WeightedStream(data(), STRATEGIES[name](), group_fn="domain")
    stream.store.update(np.arange(SAMPLES), similarity=np.sin(np.arange(SAMPLES)))
    weights = [weigh(stream, Batches(together(ranks, epoch))) for epoch in range(epochs)]
    return weights, stream.store.get(np.arange(SAMPLES)), stream.strategy.state_dict()


def one_rank(rank: int, ranks: int, names: list[str], epochs: int, folder: str, shared: bool) -> None:
    """One rank: the same by itself; the results go to a file each."""
    for name in names:
        path = str(Path(folder) / name.replace(" ", "_")) if shared else None
        stream = WeightedStream(data(), STRATEGIES[name](), group_fn="domain", store=path)
        if rank == 0 or not shared:
            stream.store.update(np.arange(SAMPLES), similarity=np.sin(np.arange(SAMPLES)))
        weights = [weigh(stream, Batches(batches_of(rank, ranks, epoch))) for epoch in range(epochs)]
        result = {
            "weights": weights,
            "records": {key: torch.from_numpy(value) for key, value in stream.store.get(np.arange(SAMPLES)).items()},
            "learned": stream.strategy.state_dict(),
            "step": stream.stats()["step"],
        }
        torch.save(result, Path(folder) / f"{name}.{rank}.pt")
        stream.close()


def use_it(rank: int) -> None:
    """The trainer's own backend."""
    torch.distributed.all_gather_into_tensor(torch.zeros(2), torch.ones(1))
