"""A record per sample, kept by the store and by others: `python -m benchmarks.store_rivals [--quick] [--batch 256]`.

The same work for all, see `benchmarks.rivals`: look up what is known of a batch of random samples, and remember a loss
and a weight of each. All keep the same samples and take turns in a random order, each batch with ids that nobody has
just warmed, and the ratio is taken turn by turn. "Records" is how many ids there may be; "touched" how many have a
record, for only those take room in any of them: in a mapped file a page of 4 KiB each, if they lie far apart. Redis (or
Valkey) is a server of this benchmark's own, over a socket file.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Spread, Table, add_form_argument, machine, save
from benchmarks.rivals import KEEPERS, STORE, Keeper, Redis
from benchmarks.store_ops import Ids

FULL = ((10**6, 10**6), (10**7, 10**7), (10**8, 200_000), (10**9, 200_000))
QUICK = ((10**6, 10**5), (10**9, 20_000))
"""Records, and how many of them are touched."""

FILL = 4096
"""Records of an update while filling."""


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[str | None]:
    """The address of a server for as long as needed; None where there is none."""
    binary = shutil.which("valkey-server") or shutil.which("redis-server")
    if binary is None or importlib.util.find_spec("redis") is None:
        print("Redis: left out, it needs redis-server (Debian: apt-get install redis-server) and the extra 'redis'")
        yield None
        return
    socket = folder / "redis.sock"
    settings = ["--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", "", "--appendonly", "no"]
    process = subprocess.Popen([binary, *settings], stdout=subprocess.DEVNULL)
    try:
        while not socket.exists():
            if process.poll() is not None:
                raise RuntimeError(f"{binary} ended with {process.returncode}")
            time.sleep(0.02)
        yield f"unix://{socket}"
    finally:
        process.kill()
        process.wait()


def make_keepers(folder: Path, records: int, address: str | None) -> dict[str, Keeper]:
    """All that can be made here."""
    made: dict[str, Keeper] = {}
    for number, (name, make) in enumerate(KEEPERS.items()):
        try:
            made[name] = make(folder / str(number), records)
        except ImportError as error:
            print(f"{name}: left out, {error} (it is in the extra 'bench')")
    if address is not None:
        made["Redis"] = Redis(address)
    return made


def fill(keeper: Keeper, pool: Ids) -> float:
    """Records per second of the first update of each."""
    ones = np.ones(FILL, np.float32)
    begin = time.perf_counter()
    for at in range(0, len(pool), FILL):
        part = pool[at : at + FILL]
        keeper.update(part, ones[: len(part)], ones[: len(part)], 0)
    return len(pool) / (time.perf_counter() - begin)


def measure(keepers: dict[str, Keeper], pool: Ids, batch: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Microseconds of each call, by keeper and operation, in turns."""
    rng = np.random.default_rng(1)
    loss, weight = rng.gamma(2.0, size=(2, batch)).astype(np.float32)
    times: dict[str, dict[str, list[float]]] = {name: {"get": [], "update": []} for name in keepers}
    names = list(keepers)
    for turn in range(repeats):
        for name in rng.permutation(names).tolist():
            for operation in ("get", "update"):
                ids = rng.choice(pool, 2 * batch)
                ids = np.unique(ids)[:batch]
                n = len(ids)
                begin = time.perf_counter()
                if operation == "get":
                    keepers[name].get(ids)
                else:
                    keepers[name].update(ids, loss[:n], weight[:n], turn)
                times[name][operation].append((time.perf_counter() - begin) * 1e6)
    return times


def level(records: int, touched: int, address: str | None, batch: int, repeats: int) -> list[dict[str, Any]]:
    """All keepers at one size."""
    rng = np.random.default_rng(0)
    pool = np.arange(records) if touched == records else np.unique(rng.integers(0, records, touched))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        keepers = make_keepers(Path(folder), records, address)
        try:
            filled = {name: fill(keeper, pool) for name, keeper in keepers.items()}
            times = measure(keepers, pool, batch, repeats)
            ours = times[STORE]
            for name, keeper in keepers.items():
                row: dict[str, Any] = {"records": records, "touched": len(pool), "keeper": name}
                row["filled"], row["bytes"] = filled[name], keeper.size() / len(pool)
                for operation, values in times[name].items():
                    ratios = [b / a for a, b in zip(ours[operation], values, strict=True)]
                    row[operation] = float(np.median(values))
                    row[f"{operation} ratio"] = None if name == STORE else middle(ratios)
                rows.append(row)
                print(*(f"{key} {value}" for key, value in row.items()), sep="  ", flush=True)
        finally:
            for keeper in keepers.values():
                keeper.close()
    return rows


def middle(values: list[float]) -> Spread:
    """Median, and the range of the middle 80%."""
    low, median, high = np.quantile(values, (0.1, 0.5, 0.9))
    return Spread(float(median), float(low), float(high))


COLUMNS = {
    "records": ("records", ""),
    "touched": ("touched", ""),
    "keeper": ("kept by", ""),
    "filled": ("first writes", "records/s"),
    "get": ("get", "µs"),
    "get ratio": ("get over the store's (middle 80%)", ""),
    "update": ("update", "µs"),
    "update ratio": ("update over the store's (middle 80%)", ""),
    "bytes": ("bytes a record", ""),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store_rivals")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, help="calls of each kind; default: 1,000, quick: 150")
    add_form_argument(parser)
    options = parser.parse_args(argv)
    repeats = options.repeats or (150 if options.quick else 1000)
    print(machine())
    rows = []
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as address:
        for records, touched in QUICK if options.quick else FULL:
            rows += level(records, touched, address, options.batch, repeats)
    cells = [[row[key] or None for key in COLUMNS] for row in rows]
    title = f"Records of samples: {options.batch} random ids a call, medians"
    shown = Table(title, list(COLUMNS.values()), cells, "A ratio above 1: the store is faster.")
    print(f"\n{shown}")
    save("store_rivals", {"batch": options.batch, "repeats": repeats, "rows": rows}, [shown])


if __name__ == "__main__":
    main()
