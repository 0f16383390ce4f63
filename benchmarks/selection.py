"""Is choosing samples by their gradients worth what it costs?

    python -m benchmarks.selection [--data DIR] [--seeds 5] [--steps 100] [--budgets 0.05 0.1 0.25] [--keep FILE]

The standard mixture (or, without its data, the installed packages' text) streams past a small GPT. Each step draws
16 / budget candidates and trains on 16 of them: those that Filter-then-Weight, GREATS or top-loss choose, or just the
first 16 (random); "full" trains on all candidates in one batch. The target is maths, of which the choosers have 128
examples that are not in the stream; it is measured on other held-out maths, the rest on three other kinds of text.

Two questions, two tables for each budget. *Equal steps*: every row makes as many steps of the optimizer. *Equal
compute*: every row may make as many token passes as Filter-then-Weight (all linear layers) made there, and so the
cheaper ones make more steps. A forward of one token is 1 pass, a backward 2, one without gradients of parameters 1;
products of gradients are not counted as passes, so seconds of the processor are shown beside them.

Every row has its own learning rate, the best of four on half of the held-out maths, with seeds that are not reported;
the tables show the other half. Methods that look at gradients are tuned at a budget of 10 % alone, the others at each.
With --keep, runs are added to a file as they end, and those found there are not made
again. All of it takes about an hour of one core.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.harness import Table, add_form_argument, machine, save
from benchmarks.mixtures import add_data_argument, has_mixture
from benchmarks.selection_runs import Setting, Task, equal_steps, passes, run

RATES = (5e-3, 1e-2, 2e-2, 4e-2)
TUNED_AT = 0.1
"""The budget at which the methods that look at gradients are tuned."""
CHOOSING = 1000
"""Seeds from here on are those on which learning rates are chosen."""

METHODS = {
    "random": Setting("random"),
    "top-loss": Setting("top-loss"),
    "GREATS": Setting("greats"),
    "Filter-then-Weight": Setting("ftw"),
    "Filter-then-Weight, head only": Setting("ftw", layers="head"),
    "full": Setting("full"),
}
QUICK = ("random", "Filter-then-Weight, head only")
COSTLIEST = "Filter-then-Weight"

Results = dict[tuple[Setting, int, int], dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """A row of a table; it is still to be tuned.

    Attributes:
        budget: of the table.
        equal: the other half of the table's name: ``"steps"`` or ``"compute"``.
        label: what chooses.
        setting: the same for the runs.
        steps: of the runs.
        base: steps of the runs in tables of equal steps.
    """

    budget: float
    equal: str
    label: str
    setting: Setting
    steps: int
    base: int

    def grid(self) -> list[Setting]:
        """The settings to choose from."""
        settings = [replace(self.setting, rate=rate) for rate in RATES]
        greats = self.setting.method == "greats"
        return settings + [replace(setting, eta="fit") for setting in settings if greats]

    def tuned_as(self) -> Row:
        """Where it is tuned: itself, or, if it looks at gradients, the same at a budget of 10 %."""
        if self.setting.method not in ("ftw", "greats") or self.budget == TUNED_AT:
            return self
        return next(row for row in rows_of([TUNED_AT], self.base, [self.label]) if row.equal == self.equal)


def rows_of(budgets: Iterable[float], steps: int, labels: Iterable[str]) -> list[Row]:
    """All rows: of equal steps, and of equal compute, where nothing is repeated that makes the same runs."""
    rows = []
    for budget in budgets:
        allowed = steps * passes(at_budget(METHODS[COSTLIEST], budget))
        for label in labels:
            setting = at_budget(METHODS[label], budget)
            rows.append(Row(budget, "steps", label, setting, steps, steps))
            rows.append(Row(budget, "compute", label, setting, equal_steps(setting, allowed), steps))
    return rows


def at_budget(setting: Setting, budget: float) -> Setting:
    """The same method at another budget, which the random one does not have."""
    return setting if setting.method == "random" else replace(setting, budget=budget)


def tuned(row: Row, results: Results, seeds: Sequence[int]) -> Setting:
    """The setting with what led to the lowest mean loss on the texts to choose on."""
    tried = row.tuned_as()
    means = {s: sum(results[s, tried.steps, seed]["losses"]["choose"] for seed in seeds) for s in tried.grid()}
    best = min(means, key=lambda setting: means[setting])
    return replace(row.setting, rate=best.rate, eta=best.eta)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection")
    add_data_argument(parser)
    parser.add_argument("--seeds", type=int, help="default: 5; quick: 1")
    parser.add_argument("--choosing", type=int, default=1, help="seeds on which learning rates are chosen")
    parser.add_argument("--steps", type=int, help="default: 100; quick: 30")
    parser.add_argument("--budgets", type=float, nargs="+", help="default: 0.05 0.1 0.25; quick: 0.25")
    add_form_argument(parser)
    parser.add_argument("--only", action="append", choices=list(METHODS), help="this row; may be repeated")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--keep", type=Path, help="file of runs, which grows")
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args(argv)
    options.seeds = options.seeds or (1 if options.quick else 5)
    options.steps = options.steps or (30 if options.quick else 100)
    options.only = options.only or (list(QUICK) if options.quick else None)
    options.budgets = options.budgets or ([0.25] if options.quick else [0.05, 0.1, 0.25])
    print(machine())
    where = "the standard mixture" if has_mixture(options.data) else "the text of the installed packages"
    print(f"On {where}; a target of 128 examples; no GPU is used.")
    start = time.perf_counter()
    figures = measure(options)
    print(f"\n{time.perf_counter() - start:.0f} s with {options.processes} processes")
    if not options.no_save:
        save("selection", {"data": where, **figures}, tables_of(figures["rows"]))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All runs, the tables printed."""
    seeds = range(options.seeds)
    choosing = range(CHOOSING, CHOOSING + options.choosing)
    rows = rows_of(options.budgets, options.steps, options.only or METHODS)
    results = kept(options.keep)
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:

        def make(wanted: list[tuple[Setting, int, int]]) -> None:
            missing = [key for key in dict.fromkeys(wanted) if key not in results]
            tasks = [Task(options.data, setting, seed, steps) for setting, steps, seed in missing]
            for key, result in zip(missing, pool.map(run, tasks), strict=True):
                results[key] = result
                print(line(result), flush=True)
                if options.keep is not None:
                    with options.keep.open("a") as file:
                        file.write(json.dumps(result) + "\n")

        tried = [row.tuned_as() for row in rows]
        make([(setting, row.steps, seed) for seed in choosing for row in tried for setting in row.grid()])
        chosen = {row: tuned(row, results, choosing) for row in rows}
        make([(chosen[row], row.steps, seed) for seed in seeds for row in rows])
    figures = [figure(row, [results[chosen[row], row.steps, seed] for seed in seeds]) for row in rows]
    compare(figures)
    print(*tables_of(figures), sep="\n\n")
    runs = [results[chosen[row], row.steps, seed] for row in rows for seed in seeds]
    return {"steps": options.steps, "seeds": len(seeds), "rates": RATES, "rows": figures, "runs": unique(runs)}


