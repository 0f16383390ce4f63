"""Whose weights keep away from wrong labels, and does a weighting model that learned once help another model?

    python -m benchmarks.noisy_labels [--seeds 5] [--steps 1000] [--only NAME]

scikit-learn's digits, 40 % of the training labels drawn at random (a tenth of these is right by chance), an MLP. The
methods are told 100 rows with clean labels: their target, or what RhoLoss's reference model learns; what these rows are
worth without any method is shown too. Test accuracy at the end, and at the evaluation that is best on 100 other clean
rows. Over the steps, the share of the weight (of what is handed over) that falls on labels drawn at random: 40 % for
weights that know nothing.

Every strategy that can weigh images without domains (`Similarity` and `AdaptBM25` compare texts). Methods that choose
take 32 of 128 candidates, so they see four times as many samples in as many steps. Options are chosen by the accuracy
on the 100 other clean rows, with seeds that are not reported.

The last rows are of models twice as wide: trained uniformly, with the Data Weighting Model (DWM) learning beside it,
and with one that learned beside a narrow model on the same rows, then saved, loaded and frozen; DWM's options are those
chosen for the narrow model. All of it takes about ten minutes of one core.
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

from benchmarks.digits_runs import EVALUATE_EVERY, METHODS, NOISE, RATE, Method, run
from benchmarks.effects import interval
from benchmarks.harness import Spread, Table, add_form_argument, machine, picture, save

CHOOSING = range(1000, 1002)
DRAWN = ("uniform", "SmallLoss(r=1)", "RhoLoss", "GREATS", "Filter-then-Weight", "Meta-Weight-Net", "DWM")
"""Rows in the picture."""


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
        "mean weight": statistics.mean(run["mean weight"] for run in runs),
        "seconds": statistics.median(run["seconds"] for run in runs),
        "runs": list(runs),
    }


def base_of(rows: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    """Uniform training of the same model; None where that is the row itself, or is not there."""
    base = rows.get("twice the width: uniform" if name.startswith("twice") else "uniform")
    return None if base is rows[name] else base


def against(base: Mapping[str, Any] | None, row: Mapping[str, Any]) -> list[Any]:
    """How much more than uniform training a row has at the end, and in how many seeds it has."""
    if base is None:
        return [None, ""]
    pairs = list(zip(row["runs"], base["runs"], strict=True))
    above = f"{sum(mine['end'] > theirs['end'] for mine, theirs in pairs)} of {len(pairs)}"
    return [interval([mine["end"] - theirs["end"] for mine, theirs in pairs]), above]


def as_table(rows: Mapping[str, Mapping[str, Any]], seeds: int = 5, steps: int = 1000) -> Table:
    headings = ["weights", "at the end", "the worst seed", "more than uniform (95%)", "above uniform, seeds", "picked"]
    headings += ["weight on drawn labels, first steps", "last steps", "options chosen"]
    lines = []
    for name, row in rows.items():
        shares = ["" if row[key] is None else f"{row[key].median:.0%}" for key in ("share at first", "share at last")]
        options = ", ".join(f"{key}={value}" for key, value in row["options"].items())
        more, above = against(base_of(rows, name), row)
        ends = f"{row['end'].median:.3f}", f"{row['end'].low:.3f}"
        lines.append([name, *ends, more, above, f"{row['picked'].median:.3f}", *shares, options])
    return Table(
        f"Test accuracy on digits, {NOISE:.0%} of the labels drawn at random, median of {seeds} seeds",
        [(heading, "") for heading in headings],
        lines,
        f"{steps:,} steps. Methods that are told something are told 100 clean rows; those that choose take 32 of 128; "
        "options chosen with other seeds. Picked: the step that is best on 100 other clean rows. Frozen: the weights "
        "that the method gave last in an earlier run; of DWM, the model that learned beside the narrow one.",
    )


def draw(rows: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """The share of the weight on drawn labels over the steps: mean and range over the seeds, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    panel = figure.subplots()
    for name, row in rows.items():
        curves = [run["shares"] for run in row["runs"]]
        if not curves[0] or name not in DRAWN:
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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noisy_labels")
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
    wanted = options.only or METHODS
    for name in [name for name in METHODS if name in wanted or name in {METHODS[one].matched for one in wanted}]:
        method = METHODS[name]
        known = rows.get(method.like or "")
        best = chosen(method, options.steps) if known is None else known["options"]
        rate = RATE * (1.0 if method.matched is None else rows[method.matched]["mean weight"])
        rows[name] = figures_of([run(method, best, seed, options.steps, rate) for seed in range(options.seeds)])
        print(name, rows[name]["end"], best, f"{time.perf_counter() - start:.0f} s", sep="  ", flush=True)
    shown = as_table(rows, options.seeds, options.steps)
    print(f"\n{shown}")
    if not options.no_save:
        save("noisy_labels", {"steps": options.steps, "seeds": options.seeds, "rows": rows}, [shown])
        draw(rows, picture("corrupted_share"))


if __name__ == "__main__":
    main()
