"""The journal and states of a store: `python -m benchmarks.journal_ops [--quick] [--samples 1000000]`.

- The product of a batch of 64 with its `Weight`: without a journal, with one, and with one that is full, so that what
  is oldest goes into the copy of the records, a little with each batch.
- A state of the store, by how many records there are: taken, and loaded again. With a journal it is a place in it;
  without one, all records.
- Samples a second that are undone by going back, written into records made anew, and copied by `compact`; bytes of the
  journal for each sample.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Spread, Table, add_form_argument, machine, save, seconds
from weighted_stream import LinUpper, WeightedStream
from weighted_stream.store import WeightStore

BATCH = 64
BATCHES = 300
SMALL_JOURNAL = 1 << 24
"""Bytes of a journal that is soon full."""


def filled(store: WeightStore, samples: int, step: int = 0, batch: int = 2048) -> WeightStore:
    """Losses and weights of the first samples, in a random order."""
    rng = np.random.default_rng(step)
    ids = rng.permutation(samples)
    loss, weight = rng.gamma(2.0, size=(2, batch)).astype(np.float32)
    for at in range(0, samples, batch):
        part = ids[at : at + batch]
        store.update(part, loss=loss[: len(part)], weight=weight[: len(part)], step=step)
    return store


def product(stream: WeightedStream) -> float:
    """Microseconds of one product of 64 losses with a Weight, store and journal included."""
    weights = [weight for _, weight in stream.loader(batch_size=BATCH, shuffle=True)]
    leaf = torch.rand(BATCH, requires_grad=True)
    losses = [leaf + 1 for _ in weights]
    begin = time.perf_counter()
    for loss, weight in zip(losses, weights, strict=True):
        loss * weight
    return (time.perf_counter() - begin) / len(weights) * 1e6


def products(folder: Path, repeats: int) -> list[list[Any]]:
    """What the journal adds to a batch, in turns."""
    data = list(range(BATCH * BATCHES))
    stores = {
        "no journal": WeightStore(folder / "bare", journal=False),
        "a journal": WeightStore(folder / "kept"),
        "a journal that is full": WeightStore(folder / "full", journal_bytes=SMALL_JOURNAL),
    }
    for store in stores.values():
        filled(store, len(data))
    for step in range(1, 2 + SMALL_JOURNAL // (68 * len(data))):
        filled(stores["a journal that is full"], len(data), step)
    streams = {name: WeightedStream(data, LinUpper(), store=store) for name, store in stores.items()}
    times: dict[str, list[float]] = {name: [] for name in streams}
    rng = np.random.default_rng(0)
    for turn in range(-1, repeats):
        for name in rng.permutation(list(streams)).tolist():
            spent = product(streams[name])
            if turn >= 0:
                times[name].append(spent)
    for store in stores.values():
        store.close()
    bare = times["no journal"]
    return [
        [name, Spread.of(values), Spread.of([a - b for a, b in zip(values, bare, strict=True)])]
        for name, values in times.items()
    ]


def states(folder: Path, samples: int, repeats: int) -> list[list[Any]]:
    """Taking a state and loading it, with a journal and without."""
    rows = []
    for journal in (True, False):
        with WeightStore(folder / f"{samples}-{journal}", journal=journal) as store:
            filled(store, samples)
            taken = [seconds(store.state_dict) for _ in range(repeats)]
            state = store.state_dict()
            loaded = []
            for turn in range(repeats):
                store.update(np.arange(BATCH), loss=np.ones(BATCH), step=turn + 1)
                loaded.append(seconds(lambda state=state: store.load_state_dict(state)))
            rows.append(
                [
                    samples,
                    "a place in the journal" if journal else "all records",
                    Spread.of([one * 1e6 for one in taken]),
                    Spread.of([one * 1e3 for one in loaded]),
                    size_of(state),
                ]
            )
    return rows


def size_of(state: Any) -> int:
    """Bytes of the arrays and texts of a state."""
    if isinstance(state, dict):
        return sum(size_of(key) + size_of(value) for key, value in state.items())
    if isinstance(state, (list, tuple)):
        return sum(map(size_of, state))
    if isinstance(state, (torch.Tensor, np.ndarray)):
        return int(state.nbytes)
    return len(state) if isinstance(state, (str, bytes)) else 8


def rates(folder: Path, samples: int, repeats: int) -> dict[str, Spread]:
    """Millions of samples a second."""
    found: dict[str, list[float]] = {}

    def measure(name: str, work: Callable[[], Any]) -> None:
        found.setdefault(name, []).append(samples / seconds(work) / 1e6)

    for turn in range(repeats):
        path = folder / f"rates-{turn}"
        with WeightStore(path, journal=False) as store:
            filled(store, samples)
            measure("written, no journal", lambda store=store: filled(store, samples))
        path = folder / f"journal-{turn}"
        with WeightStore(path) as store:
            filled(store, samples)
            state = store.state_dict()
            measure("written, with a journal", lambda store=store: filled(store, samples, 1))
            measure("undone", lambda store=store, state=state: store.load_state_dict(state))
            measure("read as history", lambda store=store: sum(len(batch["id"]) for batch in store.history()))
        measure("made anew from the journal", lambda path=path: WeightStore.rebuild(path))
        with WeightStore(path) as store:
            measure("compacted", store.compact)
    return {name: Spread.of(values) for name, values in found.items()}


def journal_bytes(folder: Path, samples: int) -> float:
    """Bytes of the journal for each sample, in batches as a trainer has them."""
    with WeightStore(folder / "bytes") as store:
        ids = np.random.default_rng(0).permutation(samples)
        for step, at in enumerate(range(0, samples, BATCH)):
            part = ids[at : at + BATCH]
            store.record(part, np.ones(len(part)), np.ones(len(part)), step=step)
        store.flush()
    return sum(file.stat().st_size for file in (folder / "bytes" / "journal").glob("*")) / samples


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.journal_ops")
    parser.add_argument("--samples", type=int, help="to undo and rebuild; default: 1,000,000, quick: 200,000")
    parser.add_argument("--records", type=int, nargs="+", help="of the states; default: 10^4 to 10^7, quick: to 10^6")
    parser.add_argument("--repeats", type=int, help="default: 15; quick: 5")
    add_form_argument(parser)
    options = parser.parse_args(argv)
    quick = options.quick
    repeats, samples = options.repeats or (5 if quick else 15), options.samples or (200_000 if quick else 1_000_000)
    records = options.records or ([10**4, 10**6] if quick else [10**4, 10**5, 10**6, 10**7])
    torch.set_num_threads(1)
    print(machine())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        columns = [("store", ""), ("product", "µs"), ("more than without a journal", "µs")]
        tables = [Table(f"The product of a batch of {BATCH}, LinUpper", columns, products(folder, repeats))]
        print(tables[-1], flush=True)
        columns = [("records", ""), ("a state is", ""), ("taken in", "µs"), ("loaded in", "ms"), ("size", "bytes")]
        rows = [row for count in records for row in states(folder, count, repeats)]
        tables.append(Table("A state of the store; between taking and loading, one batch was written", columns, rows))
        print(f"\n{tables[-1]}", flush=True)
        speeds = rates(folder, samples, max(2, repeats // 3))
        columns = [("samples", ""), ("rate", "millions/s")]
        tables.append(Table(f"{samples:,} samples of the journal", columns, list(speeds.items())))
        each = journal_bytes(folder, min(samples, 200_000))
        print(f"\n{tables[-1]}\nbytes of the journal a sample: {each:.1f}")
    figures = {"batch": BATCH, "samples": samples, "bytes a sample": each, "millions/s": speeds}
    save("journal_ops", figures, tables)


if __name__ == "__main__":
    main()
