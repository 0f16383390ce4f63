"""LinUpper in small batches, over the batch and over a running window: `python -m benchmarks.batch_sizes [--quick]`.

As published, a weight is relative to the losses of its batch: in a batch of one it is 1, whatever the loss, and in one
of two it is one of two numbers. With ``window="running"`` it is relative to the losses of late. Here both train on the
packages' text of which half are repeats of 64 pieces, where LinUpper helps (`benchmarks.effects --on redundant`), in
batches of 1, 2, 8 and 64: the same samples, so more steps of smaller batches, with a learning rate that falls as the
square root of the batch. Each is held against uniform training in batches of that size.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

from benchmarks.effects import interval, line, signed
from benchmarks.effects_runs import MODELS, RATES, Task, run
from benchmarks.harness import Table, add_form_argument, machine, save

BATCHES = (1, 2, 8, 64)
WAYS = ("uniform", "LinUpper(r=0.4)", "LinUpper(r=0.4), running window")
EPOCHS = 2


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch_sizes")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--samples", type=int, help="of the stream, two epochs; default: 3,200, quick: 640")
    parser.add_argument("--seeds", type=int, help="default: 3; quick: 1")
    parser.add_argument("--model", choices=list(MODELS), default="small")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    add_form_argument(parser)
    options = parser.parse_args(argv)
    options.samples = options.samples or (640 if options.quick else 3200)
    options.seeds = options.seeds or (1 if options.quick else 3)
    print(machine())
    start = time.perf_counter()
    runs = measure(options)
    rows = figures(runs, options)
    shown = tabulated(rows, options)
    print(f"\n{shown}\n\n{time.perf_counter() - start:.0f} s")
    settings = {name: getattr(options, name) for name in ("batches", "samples", "seeds", "model")}
    save("batch_sizes", {**settings, "rows": rows}, [shown])


def measure(options: argparse.Namespace) -> dict[tuple[int, str, int], dict[str, Any]]:
    """All runs, by batch, row and seed."""
    base = Task("uniform", 0, "redundant", options.samples, model=options.model, evaluations=10)
    keys = [(batch, way, seed) for seed in range(options.seeds) for batch in options.batches for way in WAYS]
    tasks = [
        replace(
            base,
            row=way,
            seed=seed,
            batch=batch,
            steps=EPOCHS * options.samples // batch,
            rate=RATES[options.model] * (batch / 64) ** 0.5,
        )
        for batch, way, seed in keys
    ]
    results = {}
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for key, result in zip(keys, pool.map(run, tasks), strict=True):
            results[key] = result
            print(f"batch {key[0]}  {line(result)}", flush=True)
    return results


def figures(runs: dict[tuple[int, str, int], dict[str, Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Means and intervals over the seeds."""
    rows = []
    for batch in options.batches:
        for way in WAYS:
            mine = [runs[batch, way, seed] for seed in range(options.seeds)]
            base = [runs[batch, "uniform", seed] for seed in range(options.seeds)]
            losses = [run["losses"]["report"] for run in mine]
            gaps = [loss - run["losses"]["report"] for loss, run in zip(losses, base, strict=True)]
            rows.append(
                {
                    "batch": batch,
                    "weights": way,
                    "steps": mine[0]["curve"]["steps"][-1],
                    "losses": losses,
                    "loss": statistics.mean(losses),
                    "difference": interval(gaps),
                    "below uniform": sum(gap < 0 for gap in gaps),
                    "spread of weights": statistics.mean(statistics.pstdev(run["weights"]) for run in mine),
                }
            )
    return rows


def tabulated(rows: list[dict[str, Any]], options: argparse.Namespace) -> Table:
    keys = ("batch", "weights", "steps", "loss", "difference", "below uniform", "spread of weights")
    headings = ["batch", "weights", "steps", "loss", "less than uniform (95%)", "below", "sd of the weights"]
    units = ["samples", "", "", "nats", "nats", "seeds", ""]
    title = f"LinUpper by batch size, {EPOCHS} epochs of {options.samples:,} texts, half of them repeats"
    cells = [[signed(key, row[key]) for key in keys] for row in rows]
    return Table(title, list(zip(headings, units, strict=True)), cells)


if __name__ == "__main__":
    main()
