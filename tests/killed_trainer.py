"""A training run that goes on wherever it was killed: `python killed_trainer.py FOLDER`.

Two workers read, a scorer runs ahead, the store keeps a journal. It says what it does, one JSON line at a time:
``[pid, …]`` of what it started, ``{"step": n, "sum": …}`` for each batch (a checksum of samples and weights),
``{"flushed": visits}`` once that is on the disk, ``{"saved": step}`` once there is a state, ``{"done": checksum}``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import warnings
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch

from weighted_stream import LinUpper, Similarity, TargetSet, WeightedStream, WeightStore

SIZE, BATCH, EPOCHS = 480, 8, 3
STEPS = EPOCHS * SIZE // BATCH
WORDS = ["apple", "river", "stone", "cloud", "violin", "winter", "harbour", "candle", "meadow", "engine"]


def text(number: int) -> str:
    return " ".join(WORDS[int(digit)] for place, digit in enumerate(f"{number:03}") for _ in range(place + 1))


def say(what: Any) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def records(store: WeightStore) -> int:
    """A checksum of everything in the store."""
    fields = store.get(np.arange(SIZE))
    return crc32(b"".join(fields[name].tobytes() for name in sorted(fields)))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "The journal of the store")
    data = [text(number) for number in range(SIZE)]
    strategy = Similarity(TargetSet([text(7), text(77), text(707)]), wait=True, ahead=64) * LinUpper()
    file = folder / "state.pt"
    with WeightedStream(data, strategy, store=folder / "store") as stream:
        store = stream.store
        assert isinstance(store, WeightStore)
        if file.exists():
            state = torch.load(file, weights_only=True)
            stream.load_state_dict(state["stream"])
            found = records(store), stream.stats()["visits"]
            assert found == (state["records"], state["visits"]), f"{found} where {state} had been saved"
        else:
            save(stream, store, file)
        step = int(stream.stats()["step"])
        say({"begins": step})
        loader = stream.loader(batch_size=BATCH, num_workers=2, shuffle=True, seed=3)
        while step < STEPS:
            for batch, weight in loader:
                losses = torch.tensor([len(sample) % 7 + step / 100 for sample in batch])
                weights = weight.resolve(losses)
                step += 1
                say({"step": step, "sum": crc32(weight.ids.numpy().tobytes() + weights.numpy().tobytes())})
                if step % 5 == 1:
                    say([child.pid for child in multiprocessing.active_children()])
                if step % 9 == 4:
                    visits = stream.stats()["visits"]
                    store.flush()
                    say({"flushed": visits})
                if step % 6 == 0:
                    save(stream, store, file)
        save(stream, store, file)
        say({"done": records(store), "stats": {k: v for k, v in store.stats().items() if v == v}})


def save(stream: WeightedStream, store: WeightStore, file: Path) -> None:
    state = {"stream": stream.state_dict(), "records": records(store), "visits": stream.stats()["visits"]}
    torch.save(state, file.with_suffix(".new"))
    os.replace(file.with_suffix(".new"), file)
    say({"saved": int(stream.stats()["step"])})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
