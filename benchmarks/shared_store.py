"""What sharing a store costs: `python -m benchmarks.shared_store [--samples N] [--repeats N]`.

Needs `valkey-server` or `redis-server` on the path, and starts one on this machine: so trainer, thread and server share
its cores, and the network costs nothing.

- the trainer's side: microseconds per batch of 64 of the product with a `Weight` (LinUpper, a store on disk with its
  journal), with and without a server, in turns: batch after batch, and with 5 ms between them, as a trainer has them;
- samples/s until the server has all of them, until another trainer has, and until one that comes later has.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from benchmarks.harness import LEFT_OUT, Spread, Table, add_form_argument, machine, paired, save
from weighted_stream import LinUpper, SharedStore, StoreError, WeightedStream, WeightStore

BATCH, BATCHES, STEPS = 64, 400, 60


@contextmanager
def server(folder: str) -> Iterator[str]:
    """A server for as long as needed; its address."""
    binary = shutil.which("valkey-server") or shutil.which("redis-server")
    if binary is None:
        print("needs valkey-server or redis-server (Debian: apt-get install redis-server)")
        sys.exit(LEFT_OUT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


def per_batch(stream: WeightedStream, step: float) -> float:
    """Microseconds of the product alone, for batches with ``step`` seconds between them."""
    leaf = torch.rand(BATCH, requires_grad=True)
    spent = 0.0
    weights = [weight for _, weight in stream.loader(batch_size=BATCH, shuffle=True)][: STEPS if step else None]
    for weight in weights:
        if step:
            time.sleep(step)
        losses = leaf + 1
        begin = time.perf_counter()
        losses * weight
        spent += time.perf_counter() - begin
    return spent / len(weights) * 1e6


def trainer_side(url: str, folder: str, repeats: int) -> list[dict[str, Any]]:
    """The product with and without the server, in turns; the server is there, or gone."""
    nowhere = "redis://127.0.0.1:1/0"
    cases = (("back to back", url, 0.0), ("steps of 5 ms", url, 0.005), ("steps of 5 ms, server gone", nowhere, 0.005))
    return [compare(f"{folder}/{number}", *case, repeats) for number, case in enumerate(cases)]


def compare(folder: str, what: str, url: str, step: float, repeats: int) -> dict[str, Any]:
    """One line of the table."""
    data = list(range(BATCH * BATCHES))
    store = SharedStore(url, f"{folder}-shared", name=f"trainer-{step}", must_connect=False, flush_timeout=0.1)
    with warnings.catch_warnings(), WeightedStream(data, LinUpper(r=1.0), store=f"{folder}-alone") as alone:
        warnings.simplefilter("ignore", RuntimeWarning)
        stream = WeightedStream(data, LinUpper(r=1.0), store=store)
        with_it, without, ratio = paired(lambda: per_batch(stream, step), lambda: per_batch(alone, step), repeats)
        with contextlib.suppress(StoreError):  # where there is no server
            stream.close()
    return {"trainer's side": what, "shared, µs": with_it, "alone, µs": without, "ratio": ratio}


def transport(url: str, samples: int, repeats: int) -> dict[str, Spread]:
    """Samples/s to the server, and to others."""
    ids = np.random.default_rng(0).permutation(samples)
    ones = np.ones(samples, np.float32)
    rates: dict[str, list[float]] = {"to the server": [], "to another trainer": [], "to one that comes later": []}
    for repeat in range(repeats):
        name = f"transport-{repeat}"
        with SharedStore(url, name=name, every=0.05) as one, SharedStore(url, name=name, every=0.05) as other:
            other.catch_up()
            one.update(ids, loss=ones, weight=ones, step=1)
            begin = time.perf_counter()
            one.flush()
            rates["to the server"].append(samples / (time.perf_counter() - begin))
            other.catch_up()
            rates["to another trainer"].append(samples / (time.perf_counter() - begin))
            begin = time.perf_counter()
            with SharedStore(url, name=name) as later:
                later.catch_up()
                rates["to one that comes later"].append(samples / (time.perf_counter() - begin))
                assert _visits(later, ids) == _visits(other, ids) == samples
    return {what: Spread.of(values) for what, values in rates.items()}


def _visits(store: WeightStore, ids: Any) -> int:
    return int(store.get(ids)["visits"].sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, help="that go over the line; default: 200,000, quick: 50,000")
    parser.add_argument("--repeats", type=int, help="default: 9; quick: 3")
    add_form_argument(parser)
    arguments = parser.parse_args()
    samples = arguments.samples or (50_000 if arguments.quick else 200_000)
    repeats = arguments.repeats or (3 if arguments.quick else 9)
    torch.set_num_threads(1)
    print(machine())
    with tempfile.TemporaryDirectory() as folder, server(folder) as url:
        time.sleep(0.5)
        rows = trainer_side(url, folder, repeats)
        columns = [("trainer's side", ""), ("shared", "µs"), ("alone", "µs"), ("ratio", "")]
        side = Table("The product of a batch of 64, with a server and without", columns, [[*r.values()] for r in rows])
        print(side)
        rates = transport(url, samples, max(1, repeats // 3))
    columns = [("until all of them are known", ""), ("rate", "samples/s")]
    sent = Table(f"{samples:,} samples, all changed", columns, list(rates.items()))
    print(sent)
    save("shared_store", {"trainer": rows, "samples": samples, "samples/s": rates}, [side, sent])


if __name__ == "__main__":
    main()
