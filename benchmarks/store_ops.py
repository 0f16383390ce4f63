"""What a `WeightStore` costs over plain NumPy: `python -m benchmarks.store_ops [--samples N] [--repeats N] [--quick]`.

A store of 10**9 samples, of which some are warm, against a plain array of records of the same width in a file mapped
the same way: in one process, in turns, on random ids of the same set. Two comparisons:

- *same work*: NumPy code, as one would write it by hand, that returns the same columns or makes the same update
  (running average, last loss, weight, visits, step), without checks, counters, readers or crash safety;
- *bare*: nothing but moving the records, `array[ids]` for a get, and `array[ids] = array[ids]` for an update.

`record` is what a stream calls with the feedback of a batch: it writes many batches together. 32 calls in a row are
timed, in which it writes as often as it would; the figure is that of a call, also the rival's, an update each. The
samples come in epochs, each in an order of its own, and once more drawn anew for every call (of few samples many come
again then in what is written together).

Ids above 2**38 lie in a table; there the plain way is a Python dict from id to row.
"""

from __future__ import annotations

import argparse
import mmap
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import Table, add_form_argument, machine, save
from weighted_stream.sample_ids import HASHED
from weighted_stream.store import WeightStore

CAPACITY = 10**9
PLAIN = np.dtype(
    [
        *(("loss", "f4"), ("last_loss", "f4"), ("weight", "f4"), ("similarity", "f4")),
        *(("visits", "i4"), ("last_step", "i4"), ("group", "i4"), ("marks", "u4")),
    ]
)
Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Work = Callable[[Ids, Floats, Floats, int], Any]


def plain_array(records: int) -> npt.NDArray[Any]:
    """A sparse mapped file of blank records. NumPy moves them fastest as bytes without fields."""
    with tempfile.TemporaryFile() as file:
        file.truncate(records * PLAIN.itemsize)
        mapped = mmap.mmap(file.fileno(), records * PLAIN.itemsize)
    mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, f"V{PLAIN.itemsize}")


def plain_get(array: npt.NDArray[Any], ids: Ids) -> dict[str, npt.NDArray[Any]]:
    """The columns that `WeightStore.get` returns."""
    return columns_of(array[ids].view(PLAIN))