def kept(path: Path | None) -> Results:
    """The runs of a file."""
    results: Results = {}
    if path is not None and path.exists():
        for text in path.read_text().splitlines():
            result = json.loads(text)
            results[Setting(**result["setting"]), result["steps"], result["seed"]] = result
    return results


def unique(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A run that stands in several rows, once."""
    return list({id(run): run for run in runs}.values())


def line(result: dict[str, Any]) -> str:
    """One run, as it ends."""
    setting, losses = result["setting"], result["losses"]
    return (
        f"seed {result['seed']}  choose {losses['choose']:.3f}  report {losses['report']:.3f}  "
        f"of the kind {result['chosen'][-1]:.2f}  {result['seconds']:.0f} s  {result['steps']} steps of "
        f"{setting['method']}, budget {setting['budget']:g}, {setting['layers']}, rate {setting['rate']:g}"
    )


def figure(row: Row, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means and spreads over the seeds."""
    target = [run["losses"]["report"] for run in runs]
    rest = [rest_loss(run) for run in runs]
    return {
        "budget": row.budget,
        "equal": row.equal,
        "method": row.label,
        "steps": row.steps,
        "setting": runs[0]["setting"],
        "target": statistics.mean(target),
        "target sd": statistics.stdev(target) if len(target) > 1 else 0.0,
        "targets": target,
        "rest": statistics.mean(rest),
        "rest sd": statistics.stdev(rest) if len(rest) > 1 else 0.0,
        "chosen": statistics.mean(statistics.mean(run["chosen"]) for run in runs),
        "weight": statistics.mean(statistics.mean(run["weight"]) for run in runs),
        "ess": statistics.mean(run["ess"] for run in runs),
        "passes": statistics.mean(run["passes"] for run in runs),
        "seconds": statistics.median(run["seconds"] for run in runs),
        "fallbacks": sum(run["fallbacks"] for run in runs),
    }


def rest_loss(run: dict[str, Any]) -> float:
    """The mean loss on held-out text of other kinds."""
    losses: dict[str, float] = run["losses"]
    return statistics.mean(loss for name, loss in losses.items() if name not in ("report", "choose"))


def compare(figures: Sequence[dict[str, Any]]) -> None:
    """Add to each row in how many seeds it ends below random of the same table."""
    for one in figures:
        same = (
            f for f in figures if f["method"] == "random" and (f["budget"], f["equal"]) == (one["budget"], one["equal"])
        )
        random = next(same, None)
        pairs = [] if random is None else list(zip(one["targets"], random["targets"], strict=True))
        one["below random"] = sum(mine < theirs for mine, theirs in pairs)


def tables_of(figures: Sequence[dict[str, Any]]) -> list[Table]:
    """One table for each budget and each meaning of equal."""
    headings = ["chooses", "steps", "rate", "target", "sd", "below random", "rest", "sd of the rest"]
    units = ["", "", "", "nats", "", "seeds", "nats", ""]
    more = [("chosen of the kind", ""), ("weight on it", ""), ("ess", ""), ("passes", "millions"), ("processor", "s")]
    columns = [*zip(headings, units, strict=True), *more]
    tables = []
    for budget in dict.fromkeys(f["budget"] for f in figures):
        for equal in ("steps", "compute"):
            lines = [cells(f) for f in figures if (f["budget"], f["equal"]) == (budget, equal)]
            tables.append(Table(f"Budget {budget:.0%}, equal {equal}", columns, lines))
    return tables


def cells(f: dict[str, Any]) -> list[Any]:
    below = "" if f["method"] == "random" else f"{f['below random']} of {len(f['targets'])}"
    losses = [f["target"], f["target sd"], below, f["rest"], f["rest sd"]]
    about = [f["chosen"], f["weight"], f["ess"], f["passes"] / 1e6, f["seconds"]]
    return [f["method"], f["steps"], f["setting"]["rate"], *losses, *about]


if __name__ == "__main__":
    main()
