"""Does weighting help, and for how long? Every strategy against uniform training, with confidence intervals.

    python -m benchmarks.effects [--quick] [--on packages | redundant | mixture] [--seeds 5] [--only ROW]
    python -m benchmarks.effects --rates 0.5 1 2 3 --choosing 2       each row at its own best learning rate
    python -m benchmarks.effects --device cuda --model 124M [--fine-tune 200]

Anybody can repeat it: the text is that of the installed packages (other packages, other figures), the target Python's
language reference, a part of which is in the stream. "redundant" is the same text of which half are repeats of 64
pieces; "mixture" the standard mixture, which needs its data sets. Two epochs of each.

Every row is held against the uniform run of the same seed: the difference in loss on held-out text of the target and
of all kinds, with a 95% confidence interval over the seeds (Student's t); the share of the uniform run's steps, and of
its wall time, after which a row has the loss that the uniform run ends with. Its wall time includes what it prepares:
scores of the texts, reference models, the run that frozen weights come from. "Best": the loss at the evaluation that is
best on the other half of the target's held-out text, for all rows alike.

Controls: weights shuffled within the batch; frozen weights, those that the strategy gave last in an earlier run;
uniform training at the learning rate that a strategy's mean weight amounts to; oracles that know which texts are of the
target's kind, or are repeats. With ``--rates`` each row's learning rate is the best of these (in units of the model's
own) on the texts to choose on, with seeds that are not reported.

Rows are saved as soon as all their seeds have run; one that fails is named, and the others go on.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

from benchmarks.effects_rows import ROWS
from benchmarks.effects_runs import MODELS, RATES, Task, run
from benchmarks.effects_streams import STREAMS
from benchmarks.harness import Spread, Table, add_form_argument, machine, save
from benchmarks.mixtures import STANDARD, add_data_argument, leave_out_without

CHOOSING = 1000
"""Seeds from here on are those on which learning rates are chosen."""

Results = dict[tuple[str, float, int], dict[str, Any]]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.effects")
    add_data_argument(parser)
    add_form_argument(parser)
    parser.add_argument("--on", choices=list(STREAMS), default="packages", help="the stream")
    parser.add_argument("--seeds", type=int, help="default: 5; quick: 2")
    parser.add_argument("--steps", type=int, help="default: 200; quick: 60")
    parser.add_argument("--rates", type=float, nargs="+", default=[1.0], help="to choose from, for each row")
    parser.add_argument("--choosing", type=int, default=1, help="seeds on which rates are chosen")
    parser.add_argument("--only", action="append", choices=list(ROWS), help="this row; may be repeated")
    parser.add_argument("--model", choices=list(MODELS), default="small")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--fine-tune", type=int, default=0, metavar="STEPS", help="of other text that come first")
    parser.add_argument("--processes", type=int, help="default: 2; 1 on a GPU")
    options = parser.parse_args(argv)
    options.seeds = options.seeds or (2 if options.quick else 5)
    options.steps = options.steps or (60 if options.quick else 200)
    if options.on == "mixture":
        leave_out_without(options.data, STANDARD, "effects")
    print(machine())
    start = time.perf_counter()
    settings = {key: getattr(options, key) for key in ("on", "steps", "seeds", "rates", "model", "device", "fine_tune")}
    name = "_".join(["effects", *([options.on] if options.on != "packages" else [])])
    name += f"_{options.model}" * (options.model != "small") + "_fine_tune" * bool(options.fine_tune)
    failed: dict[str, str] = {}

    def keep(rows: list[dict[str, Any]]) -> None:
        save(name, {**settings, "rows": rows, "failed": failed}, [tabulated(rows, options)])

    rows = measure(options, failed, keep)
    print(f"\n{tabulated(rows, options)}\n\n{time.perf_counter() - start:.0f} s")
    if failed:
        sys.exit(f"effects: rows failed: {failed}")


def measure(
    options: argparse.Namespace, failed: dict[str, str], keep: Callable[[list[dict[str, Any]]], None]
) -> list[dict[str, Any]]:
    """All runs, and what they say.

    Args:
        options: of the command.
        failed: gets the rows of which a run failed, and why.
        keep: called with the rows that are whole, whenever there are more.
    """
    names = wanted(options)
    base = Task(
        "uniform",
        0,
        options.on,
        max(256, options.steps * 64 // 2),
        options.steps,
        RATES[options.model],
        model=options.model,
        device=options.device,
        before=options.fine_tune,
        evaluations=10 if options.quick else 20,
        data=options.data,
    )
    results: Results = {}
    processes = options.processes or (1 if options.device == "cuda" else min(2, os.cpu_count() or 1))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:

        def make(keys: Sequence[tuple[str, float, int]]) -> None:
            """Run what has not run yet, seed by seed: a process then prepares few streams."""
            missing = sorted(dict.fromkeys(key for key in keys if key not in results), key=lambda key: key[2])
            tasks = [replace(base, row=row, seed=seed, rate=base.rate * factor) for row, factor, seed in missing]
            for key, future in [(key, pool.submit(run, task)) for key, task in zip(missing, tasks, strict=True)]:
                try:
                    results[key] = future.result()
                except Exception as error:  # whatever it is, the other rows can do without this one
                    traceback.print_exc()
                    failed[key[0]] = repr(error)
                else:
                    print(line(results[key]), flush=True)
                if key[2] == options.seeds - 1 and (rows := whole()):
                    keep(rows)

        def whole() -> list[dict[str, Any]]:
            """The rows of which all seeds have run."""
            runs = {n: [results.get((n, factors[n], seed)) for seed in range(options.seeds)] for n in names}
            if None in runs["uniform"]:
                return []
            return [figures(n, factors[n], runs[n], runs["uniform"]) for n in names if None not in runs[n]]

        factors = dict.fromkeys(names, options.rates[0])
        own = [name for name in names if ROWS[name].matched is None]
        if len(options.rates) > 1:
            seeds = range(CHOOSING, CHOOSING + options.choosing)
            make([(name, factor, seed) for name in own for factor in options.rates for seed in seeds])
            own = [name for name in own if name not in failed]
            factors |= {name: best(name, options.rates, seeds, results) for name in own}
        make([(name, factors[name], seed) for name in own for seed in range(options.seeds)])
        matched = []
        for name in names:
            other = ROWS[name].matched
            if other in failed:
                failed[name] = f"{other} failed"
            elif other is not None:
                runs = [results[other, factors[other], seed] for seed in range(options.seeds)]
                factors[name] = factors[other] * statistics.mean(one["mean weight"] for one in runs)
                matched.append(name)
        make([(name, factors[name], seed) for name in matched for seed in range(options.seeds)])
    if "uniform" in failed:
        raise SystemExit(f"effects: the uniform runs failed, against which all are held: {failed['uniform']}")
    return whole()


def wanted(options: argparse.Namespace) -> list[str]:
    """The rows of the table, with those that they are held against."""
    names = set(options.only or [name for name, row in ROWS.items() if row.quick or not options.quick])
    names |= {ROWS[name].matched for name in names if ROWS[name].matched}  # type: ignore[misc]
    everything = options.on == "redundant"  # there all kinds are the target's
    return [
        name
        for name in ROWS
        if name == "uniform" or (name in names and not (everything and name.startswith("oracle: ") and "kind" in name))
    ]


def best(name: str, factors: Sequence[float], seeds: Sequence[int], results: Results) -> float:
    """The learning rate with the lowest mean loss on the texts to choose on."""
    return min(factors, key=lambda factor: sum(results[name, factor, seed]["losses"]["choose"] for seed in seeds))


def line(result: Mapping[str, Any]) -> str:
    """One run, as it ends."""
    losses = result["losses"]
    return (
        f"seed {result['seed']}  target {losses['report']:.3f}  rest {losses['rest']:.3f}  "
        f"{result['prepared']:.0f} + {result['curve']['seconds'][-1]:.0f} s  rate {result['rate']:.2g}  {result['row']}"
    )


def figures(
    name: str, factor: float, runs: Sequence[Mapping[str, Any]], uniform: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """One row: means, differences from uniform with intervals, when it got there."""
    pairs = list(zip(runs, uniform, strict=True))
    target = [run["losses"]["report"] for run in runs]
    arrivals = [arrival(run, base["curve"]["report"][-1]) for run, base in pairs]
    ends = [(base["curve"]["steps"][-1], base["curve"]["seconds"][-1]) for base in uniform]
    came = [(s / end, t / whole) for one, (end, whole) in zip(arrivals, ends, strict=True) if one for s, t in [one]]
    all_came = len(came) == len(runs)
    return {
        "weights": name,
        "rate": factor,
        "target": statistics.mean(target),
        "targets": target,
        "target difference": interval([r["losses"]["report"] - u["losses"]["report"] for r, u in pairs]),
        "below uniform": sum(r["losses"]["report"] < u["losses"]["report"] for r, u in pairs),
        "best difference": interval([early(r) - early(u) for r, u in pairs]),
        "rest difference": interval([r["losses"]["rest"] - u["losses"]["rest"] for r, u in pairs]),
        "arrived": len(came),
        "steps share": interval([steps for steps, _ in came]) if all_came else None,
        "time share": interval([seconds for _, seconds in came]) if all_came else None,
        "time of a step": statistics.median(r["curve"]["seconds"][-1] / u["curve"]["seconds"][-1] for r, u in pairs),
        "ess": statistics.mean(run["ess"] for run in runs),
        "mean weight": statistics.mean(run["mean weight"] for run in runs),
        "curves": [run["curve"] for run in runs],
        "prepared": [run["prepared"] for run in runs],
    }


def arrival(run: Mapping[str, Any], loss: float) -> tuple[int, float] | None:
    """The step, and the seconds with all preparation, at which the loss on the target was first this low."""
    curve = run["curve"]
    seen = zip(curve["steps"], curve["seconds"], curve["report"], strict=True)
    return next(((step, run["prepared"] + seconds) for step, seconds, value in seen if value <= loss), None)


def early(run: Mapping[str, Any]) -> float:
    """The loss to report at the evaluation that is best on the texts to choose on."""
    curve = run["curve"]
    return float(min(zip(curve["choose"], curve["report"], strict=True))[1])


def interval(values: Sequence[float]) -> Spread:
    """The mean and its 95% confidence interval (Student's t); of one value, that value."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return Spread(mean, mean, mean)
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return Spread(mean, mean - half, mean + half)


def tabulated(rows: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> Table:
    """All rows."""
    headings = ["weights", "target", "less than uniform (95%)", "below", "best, less than uniform (95%)"]
    headings += ["rest, less than uniform (95%)", "arrived", "share of steps (95%)", "share of time (95%)"]
    headings += ["time of a step", "ess", "mean weight", "rate"]
    units = ["", "nats", "nats", "seeds", "nats", "nats", "seeds", "", "", "", "", "", ""]
    keys = ["target difference", "below uniform", "best difference", "rest difference"]
    keys += ["arrived", "steps share", "time share", "time of a step", "ess", "mean weight", "rate"]
    cells = [[row["weights"], row["target"], *(signed(key, row[key]) for key in keys)] for row in rows]
    tuned = " at each row's own best learning rate" if len(options.rates) > 1 else ""
    tuning = f", after {options.fine_tune} steps on other kinds of text" * bool(options.fine_tune)
    title = (
        f"{options.on}: {options.model} model, {options.steps} steps of 64, {options.seeds} seed(s){tuned}{tuning}; "
        "differences from the uniform run of the same seed, means"
    )
    note = "Arrived: had the uniform run's final loss on the target; shares of its steps and of its wall time."
    return Table(title, list(zip(headings, units, strict=True)), cells, note)


def signed(key: str, value: Any) -> Any:
    """Differences with their sign turned: how much less than uniform; of one seed without an interval."""
    if isinstance(value, Spread) and value.low == value.high:
        return 0.0 - value.median if key.endswith("difference") else value.median
    if key.endswith("difference"):
        return Spread(0.0 - value.median, 0.0 - value.high, 0.0 - value.low)  # of 0: no -0
    return value


if __name__ == "__main__":
    main()