def columns_of(found: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """Records as columns, NaN where nothing is known."""
    unseen = found["visits"] == 0
    columns = {name: found[name].copy() for name in ("loss", "last_loss", "weight", "similarity")}
    for name in ("loss", "last_loss", "weight"):
        columns[name][unseen] = np.nan
    columns["similarity"][(found["marks"] & 1) == 0] = np.nan
    for name in ("visits", "last_step", "group"):
        columns[name] = found[name].astype(np.int64)
    columns["nonfinite"] = (found["marks"] >> 1).astype(np.int64)
    return columns


def plain_update(array: npt.NDArray[Any], ids: Ids, loss: Floats, weight: Floats, step: int) -> None:
    """What `WeightStore.update` writes."""
    found = array[ids]
    change(found.view(PLAIN), loss, weight, step)
    array[ids] = found


def change(fields: npt.NDArray[Any], loss: Floats, weight: Floats, step: int) -> None:
    """One observation of each of these records."""
    fields["visits"] += 1
    fields["loss"] += (loss - fields["loss"]) / np.minimum(fields["visits"], 10).astype(np.float32)
    fields["last_loss"] = loss
    fields["weight"] = weight
    fields["last_step"] = step


def bare_update(array: npt.NDArray[Any], ids: Ids) -> None:
    array[ids] = array[ids]


FIGURES: list[dict[str, Any]] = []


def measure(
    name: str, works: dict[str, Work], pool: Ids, batch: int, repeats: int, *, calls: int = 1, epochs: bool = False
) -> None:
    """Time the works in turns, on random ids of the pool, so many calls at once; print the figures and keep them."""
    rng = np.random.default_rng(batch)
    loss, weight = (rng.gamma(2.0, size=(2, batch))).astype(np.float32)
    times: dict[str, list[float]] = {kind: [] for kind in works}
    kinds = list(works)
    orders = {kind: in_epochs(pool, batch, rng) for kind in kinds}
    for repeat in range(repeats):
        # Everybody comes first, in the middle and last equally often, and meets ids that nobody has just warmed.
        for kind in kinds[repeat % len(kinds) :] + kinds[: repeat % len(kinds)]:
            work = works[kind]
            drawn = [next(orders[kind]) if epochs else some(pool, batch, rng) for _ in range(calls)]
            given = [(ids, loss[: ids.size], weight[: ids.size]) for ids in drawn]
            begin = time.perf_counter()
            for ids, losses, weights in given:
                work(ids, losses, weights, repeat)
            times[kind].append((time.perf_counter() - begin) / calls)
    line = f"{name:34s} batch {batch:3d}  "
    middles = {kind: float(np.median(values)) for kind, values in times.items()}
    for kind, values in times.items():
        low, high = np.quantile(values, (0.1, 0.9)) * 1e6
        line += f"  {kind} {middles[kind] * 1e6:6.1f} us ({low:.1f}-{high:.1f})"
    microseconds = {kind: round(middle * 1e6, 2) for kind, middle in middles.items()}
    FIGURES.append({"what": name, "batch": batch, "microseconds": microseconds})
    others = [kind for kind in kinds if kind != "store"]
    print(line + "  " + ", ".join(f"{middles['store'] / middles[kind]:.2f}x {kind}" for kind in others))


def some(pool: Ids, batch: int, rng: np.random.Generator) -> Ids:
    """Distinct ids of the pool."""
    return rng.choice(pool, batch, replace=False) if pool.size < 10**4 else np.unique(rng.choice(pool, batch))


def in_epochs(pool: Ids, batch: int, rng: np.random.Generator) -> Iterator[Ids]:
    """Batches of all ids in an order, and again in another, without end; what fills no batch is left out."""
    while True:
        order = rng.permutation(pool)
        yield from (order[first : first + batch] for first in range(0, pool.size - batch + 1, batch))


def dense(warm: int, repeats: int) -> None:
    """Ids below 10**9, of which ``warm`` are in memory."""
    rng = np.random.default_rng(0)
    pool = np.unique(rng.integers(0, CAPACITY, warm))
    pieces = plain_array(CAPACITY)
    with WeightStore() as store:
        store.reserve(CAPACITY)
        first = 0.0
        for part in np.array_split(pool, max(1, pool.size // 256)):
            # In turns: where the pages come to lie in memory decides as much as anything else.
            ones = np.ones(part.size, np.float32)
            begin = time.perf_counter()
            store.update(part, loss=ones)
            first += time.perf_counter() - begin
            plain_update(pieces, part, ones, ones, 0)
        name = f"{pool.size:,} warm of 10^9,"
        print(f"{name} first touch: {first / pool.size * 1e6:.1f} us per sample (each a page of its own)")
        gets: dict[str, Work] = {
            "store": lambda ids, loss, weight, step: store.get(ids),
            "same work": lambda ids, loss, weight, step: plain_get(pieces, ids),
            "bare": lambda ids, loss, weight, step: pieces[ids],
        }
        updates: dict[str, Work] = {
            "store": lambda ids, loss, weight, step: store.update(ids, loss=loss, weight=weight, step=step),
            "same work": lambda ids, loss, weight, step: plain_update(pieces, ids, loss, weight, step),
            "bare": lambda ids, loss, weight, step: bare_update(pieces, ids),
        }
        records = updates | {"store": lambda ids, loss, weight, step: store.record(ids, loss, weight, step=step)}
        for batch in (64, 256):
            measure(f"{name} get", gets, pool, batch, repeats)
            measure(f"{name} update", updates, pool, batch, repeats)
            measure(f"{name} record", records, pool, batch, repeats // 8, calls=32, epochs=True)
            measure(f"{name} record, drawn", records, pool, batch, repeats // 8, calls=32)


def hashed(samples: int, repeats: int) -> None:
    """Random ids above 2**62."""
    rng = np.random.default_rng(0)
    pool = np.unique(rng.integers(HASHED, 2 * HASHED - 1, samples))
    rows = {sample_id: row for row, sample_id in enumerate(pool.tolist())}
    pieces = plain_array(pool.size)

    def find(ids: Ids) -> Ids:
        return np.fromiter(map(rows.__getitem__, ids.tolist()), np.int64, ids.size)

    with WeightStore() as store:
        begin, worst = time.perf_counter(), 0.0
        for part in np.array_split(rng.permutation(pool), max(1, pool.size // 256)):
            start = time.perf_counter()
            store.update(part, loss=np.ones(part.size, np.float32))
            worst = max(worst, time.perf_counter() - start)
        first = time.perf_counter() - begin
        name = f"{pool.size:,} hashed ids,"
        print(f"{name} first touch: {first / pool.size * 1e6:.1f} us per sample, longest update {worst:.2f} s (growth)")
        gets: dict[str, Work] = {
            "store": lambda ids, loss, weight, step: store.get(ids),
            "dict + NumPy": lambda ids, loss, weight, step: plain_get(pieces, find(ids)),
        }
        updates: dict[str, Work] = {
            "store": lambda ids, loss, weight, step: store.update(ids, loss=loss, weight=weight, step=step),
            "dict + NumPy": lambda ids, loss, weight, step: plain_update(pieces, find(ids), loss, weight, step),
        }
        for batch in (64, 256):
            measure(f"{name} get", gets, pool, batch, repeats)
            measure(f"{name} update", updates, pool, batch, repeats)


def logging(repeats: int) -> None:
    """What statistics cost while a run goes on."""
    with WeightStore() as store:
        rng, times = np.random.default_rng(0), []
        for _ in range(repeats):
            losses, weights = rng.gamma(2.0, size=(2, 64)).astype(np.float32)
            store.update(rng.integers(0, 10**6, 64), loss=losses, weight=weights)
            begin = time.perf_counter()
            store.stats()
            times.append(time.perf_counter() - begin)
    low, middle, high = np.quantile(times, (0.1, 0.5, 0.9)) * 1e6
    print(f"stats {middle:.1f} us ({low:.1f}-{high:.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100_000, help="how many of the samples are warm")
    parser.add_argument("--repeats", type=int, help="default: 2,000; quick: 200")
    add_form_argument(parser)
    arguments = parser.parse_args()
    repeats = arguments.repeats or (200 if arguments.quick else 2000)
    print(machine())
    print("median (10 %-90 %) per call, and the ratio of medians")
    dense(2000, repeats)
    dense(arguments.samples, repeats)
    hashed(arguments.samples, repeats)
    logging(repeats)
    save("store_ops", {"capacity": CAPACITY, "calls": FIGURES}, [as_table(FIGURES)])


def as_table(figures: list[dict[str, Any]]) -> Table:
    """Every call, and the store over whoever does the same."""
    rows = []
    for one in figures:
        times = one["microseconds"]
        rival = next(kind for kind in ("same work", "dict + NumPy") if kind in times)
        rows.append([one["what"], one["batch"], times["store"], rival, times[rival], times["store"] / times[rival]])
    columns = [("call", ""), ("batch", "samples"), ("store", "µs"), ("rival", ""), ("rival's", "µs"), ("ratio", "")]
    note = (
        "record: a call of 32 in a row, as a stream makes them, in epochs; written together. drawn: the same of "
        "samples drawn anew for every call; of 2,000 many come again in what is written together."
    )
    return Table("Store over NumPy doing the same work, medians", columns, rows, note)


if __name__ == "__main__":
    main()
