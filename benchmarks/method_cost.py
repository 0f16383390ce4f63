"""What a step costs with each method, as a ratio to plain training.

    python -m benchmarks.method_cost [--device cpu | cuda] [--sizes 1M 5M] [--batch 16] [--parts 1] [--only NAME]

Plain training is a loop over a DataLoader without this library: forward, the mean cross-entropy, backward, AdamW,
batches of 16 (``--batch``), whole or in micro-batches (``--parts``); so a method's ratio has the losses per sample in
it. A method's steps and plain ones are timed in turn, a few at a time. "Probe alone" is no training: the one forward
and backward in which a batch shows the products of its gradients with each other and with a target's, over a plain
training step of as many samples. FilterThenWeight's rows are whole training steps, with all it takes to choose 16 of 16
(100%) or 16 of 64 (25%) samples; its target, and Adapt's, has 8 examples and lasts 5 steps, as dear as 80 that last 50
("Adapt, between refreshes" is without that). The Data Weighting Model learns on 1 of 25 batches, as by default;
Meta-Weight-Net on each, as published.

Peak memory is that of nothing but these steps, beyond what was taken before there was a model: on a GPU what torch
allocated there, on a CPU the resident set of a process of its own.

Results are saved after each row; a row that fails, say for lack of memory, is named, and the others go on.

The machine must have nothing else to do; on one CPU core (OMP_NUM_THREADS=1) it takes about half an hour. On a GPU,
training and probe run under autocast to bfloat16.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import Spread, Table, add_form_argument, machine, paired, save
from benchmarks.method_cost_runs import (
    BATCH,
    BOUNDS,
    IN_PARTS,
    METHODS,
    PARTS,
    REFRESH,
    SIZES,
    STEPS,
    WITHIN_A_HUNDREDTH,
    Setup,
    Step,
    plain,
)

PLAIN = "plain"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.method_cost")
    parser.add_argument("--device", choices=list(SIZES), default="cpu")
    parser.add_argument("--sizes", nargs="+", help="of the model; all of the device by default")
    parser.add_argument("--repeats", type=int, help="default: 7; quick: 3")
    parser.add_argument("--batch", type=int, default=BATCH, help="samples a step (default: 16)")
    parser.add_argument("--parts", type=int, default=1, help="micro-batches a step; 1 by default")
    add_form_argument(parser)
    parser.add_argument("--only", action="append", choices=list(METHODS), help="this row; may be repeated")
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args(argv)
    options.repeats = options.repeats or (3 if options.quick else 7)
    if options.quick:
        options.sizes = options.sizes or [next(iter(SIZES[options.device]))]
        options.only = options.only or list(QUICK)
    # Weights of a small spread, or past a theory's bound, are no matter here.
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    where = where_on(options.device)
    print(where)
    start = time.perf_counter()
    sizes: dict[str, dict[str, Any]] = {}
    said = f"{options.batch} samples a step in {options.parts} part(s); {NOTE}"

    def keep() -> None:
        if not options.no_save:
            tables = [tabulated(size, one, said) for size, one in sizes.items() if one["rows"]]
            save(name_of(options), {"device": where, "batch": said, "sizes": sizes}, tables)

    for size in options.sizes or SIZES[options.device]:
        sizes[size] = {"rows": [], "failed": {}}
        measure(size, options, sizes[size], keep)
    print(f"\n{time.perf_counter() - start:.0f} s")
    failed = {size: list(found["failed"]) for size, found in sizes.items() if found["failed"]}
    if failed:
        sys.exit(f"method_cost: rows failed: {failed}")


def name_of(options: argparse.Namespace) -> str:
    """Of the results: another one for each part that `make bench-gpu` runs."""
    parts = ["method_cost", *([options.device] if options.device != "cpu" else [])]
    parts += options.sizes if options.sizes and not options.quick else []
    parts += [f"batch_{options.batch}"] if options.batch != BATCH else []
    return "_".join(parts + ([f"parts_{options.parts}"] if options.parts > 1 else []))


QUICK = ("Uniform", "LinUpper", "Similarity, stored scores", "Adapt", "FilterThenWeight, 100%, head")
NOTE = "targets of 8 examples, refreshed every 5 steps; DWM learns on 1 of 25 batches"


def where_on(device: str) -> str:
    """What is measured on."""
    if device == "cpu":
        return f"{machine()}, {torch.get_num_threads()} thread(s); no GPU"
    if not torch.cuda.is_available():
        raise SystemExit("method_cost: there is no GPU here that torch can use; leave out --device cuda")
    return machine()


def measure(size: str, options: argparse.Namespace, found: dict[str, Any], keep: Callable[[], None]) -> None:
    """All methods at one size into ``found``, which is kept and printed as it grows, and printed again at the end."""
    device, how = options.device, (size, options.device, options.batch, options.parts)
    names = options.only or list(IN_PARTS if options.parts > 1 else METHODS)
    parameters = setup_of(*how).parameters
    print(f"\n{size}: {parameters / 1e6:.1f} million parameters, context {SIZES[device][size].context}")
    plain_memory = peak_memory(PLAIN, *how)
    found |= {"parameters": parameters, "plain MiB": plain_memory / 2**20}
    for name in names:
        try:
            row = measured(name, how, plain_memory, options.repeats)
        except Exception as error:  # whatever it is, the other rows can do without this one
            traceback.print_exc()
            found["failed"][name] = repr(error)
            keep()
            continue
        found["rows"].append(row)
        print(*cells(row), sep="  ", flush=True)
        keep()
    print(f"\n{tabulated(size, found)}")
    for row in found["rows"]:
        if "why" in row:
            print(f"\n{row['method']} takes longer than wanted. {explained(row['why'])}")


def measured(name: str, how: tuple[str, str, int, int], plain_memory: float, repeats: int) -> dict[str, Any]:
    """One row."""
    size, device = how[:2]
    memory = peak_memory(name, *how)
    ours, theirs, ratio = time_against_plain(name, *how, repeats=repeats)
    bounded = device == "cuda" and size == "124M" and name in WITHIN_A_HUNDREDTH
    row = {
        "method": name,
        "ms": ours,
        "plain ms": theirs,
        "time ratio": ratio,
        "wanted": 1.01 if bounded else BOUNDS.get(name),
        "MiB": memory / 2**20,
        "memory ratio": memory / plain_memory,
    }
    if row["wanted"] is not None and ratio.median > row["wanted"]:
        row["why"] = why(name, *how, repeats=repeats)
    return row


def setup_of(size: str, device: str, batch: int = BATCH, parts: int = 1) -> Setup:
    return Setup.of(SIZES[device][size], device, batch, parts)


def time_against_plain(
    name: str, size: str, device: str, batch: int = BATCH, parts: int = 1, *, repeats: int
) -> tuple[Spread, Spread, Spread]:
    """Milliseconds of a step, of a plain step, and the ratio, pair by pair."""
    ours, theirs = METHODS[name](setup_of(size, device, batch, parts)), plain(setup_of(size, device, batch, parts))
    steps = STEPS.get(name, REFRESH)
    return paired(lambda: milliseconds(ours, device, steps), lambda: milliseconds(theirs, device, steps), repeats)


def milliseconds(step: Step, device: str, steps: int = REFRESH) -> float:
    """Of one step, on average over a few: so many that what comes now and then comes once."""
    finish(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    finish(device)
    return (time.perf_counter() - start) / steps * 1e3


def finish(device: str) -> None:
    """Wait for the GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak_memory(name: str, size: str, device: str, batch: int = BATCH, parts: int = 1) -> float:
    """Bytes that some steps of a method take at most, model and optimizer included."""
    if device == "cuda":
        return peak_here(name, size, device, torch.get_num_threads(), batch, parts)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(peak_here, name, size, device, torch.get_num_threads(), batch, parts).result()


