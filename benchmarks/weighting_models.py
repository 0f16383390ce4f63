"""Whose weights keep away from wrong labels, and does a weighting model that learned once help another model?

    python -m benchmarks.weighting_models [--seeds 5] [--steps 1000] [--only NAME]

scikit-learn's digits, 40 % of the training labels drawn at random (a tenth of these is right by chance), an MLP. The
methods are told 100 rows with clean labels: their target, or what RhoLoss's reference model learns; what these rows are
worth without any method is shown too. Test accuracy at the end, and at the evaluation that is best on 100 other clean
rows. Over the steps, the share of the weight (of what is handed over) that falls on labels drawn at random: 40 % for
weights that know nothing.

Methods that choose take 32 of 128 candidates, so they see four times as many samples in as many steps. Options are
chosen by the accuracy on the 100 other clean rows, with seeds that are not reported.

The last rows are of models twice as wide: trained uniformly, with the Data Weighting Model (DWM) learning beside it,
and with one that learned beside a narrow model on the same rows, then saved, loaded and frozen; DWM's options are those
chosen for the narrow model. All of it takes about seven minutes of one core.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.digits_runs import EVALUATE_EVERY, METHODS, Method, run
from benchmarks.harness import Spread, Table, add_form_argument, machine, picture, save
from benchmarks.noisy_labels import NOISE

CHOOSING = range(1000, 1002)


def chosen(method: Method, steps: int, seeds: Sequence[int] = CHOOSING) -> dict[str, Any]:
    """The options with the best mean accuracy on the rows to pick on."""
    if method.like is not None:
        return chosen(METHODS[method.like], steps, seeds)
    if len(method.grid) == 1:
        return method.grid[0]
    means = [statistics.mean(run(method, options, seed, steps)["pick"] for seed in seeds) for options in method.grid]
    return method.grid[means.index(max(means))]


def figures_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row: spreads over the seeds, and the shares over the steps."""
    shares = [run["shares"] for run in runs if run["shares"]]
    return {
        "options": runs[0]["options"],
        "end": Spread.of([run["end"] for run in runs]),
        "picked": Spread.of([run["picked"] for run in runs]),
        "share at first": Spread.of([one[0] for one in shares]) if shares else None,
        "share at last": Spread.of([one[-1] for one in shares]) if shares else None,
        "seconds": statistics.median(run["seconds"] for run in runs),
        "runs": list(runs),
    }


def above(rows: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """In how many seeds a row ends above uniform training of the same model."""
    base = rows.get("twice the width: uniform" if name.startswith("twice") else "uniform")
    if base is None or base is rows[name]:
        return ""
    pairs = list(zip(rows[name]["runs"], base["runs"], strict=True))
    return f"{sum(mine['end'] > theirs['end'] for mine, theirs in pairs)} of {len(pairs)}"


def as_table(rows: Mapping[str, Mapping[str, Any]], steps: int = 1000) -> Table:
    headings = ["weights", "at the end", "above uniform", "picked", "on drawn labels: first", "last", "CPU s", "chosen"]
    lines = []
    for name, row in rows.items():
        shares = ["" if row[key] is None else row[key] for key in ("share at first", "share at last")]
        options = " ".join(f"{key}={value}" for key, value in row["options"].items())
        lines.append([name, row["end"], above(rows, name), row["picked"], *shares, row["seconds"], options])
    title = f"Test accuracy, {NOISE:.0%} of the labels drawn at random, {steps} steps, median (range) of the seeds"
    return Table(title, [(heading, "") for heading in headings], lines)


def draw(rows: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """The share of the weight on drawn labels over the steps: mean and range over the seeds, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    panel = figure.subplots()
    for name, row in rows.items():
        curves = [run["shares"] for run in row["runs"]]
        if not curves[0] or name.startswith("twice"):
            continue
        values = [(min(at), statistics.mean(at), max(at)) for at in zip(*curves, strict=True)]
        low, mean, high = (list(column) for column in zip(*values, strict=True))
        steps = [EVALUATE_EVERY * (at + 1) for at in range(len(mean))]
        (drawn,) = panel.plot(steps, mean, linewidth=1.2, label=f"{name}: {mean[-1]:.2f}")
        panel.fill_between(steps, low, high, color=drawn.get_color(), alpha=0.2, linewidth=0)
    panel.set(title="share of the weight on labels drawn at random", xlabel="step", ylim=(0, None))
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weighting_models")
    parser.add_argument("--seeds", type=int, help="default: 5; quick: 1")
    parser.add_argument("--steps", type=int, help="default: 1,000; quick: 250")
    add_form_argument(parser)
    parser.add_argument("--only", action="append", choices=list(METHODS), help="this row; may be repeated")
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args(argv)
    options.seeds = options.seeds or (1 if options.quick else 5)
    options.steps = options.steps or (250 if options.quick else 1000)
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    torch.set_num_threads(1)
    print(machine())
    start = time.perf_counter()
    rows: dict[str, dict[str, Any]] = {}
    for name in options.only or METHODS:
        method = METHODS[name]
        known = rows.get(method.like or "")
        best = chosen(method, options.steps) if known is None else known["options"]
        rows[name] = figures_of([run(method, best, seed, options.steps) for seed in range(options.seeds)])
        print(name, rows[name]["end"], best, f"{time.perf_counter() - start:.0f} s", sep="  ", flush=True)
    shown = as_table(rows, options.steps)
    print(f"\n{shown}")
    if not options.no_save:
        save("weighting_models", {"steps": options.steps, "seeds": options.seeds, "rows": rows}, [shown])
        draw(rows, picture("corrupted_share"))


if __name__ == "__main__":
    main()
