"""Ours beside the others, on the same work in one run: what a step costs, what is exact, what breaks.

    make bench-peers                                        in an environment that has DataFlex
    WEIGHTED_STREAM_INFOBATCH=../InfoBatch make bench-peers     with a clone of InfoBatch's repository
    python -m benchmarks.peers [--quick] [--device cuda]    with what is here

- Plain loops: InfoBatch's wrapper, torch's WeightedRandomSampler, loops by hand, and ours, each in turns with a plain
  loop; with a small GPT, and with no model at all, where only loading and weighing take time.
- Hugging Face's Trainer: DataFlex's loss and ADAPT weighters, with and without its log, and ours, each in turns with a
  plain Trainer; whole batches, and four micro-batches a step.
- Small experiments: whether a weight is that of the whole batch, whose losses are whose, what ends, what goes on.

Nothing of the others is in this repository; what is not here is left out, and said.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import warnings
from typing import Any

import torch

from benchmarks import peers_checks, peers_loops, peers_memory, peers_trainers
from benchmarks.harness import Table, add_form_argument, machine, paired, save
from benchmarks.method_cost import milliseconds
from benchmarks.peers_checks import LIBRARIES, Findings
from benchmarks.peers_found import data_flex, info_batch, missing

BATCH = 16


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, help="pairs; default: 9, quick: 3")
    parser.add_argument("--steps", type=int, help="of a pair; default: 30, quick: 10")
    add_form_argument(parser)
    options = parser.parse_args(argv)
    options.repeats = options.repeats or (3 if options.quick else 9)
    options.steps = options.steps or (10 if options.quick else 30)
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    torch.set_num_threads(1)
    print(machine())
    left_out = missing()
    print(*left_out, sep="\n")
    found = findings()
    columns = [("what", ""), *((library, "") for library in LIBRARIES)]
    rows = [[what, *(by.get(library) for library in LIBRARIES)] for what, by in found.items()]
    note = "Empty: it does not apply, or the library was not here. " + " ".join(left_out)
    tables = [Table("What holds and what breaks", columns, rows, note.strip())]
    print(tables[0], flush=True)
    tables.append(loops(options))
    print(f"\n{tables[-1]}", flush=True)
    if importlib.util.find_spec("transformers") is not None:
        tables.append(trainers(options))
        print(f"\n{tables[-1]}", flush=True)
    kept = {"device": options.device, "versions": versions(), "left out": left_out, "found": found}
    save("peers" if options.device == "cpu" else f"peers_{options.device}", kept, tables)


def findings() -> dict[str, Findings]:
    """All small experiments: by what is looked at, what each library does."""
    checks = (*peers_checks.CHECKS, *peers_memory.CHECKS)
    return {what: found for check in checks for what, found in check().items()}


def versions() -> dict[str, str]:
    """Of whoever takes part."""
    names = ("torch", "transformers", "accelerate", "dataflex", "weighted-stream")
    known = {}
    for name in names:
        try:
            known[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            known[name] = "none"
    return known | {"infobatch": "none" if info_batch() is None else "a clone"}


def loops(options: argparse.Namespace) -> Table:
    """Plain loops."""
    rows = []
    for name, make in peers_loops.WAYS.items():
        if "InfoBatch's" in name and info_batch() is None:
            continue
        cells: list[Any] = [name]
        for config in (None, peers_loops.SMALL):
            ours, plain = (one(peers_loops.Work(config, options.device)) for one in (make, peers_loops.plain))
            steps = 20 * options.steps if config is None else options.steps
            a, b, ratio = paired(
                lambda step=ours, n=steps: milliseconds(step, options.device, n),  # type: ignore[misc]
                lambda step=plain, n=steps: milliseconds(step, options.device, n),  # type: ignore[misc]
                options.repeats,
            )
            cells += [(a.median - b.median) * 1e3] if config is None else [a, ratio]
        rows.append(cells)
        print(*cells, sep="  ", flush=True)
    columns = [("loop", ""), ("more than a plain loop, no model", "µs a step"), ("a step, small GPT", "ms")]
    title = f"Plain loops, batches of {peers_loops.BATCH}"
    return Table(title, [*columns, ("over plain", "")], rows, "Median (range) of pairs in turn.")


def trainers(options: argparse.Namespace) -> Table:
    """Hugging Face's Trainer."""
    rows = []
    steps = 2 * options.steps
    for parts in (1, 4):
        for name, make in peers_trainers.WAYS.items():
            if "DataFlex" in name and data_flex() is None:
                continue
            how = (steps, BATCH // parts, parts, options.device)
            a, _, ratio = paired(
                lambda make=make, how=how: peers_trainers.step_time(make, *how),  # type: ignore[misc]
                lambda how=how: peers_trainers.step_time(peers_trainers.plain, *how),  # type: ignore[misc]
                options.repeats,
                warmup=0,
            )
            rows.append([name, f"{parts} × {BATCH // parts}", a, ratio])
            print(*rows[-1], sep="  ", flush=True)
    columns = [("step", ""), ("micro-batches", ""), ("a step", "ms"), ("over the plain Trainer", "")]
    said = f"{peers_trainers.ANCHORS} examples of ADAPT's target, looked at every 50 steps; a Llama of two layers"
    return Table(
        "Hugging Face's Trainer, 16 samples a step", columns, rows, f"Median (range) of pairs in turn; {said}."
    )


if __name__ == "__main__":
    main()
