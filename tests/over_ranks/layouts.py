"""Runs of every source on some layouts of ranks and workers, and their rests: what the ranks do, and what they saw."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from elastic import SIZE, arguments_of, records_of, steps, stream_of
from torch.utils.data import IterableDataset, get_worker_info

from weighted_stream import LinUpper, WeightedStream

Layout = tuple[int, int]
"""Ranks, and workers of each."""


class Lines(IterableDataset[dict[str, int]]):
    """Splits itself over ranks and workers, shuffles by epoch."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, int]]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        order = np.random.default_rng(self.epoch).permutation(SIZE)[rank::ranks][worker::workers]
        return ({"marker": int(row)} for row in order)


def stream_over(source: str, folder: str) -> WeightedStream:
    """A stream over rows with markers; every source there is."""
    if source in ("list", "parquet", "mds", "webdataset"):
        return stream_of(source, folder, None)
    data: Any = Lines()
    id_fn = "marker"
    if source.startswith("hugging face"):
        import datasets
        from datasets.distributed import split_dataset_by_node

        data = datasets.Dataset.from_dict({"marker": list(range(SIZE))})
        if source == "hugging face":
            data, id_fn = data.shuffle(seed=3), ""
        else:
            whole = data.to_iterable_dataset(num_shards=8).shuffle(seed=3, buffer_size=10)
            data = split_dataset_by_node(whole, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    return WeightedStream(data, LinUpper(window="running", memory=64), id_fn=id_fn or None)


def _trained(stream: WeightedStream, source: str, workers: int) -> Iterator[dict[str, Any]]:
    source = "list" if source == "hugging face" else source
    return steps(stream, 2, **arguments_of(source, workers))


def _begin(rank: int, ranks: int) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks)}


def whole_runs(rank: int, ranks: int, cells: list[tuple[str, int]], folder: str) -> None:
    """Two epochs of each source and number of workers; rank 0 saves its state after every step."""
    _begin(rank, ranks)
    for source, workers in cells:
        stream = stream_over(source, folder)
        done, states = [], []
        for step in _trained(stream, source, workers):
            done.append(step)
            states.append(stream.state_dict())
        result = {"steps": done, "records": records_of(stream)}
        torch.save(result, file_of(folder, source, (ranks, workers), f"whole.{rank}"))
        if rank == 0:
            torch.save(states, file_of(folder, source, (ranks, workers), "states"))
        stream.close()


def rests(rank: int, ranks: int, wanted: list[tuple[str, int, Layout, list[int]]], folder: str) -> None:
    """What is left of runs on this or another layout, after each of some steps (0: all there are).

    Args:
        rank, ranks: this one, of so many.
        wanted: source, workers now, layout before, numbers of steps.
        folder: of the whole runs.
    """
    _begin(rank, ranks)
    for source, workers, before, stops in wanted:
        states = torch.load(file_of(folder, source, before, "states"), weights_only=True)
        found = {}
        for stop in range(1, len(states) + 1) if stops == [0] else stops:
            stream = stream_over(source, folder)
            stream.load_state_dict(states[stop - 1])
            done = list(_trained(stream, source, workers))
            found[stop] = {"steps": done, "records": records_of(stream)}
            stream.close()
        name = f"after {before[0]}x{before[1]}.{rank}"
        torch.save(found, file_of(folder, source, (ranks, workers), name))


def file_of(folder: str, source: str, layout: Layout, name: str) -> Path:
    """Where results are."""
    return Path(folder) / f"{source.replace(' ', '_')} {layout[0]}x{layout[1]} {name}.pt"
