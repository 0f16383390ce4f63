"""A rank that logs what it and the others weigh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from global_batches import SAMPLES, Batches, batches_of, data, weigh

from weighted_stream import Frozen, LinUpper, Product, StepLog, WeightedStream

EPOCHS = 2

STRATEGIES: dict[str, Any] = {
    "whole": lambda: LinUpper(r=1.0),
    "one by one": lambda: LinUpper(r=1.0, window="running", memory=64),
    "not remembered": lambda: Product(LinUpper(r=1.0, window="running", memory=64), Frozen()),
}


def logged(name: str, batches: list[list[list[int]]], folder: Path, rank: str, store: str | None = None) -> None:
    """Weigh some epochs, and log each batch to ``<name>.<rank>.jsonl``."""
    with WeightedStream(data(), STRATEGIES[name](), group_fn="domain", store=store) as stream:
        StepLog(stream, folder / f"{name}.{rank}.jsonl", every=1)
        if store is None or rank == "0":
            stream.store.update(np.arange(0, SAMPLES, 2), similarity=np.ones(SAMPLES // 2))
        for epoch in batches:
            weigh(stream, Batches(epoch))


def one_rank(rank: int, ranks: int, folder: str) -> None:
    """One rank: with a store that both share, and with one each."""
    for name in STRATEGIES:
        batches = [batches_of(rank, ranks, epoch) for epoch in range(EPOCHS)]
        store = str(Path(folder) / name) if name != "not remembered" else None
        logged(name, batches, Path(folder), str(rank), store)
