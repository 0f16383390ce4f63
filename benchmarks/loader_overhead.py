"""What wrapping costs: samples/s of a wrapped loader over the bare one, and the trainer's side of a batch.

    python -m benchmarks.loader_overhead [--quick]

Cold: the first epoch of a fresh loader, workers' start included. Warm: a later epoch of the same loader (workers kept).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader

from benchmarks.harness import Spread, Table, add_form_argument, machine, paired, save
from weighted_stream import LinUpper, ParquetDataset, StepLog, Uniform, WeightedStream
from weighted_stream.strategies.lin_upper import lin_upper

CHARACTERS = 940
BATCH = 64


def text(row: int) -> str:
    """About what a web page's paragraph weighs."""
    words = np.random.default_rng(row).integers(0, 9999, CHARACTERS // 5)
    return " ".join(f"{word:04d}" for word in words)


def write_parquet(folder: Path, rows: int) -> Callable[[], Any]:
    """Eight files."""
    for shard, part in enumerate(np.array_split(np.arange(rows), 8)):
        pq.write_table(pa.table({"text": [text(int(r)) for r in part], "row": part}), folder / f"{shard}.parquet")
    return lambda: ParquetDataset(folder)


def write_mds(folder: Path, rows: int) -> Callable[[], Any]:
    """About eight shards."""
    from streaming import MDSWriter, StreamingDataset

    with MDSWriter(out=str(folder), columns={"text": "str", "row": "int"}, size_limit=rows * CHARACTERS // 8) as out:
        for row in range(rows):
            out.write({"text": text(row), "row": row})
    return lambda: StreamingDataset(local=str(folder), shuffle=False, batch_size=BATCH)


def write_webdataset(folder: Path, rows: int) -> Callable[[], Any]:
    """Eight shards."""
    import webdataset

    with webdataset.ShardWriter(f"{folder}/%02d.tar", maxcount=-(-rows // 8), verbose=0) as out:
        for row in range(rows):
            out.write({"__key__": f"{row:07d}", "text.txt": text(row), "row.cls": row})
    urls = sorted(map(str, folder.glob("*.tar")))
    return lambda: webdataset.WebDataset(urls, shardshuffle=False).decode()


def in_memory(folder: Path, rows: int) -> Callable[[], Any]:
    """A list of dicts of 64 tokens, a mask and a label: about a microsecond a sample, so every instruction shows."""
    tokens = torch.randint(30_000, (rows, 64))
    samples = [{"tokens": row, "mask": row > 9, "label": number} for number, row in enumerate(tokens)]
    return lambda: samples


def in_memory_small(folder: Path, rows: int) -> Callable[[], Any]:
    """A list of dicts of 16 numbers and a label."""
    samples = [{"x": x, "y": y} for y, x in enumerate(torch.rand(rows, 16))]
    return lambda: samples


FORMATS: dict[str, tuple[Callable[[Path, int], Callable[[], Any]], int, float | None]] = {
    "MDS": (write_mds, 20_000, 0.97),
    "WebDataset": (write_webdataset, 20_000, 0.97),
    "Parquet": (write_parquet, 160_000, 0.97),
    "in-memory list": (in_memory, 100_000, 0.90),
    "in-memory list, small samples": (in_memory_small, 100_000, None),
}


def rate(loader: Any, rows: int) -> float:
    """Samples per second of one epoch."""
    start = time.perf_counter()
    for _ in loader:
        pass
    return rows / (time.perf_counter() - start)


def compare(
    make: Callable[[], Any], rows: int, workers: int, warm: bool, repeats: int
) -> tuple[Spread, Spread, Spread]:
    """Wrapped over bare."""
    options: dict[str, Any] = {"batch_size": BATCH, "num_workers": workers, "collate_fn": None}
    if workers:
        options["persistent_workers"] = warm
    if not warm:
        return paired(
            lambda: rate(WeightedStream(make(), Uniform()).loader(**options), rows),
            lambda: rate(DataLoader(make(), **options), rows),
            repeats,
        )
    wrapped, bare = WeightedStream(make(), Uniform()).loader(**options), DataLoader(make(), **options)
    return paired(lambda: rate(wrapped, rows), lambda: rate(bare, rows), repeats)


def by_size(quick: bool) -> list[list[Any]]:
    """A batch that is one tensor, out of two workers: wrapped over bare, for tensors of 4 KiB to 4 MiB."""
    rows: list[list[Any]] = []
    for kib in (4, 64, 256, 1024, 4096):
        batches = 200 if quick else 1000 if kib < 1024 else 400
        data = [torch.zeros(kib * 256)] * batches  # one piece of memory, at hand in the workers
        options: dict[str, Any] = {"batch_size": 1, "num_workers": 2, "persistent_workers": True}
        wrapped, bare = WeightedStream(data, Uniform()).loader(**options), DataLoader(data, **options)
        rates = paired(partial(rate, wrapped, batches), partial(rate, bare, batches), 3 if quick else 25)
        rows.append([kib, *rates])
        print(*rows[-1], sep="  ", flush=True)
    return rows


def trainer_side(repeats: int = 21, batches: int = 400) -> dict[str, Spread]:
    """Microseconds that the product with a Weight takes per batch of 64: in all, and beyond the formula by hand."""
    data = list(torch.rand(BATCH * batches))
    stream = WeightedStream(data, LinUpper(r=1.0))
    leaf = torch.rand(BATCH, requires_grad=True)

    def run(weights: list[Any], multiply: Callable[[Any, Any], Any]) -> float:
        losses = [leaf + 1 for _ in weights]
        start = time.perf_counter()
        for loss, weight in zip(losses, weights, strict=True):
            multiply(loss, weight)
        return (time.perf_counter() - start) / len(weights) * 1e6

    def product(stream: WeightedStream) -> float:
        return run([weight for _, weight in stream.loader(batch_size=BATCH)], lambda loss, weight: loss * weight)

    def ours() -> float:
        return product(stream)

    def by_hand() -> float:
        return run([None] * batches, lambda loss, _: loss * lin_upper(loss.detach(), 1.0))

    def plain() -> float:
        return run([None] * batches, lambda loss, _: loss * 1.0)

    ours_us, hand_us, ratio = paired(ours, by_hand, repeats)
    _, plain_us, _ = paired(ours, plain, 5)
    with (
        tempfile.TemporaryDirectory() as folder,
        WeightedStream(data, LinUpper(r=1.0), store=f"{folder}/store") as kept,
    ):
        journal_us, _, more = paired(lambda: product(kept), ours, repeats)
    with tempfile.TemporaryDirectory() as folder, WeightedStream(data, LinUpper(r=1.0)) as logged:
        StepLog(logged, f"{folder}/log.jsonl", every=10)
        logged_us, _, logging = paired(lambda: product(logged), ours, repeats)
    return {
        "ours": ours_us,
        "by hand": hand_us,
        "ours / by hand": ratio,
        "losses * 1.0": plain_us,
        "ours, a store on disk with its journal": journal_us,
        "with / without it": more,
        "ours, a StepLog of JSON lines every 10 batches": logged_us,
        "with / without the log": logging,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader_overhead")
    add_form_argument(parser)
    quick = parser.parse_args(argv).quick
    print(machine())
    rows: list[list[Any]] = []
    for name, (write, count, wanted) in FORMATS.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                count = count // 4 if quick else count
                make = write(Path(folder), count)
            except ImportError as error:
                print(f"{name}: left out, {error}")
                continue
            for workers in (0, 2):
                for warm in (False, True):
                    ours, bare, ratio = compare(make, count, workers, warm, 3 if quick else 25)
                    rows.append([name, workers, "warm" if warm else "cold", ours, bare, ratio, wanted])
                    print(*rows[-1], sep="  ", flush=True)
    sizes = by_size(quick)
    headings = ["format", "workers", "epoch", "wrapped/s", "bare/s", "ratio", "wanted"]
    side = trainer_side(7 if quick else 21)
    units = ["", "", "", "samples/s", "samples/s", "", "at least"]
    tables = [
        Table("Loaders, wrapped over bare", list(zip(headings, units, strict=True)), rows, "median (range) of pairs"),
        Table(
            "Tensors out of two workers, wrapped over bare",
            [("tensor", "KiB"), ("wrapped/s", "tensors/s"), ("bare/s", "tensors/s"), ("ratio", "")],
            sizes,
            "by value up to 256 KiB, beyond in shared memory as torch does; a batch of one tensor, which nobody reads",
        ),
        Table(
            "The trainer's side of a batch of 64, LinUpper (wanted: ours at most 50 µs)",
            [("what", ""), ("median (range)", "µs, or a ratio")],
            [[what, spread] for what, spread in side.items()],
        ),
    ]
    print(*tables, sep="\n\n")
    loaders = [dict(zip(headings, row, strict=True)) for row in rows]
    kept = [dict(zip(["KiB", "wrapped/s", "bare/s", "ratio"], row, strict=True)) for row in sizes]
    save("loader_overhead", {"loaders": loaders, "tensors": kept, "trainer": side}, tables)


if __name__ == "__main__":
    main()