def peak_here(name: str, size: str, device: str, threads: int, batch: int = BATCH, parts: int = 1) -> float:
    """`peak_memory` in this process, which on a CPU has done nothing else."""
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    if device == "cuda":
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
    before = float(torch.cuda.memory_allocated()) if device == "cuda" else resident("VmRSS")
    setup = setup_of(size, device, batch, parts)
    step = plain(setup) if name == PLAIN else METHODS[name](setup)
    for _ in range(STEPS.get(name, REFRESH) + 1):
        step()
    return (float(torch.cuda.max_memory_allocated()) if device == "cuda" else resident("VmHWM")) - before


def resident(field: str) -> float:
    """Bytes of this process in memory: now (VmRSS), or at most so far (VmHWM). Linux; nan elsewhere."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((float(row.split()[1]) * 1024 for row in lines if row.startswith(f"{field}:")), float("nan"))


def why(name: str, size: str, device: str, batch: int = BATCH, parts: int = 1, *, repeats: int) -> dict[str, Any]:
    """What takes the time of a method: its parts, in turns with plain steps, and the profiler's longest entries."""
    how = (size, device, batch, parts)
    found = {}
    for part, make in PARTS.get(name, {}).items():
        ours, theirs = make(setup_of(*how)), plain(setup_of(*how))
        _, _, found[part] = paired(
            lambda step=ours: milliseconds(step, device),  # type: ignore[misc]
            lambda step=theirs: milliseconds(step, device),  # type: ignore[misc]
            repeats,
        )
    return {
        "parts": found,
        "longest": longest(METHODS[name](setup_of(*how)), device, STEPS.get(name, REFRESH)),
    }


def longest(step: Step, device: str, steps: int, entries: int = 8) -> list[tuple[str, float]]:
    """The operations that take most of the time, and their shares of it."""
    step()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as seen:
        for _ in range(steps):
            step()
        finish(device)
    if device == "cuda":  # of the kernels; the operations that start them have the same time again
        kernels = [one for one in seen.key_averages() if one.device_type == DeviceType.CUDA]
        spent = {one.key: float(one.self_device_time_total) for one in kernels}
    else:
        spent = {one.key: float(one.self_cpu_time_total) for one in seen.key_averages()}
    total = sum(spent.values()) or 1.0
    return [(key, spent[key] / total) for key in sorted(spent, key=lambda key: -spent[key])[:entries]]


def explained(reason: dict[str, Any]) -> str:
    """The profile as text."""
    parts = "; ".join(f"{part} {spread} of a plain step" for part, spread in reason["parts"].items())
    entries = ", ".join(f"{key} {share:.0%}" for key, share in reason["longest"])
    return f"{parts}{'. ' if parts else ''}Longest: {entries}."


def tabulated(size: str, found: dict[str, Any], said: str = "") -> Table:
    """All methods at one size."""
    headings = [
        "method",
        "a step (range)",
        "a plain step",
        "time ratio (range)",
        "wanted",
        "peak memory",
        "memory ratio",
    ]
    units = ["", "ms", "ms", "", "", "MiB", ""]
    title = f"A model of {found['parameters'] / 1e6:.1f} million parameters ({size}); ratios to plain training"
    return Table(title, list(zip(headings, units, strict=True)), [cells(row) for row in found["rows"]], said)


def cells(row: dict[str, Any]) -> list[Any]:
    wanted = "" if row["wanted"] is None else f"≤ {row['wanted']:g}"
    return [
        row["method"],
        row["ms"],
        row["plain ms"].median,
        row["time ratio"],
        wanted,
        round(row["MiB"]),
        row["memory ratio"],
    ]


if __name__ == "__main__":
    main()
