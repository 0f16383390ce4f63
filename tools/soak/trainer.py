"""A training process at full speed: `python -m tools.soak.trainer FOLDER SOURCE WORKERS`.

It goes on from ``FOLDER/SOURCE/state.pt``, opens everything anew every `REOPEN` seconds, checks at the end of every
epoch that each sample was counted once in each epoch, and stops when a line comes in. Says where it is once a second.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tools.soak import data
from weighted_stream import LinUpper, WeightedStream, WeightStore

JOURNAL_BYTES = 64 << 20
"""What 2 seconds at full speed take: it is full soon, and reaches back to the latest state."""
REOPEN = 20.0


def main(folder: Path, source: str, workers: int) -> None:
    """Train until told to stop."""
    torch.set_num_threads(1)
    # It ends in an entry cut short, of a process that was killed: that is what this is about.
    warnings.filterwarnings("ignore", "The journal of the store", RuntimeWarning)
    os.set_blocking(0, False)
    home = folder / source
    home.mkdir(exist_ok=True)
    # One for the whole process: MosaicML streaming keeps what a dataset has open until the process ends.
    dataset = data.read(folder / f"shards-{source}", source)
    while train(dataset, workers, home / "state.pt", shuffle=source == "list"):
        pass


def train(dataset: Any, workers: int, file: Path, *, shuffle: bool) -> bool:
    """Train for `REOPEN` seconds in a fresh stream. Returns whether to go on."""
    store = WeightStore(file.parent / "store", journal_bytes=JOURNAL_BYTES)
    begun = time.monotonic()
    with WeightedStream(dataset, LinUpper(), store=store) as stream:
        if file.exists():
            stream.load_state_dict(torch.load(file, weights_only=True))
        else:
            save(stream, file)  # what the first life does before its first state has to be undone, too
        for now, steps in clock(steps_of(stream, workers, {"shuffle": True} if shuffle else {})):
            print(json.dumps({"steps": steps, "step": stream.stats()["step"], "epoch": stream.epoch}), flush=True)
            save(stream, file)
            if stopped():
                return False
            if now > begun + REOPEN:
                return True
    return True


def steps_of(stream: WeightedStream, workers: int, shuffle: dict[str, bool]) -> Iterator[None]:
    """Train for ever."""
    loader = stream.loader(batch_size=64, num_workers=workers, **shuffle)
    while True:
        for batch, weight in loader:
            markers = batch["marker"]
            (torch.remainder(markers, 97) / 50 + 0.1) * weight
            yield
        check(stream)


def clock(steps: Iterator[None]) -> Iterator[tuple[float, int]]:
    """The time, and the number of steps since, about once a second."""
    last, count = time.monotonic(), 0
    for _ in steps:
        count += 1
        if count & 15 == 0 and (now := time.monotonic()) > last + 1:
            yield now, count
            last, count = now, 0


def check(stream: WeightedStream) -> None:
    """At the end of an epoch: nothing lost, nothing counted twice, over all epochs, restarts and kills."""
    visits = np.concatenate([fields["visits"] for _, fields in stream.store.chunks()])
    assert len(visits) == data.SIZE, f"{len(visits)} samples of {data.SIZE} in the store"
    assert (visits == stream.epoch + 1).all(), f"visits from {visits.min()} to {visits.max()} after {stream.epoch + 1}"
    assert stream.stats()["visits"] == visits.sum(), "counters that do not go with the records"


def save(stream: WeightedStream, file: Path) -> None:
    """Write the state beside the old one, and put it in its place."""
    draft = file.with_suffix(".new")
    torch.save(stream.state_dict(), draft)
    os.replace(draft, file)


def stopped() -> bool:
    """Whether a line has come in, or whoever would send it has gone."""
    try:
        return os.read(0, 100) is not None
    except BlockingIOError:
        return False


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
