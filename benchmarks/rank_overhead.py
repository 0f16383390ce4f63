"""What feedback over ranks costs: a training step under DistributedDataParallel with weights over one without.

    OMP_NUM_THREADS=1 python -m benchmarks.rank_overhead [--ranks 1 2 4] [--repeats 9]

Every rank is a process of its own on this machine, joined by gloo; more ranks than cores also wait for each other's
turn, in both columns. A joint strategy (LinUpper over the batch) waits for the losses of all ranks; one with a running
window tells its own and goes on. "each by itself" is the same product without any exchange (``process_group=False``).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from benchmarks.harness import Spread, Table, add_form_argument, paired, save
from weighted_stream import LinUpper, WeightedStream

BATCH = 16
STEPS = 60
WIDTH = 512

WAYS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "LinUpper, global batch": lambda: (LinUpper(), None),
    "LinUpper, running window": lambda: (LinUpper(window="running"), None),
    "LinUpper, each by itself": lambda: (LinUpper(), False),
}


def rank_work(rank: int, ranks: int, repeats: int, folder: str) -> None:
    """One rank; the first one writes the figures down."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    torch.manual_seed(0)
    layers = [nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, 1)]
    model = DistributedDataParallel(nn.Sequential(*layers))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    data = [(x, x.sum().tanh()) for x in torch.randn(BATCH * STEPS, WIDTH)]
    bare = DataLoader(data, batch_size=BATCH)  # type: ignore[arg-type]

    def step(batch: Any, weight: Any) -> None:
        x, y = batch
        losses = (model(x).squeeze(1) - y).square()
        optimizer.zero_grad()
        (losses * weight).mean().backward()
        optimizer.step()

    def epoch(pairs: Any) -> float:
        """Milliseconds a step."""
        torch.distributed.barrier()
        start = time.perf_counter()
        for batch, weight in pairs:
            step(batch, weight)
        return (time.perf_counter() - start) / STEPS * 1e3

    figures = {}
    for way, make in WAYS.items():
        strategy, process_group = make()
        stream = WeightedStream(
            data,
            strategy,
            store=f"{folder}/{way} {rank if process_group is False else ''}",
            process_group=process_group,
        )
        loader = stream.loader(batch_size=BATCH)
        ours, plain, ratio = paired(
            lambda loader=loader: epoch(loader), lambda: epoch((batch, 1.0) for batch in bare), repeats, warmup=2
        )
        figures[way] = {"ours_ms": vars(ours), "plain_ms": vars(plain), "ratio": vars(ratio)}
        stream.close()
    if rank == 0:
        Path(folder, "figures.json").write_text(json.dumps(figures))
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may abort an orderly exit


def measure(ranks: int, repeats: int) -> dict[str, Any]:
    """Figures of the first rank, by strategy."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(rank_work, (ranks, repeats, folder), nprocs=ranks)
        figures: dict[str, Any] = json.loads(Path(folder, "figures.json").read_text())
        return figures


def main() -> None:
    """Measure, print and save."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--ranks", type=int, nargs="+", help="default: 1 2 4; quick: 1 2")
    arguments.add_argument("--repeats", type=int, help="default: 9; quick: 3")
    add_form_argument(arguments)
    given = arguments.parse_args()
    repeats = given.repeats or (3 if given.quick else 9)
    kept, rows = {}, []
    for ranks in given.ranks or ([1, 2] if given.quick else [1, 2, 4]):
        figures = kept[str(ranks)] = measure(ranks, repeats)
        for way, figure in figures.items():
            ours, plain, ratio = (Spread(**figure[name]) for name in ("ours_ms", "plain_ms", "ratio"))
            more = (ours.median - plain.median) * 1e3
            rows.append([ranks, way, ours, plain, ratio, more])
    columns = [("ranks", ""), ("weights", ""), ("step", "ms"), ("plain step", "ms"), ("ratio", ""), ("more", "µs")]
    shown = Table(f"A step of {BATCH} samples a rank under DistributedDataParallel, gloo", columns, rows)
    print(shown)
    save("rank_overhead", {"batch": BATCH, "steps": STEPS, "ranks": kept}, [shown])


if __name__ == "__main__":
    main()
