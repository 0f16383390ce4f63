"""A trainer in a process of its own, for tests that kill it or let it end: says its scorer's pid, and goes on."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import torch
from ahead_stand_ins import Numbers, Scored, plan, until

from weighted_stream import WeightedStream


def main(how: str, workers: int, log: Path) -> None:
    stream = WeightedStream([str(n) for n in range(5000)], Scored(plan(Numbers(log, seconds=0.01))))
    loader = stream.loader(batch_size=4, num_workers=workers)
    for batch, weight in loader:
        torch.zeros(len(batch)) * weight
        until(log.exists)
        (scorer,) = [p for p in multiprocessing.active_children() if "scorer" in p.name]
        print(scorer.pid, flush=True)
        break
    if how == "wait":
        for batch, weight in loader:
            torch.zeros(len(batch)) * weight
            sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
