"""A run on some ranks, and the rest of it on as many or on others: what the ranks do, and what they saw."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from resuming import markers_of
from torch.utils.data import DistributedSampler

from weighted_stream import LinUpper, ParquetDataset, WeightedStream

SIZE = 42


def stream_of(source: str, folder: str, store: str | None) -> WeightedStream:
    """A stream over rows with markers, in one of the formats."""
    data: Any
    if source == "parquet":
        data = ParquetDataset(f"{folder}/parquet", shuffle=True)
    elif source == "mds":
        from streaming import StreamingDataset

        data = StreamingDataset(local=f"{folder}/mds", batch_size=4, shuffle=True, shuffle_seed=7)
    elif source == "webdataset":
        import webdataset as wds

        urls = sorted(map(str, Path(folder, "tars").glob("*.tar")))
        split = {"nodesplitter": wds.split_by_node, "empty_check": False}
        data = wds.WebDataset(urls, shardshuffle=False, **split).decode().map(_marked)
    else:
        data = [{"marker": row} for row in range(SIZE)]
    return WeightedStream(data, LinUpper(window="running", memory=64), store=store)


def _marked(sample: dict[str, Any]) -> dict[str, Any]:
    return {"marker": sample["cls"]}


def arguments_of(source: str, workers: int) -> dict[str, Any]:
    """Of the loader."""
    own: dict[str, Any] = {"batch_size": 4, "num_workers": workers}
    if source == "list":
        own["sampler"] = DistributedSampler(range(SIZE), shuffle=True, seed=3, drop_last=False)
    return own


def steps(stream: WeightedStream, epochs: int, **arguments: Any) -> Iterator[dict[str, Any]]:
    """The steps of a rank until the epochs are over; losses are a function of sample and epoch."""
    loader = stream.loader(**arguments)
    while stream.epoch < epochs - 1 or stream._position is None or not stream._position.over:
        for batch, weight in loader:
            markers = markers_of(batch)
            losses = (1.0 + (markers % 7)) / (2.0 + stream.epoch)
            weights = weight.resolve(losses.float())
            yield {"epoch": stream.epoch, "markers": markers.tolist(), "weights": weights.tolist()}


def records_of(stream: WeightedStream) -> dict[str, torch.Tensor]:
    """All of the store, by id."""
    chunks = list(stream.store.chunks())
    ids = np.concatenate([ids for ids, _ in chunks])
    order = np.argsort(ids)
    names = ("loss", "last_loss", "weight", "visits", "last_step")
    return {name: torch.from_numpy(np.concatenate([part[name] for _, part in chunks])[order]) for name in names}


def run(
    rank: int, ranks: int, source: str, folder: str, workers: int, path: str | None, load: list[str], out: str
) -> None:
    """Two epochs, or what is left of them after each of the states; rank 0 saves its state after every step."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks)}
    for state in load or [""]:
        stream = stream_of(source, folder, path)
        if state:
            stream.load_state_dict(torch.load(state, weights_only=True))
        done = []
        for step in steps(stream, 2, **arguments_of(source, workers)):
            done.append(step)
            if not state and rank == 0:
                torch.save(stream.state_dict(), Path(out) / f"state{len(done)}.pt")
        result = {"steps": done, "records": records_of(stream)}
        torch.save(result, Path(out) / f"{Path(state).stem or 'whole'}.{rank}.pt")
        stream.close()
