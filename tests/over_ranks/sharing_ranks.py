"""What a rank does whose store is shared with other jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from weighted_stream import SharedStore, Similarity, WeightedStream

SAMPLES = 24


def one_rank(rank: int, ranks: int, url: str, folder: str) -> None:
    """Two epochs, each rank a part of the samples; what it knows at the end."""
    path = Path(folder, f"store-{rank}")
    store = SharedStore(url, path, every=0.02, name="ranks")
    stream = WeightedStream(list(range(SAMPLES)), Similarity(), store=store)
    sampler: Any = torch.utils.data.DistributedSampler(range(SAMPLES), ranks, rank, shuffle=False)
    if rank == 0:
        store.catch_up()  # with the scores, which go on to the other rank
    loader = stream.loader(batch_size=2, sampler=sampler)
    for _ in range(2):
        for samples, weight in loader:
            weight.resolve(samples.float())
    records = stream.store.get(range(SAMPLES))
    torch.save({name: torch.from_numpy(values) for name, values in records.items()}, f"{folder}/rank-{rank}.pt")
    torch.distributed.barrier()
    assert ("shared_sent" in store.stats()) == (rank == 0)
    stream.close()
