"""Is loss-based weighting worth anything where data repeats itself, and what does it cost where it does not?

    python -m benchmarks.redundant_stream [--data DIR] [--seeds 5] [--steps 100] [--processes 2]

Half of the stream are exact repeats of 64 documents, the other half is diverse: maths, Wikipedia, speeches,
film reviews, web text, questions and answers, code. The small GPT of the demo is trained on it, and measured
on 100 held-out texts each of maths, Wikipedia, questions and answers, and web text. Every row of the table
sees the same batches but the last oracle, whose stream has each text once and comes round twice. A second table
has no repeats at all.

Rows "its best rate": the learning rate is the best of several, by the loss on 100 other texts of each kind and the
first two seeds. "Picked": the loss at the evaluation that is best on those other texts.

The data are not part of this repository: a folder of gzipped JSON lines, named by --data or
WEIGHTED_STREAM_DATA.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from benchmarks.harness import Table, add_form_argument, machine, save
from benchmarks.mixture_report import in_turn, spread
from benchmarks.mixtures import STANDARD, add_data_argument, leave_out_without, pieces, texts
from weighted_stream import LinUpper, Shuffled, Signals, Strategy, Uniform, WeightedStream
from weighted_stream.demo.model import GPT, GPTConfig
from weighted_stream.demo.tokenizer import BPE
from weighted_stream.demo.train import endless, train

DIVERSE = {
    name: share
    for name, share in STANDARD.items()
    if name not in ("genesis_multilingual", "tinyshakespeare", "garbage")
}
"""The diverse half: files and their shares."""

HELD_OUT = ("gsm8k", "wikitext2_valid_test", "redpajama_stackexchange", "redpajama_c4")
REPEATED, BATCH, CONTEXT, EVALUATE_EVERY = 64, 64, 64, 5
R = 0.4
UNIFORM, LIN_UPPER, SHUFFLED = "uniform", f"LinUpper r {R}", f"LinUpper r {R}, shuffled"
WEIGHED, ONCE = "oracle: repeats weigh 0", "oracle: each text once"
BEST = ", its best rate"
RATES = (0.5, 1.0, 2.0, 3.0)
"""In units of the benchmark's."""
PLAN = {0.5: ([UNIFORM, LIN_UPPER, SHUFFLED, WEIGHED, ONCE], [UNIFORM, LIN_UPPER, SHUFFLED, WEIGHED])}
"""By share of repeats: what is run at the benchmark's rate, and what at its best."""
PLAN[0.0] = ([UNIFORM, LIN_UPPER], [UNIFORM, LIN_UPPER])
CHOOSING = 2
"""Seeds on which rates are chosen."""

Key: TypeAlias = tuple[float, str, float, int]
"""Share of repeats, weights, rate, seed."""


class OnlyFirst(Strategy):
    """The oracle among weightings: a sample that has been in the stream before weighs nothing."""

    def __init__(self, first: Tensor) -> None:
        self.first = first / first.mean()

    def weights(self, signals: Signals) -> Tensor:
        return self.first[torch.from_numpy(signals.ids)]


@dataclass(frozen=True)
class Stream:
    """A tokenised stream: rows (N, T + 1), whether each is there for the first time, and held-out rows, to report and
    to choose on."""

    rows: Tensor
    first: Tensor
    held_out: dict[str, Tensor]


@lru_cache(maxsize=1)
def prepare(folder: Path, seed: int, size: int, repeats: float) -> Stream:
    """The stream of one seed: ``size`` texts, of which the share ``repeats`` are copies of 64 documents."""
    rng = random.Random(seed)
    diverse: list[str] = []
    spare: list[str] = []
    for name, share in DIVERSE.items():
        pool = pieces(texts(folder, name, "train"))
        rng.shuffle(pool)
        count = round(size * (1 - repeats) * share / sum(DIVERSE.values()))
        diverse += pool[:count]
        spare += pool[count : count + REPEATED]
    documents = rng.sample(spare, REPEATED)
    copies = [documents[i % REPEATED] for i in range(size - len(diverse))] if repeats else []
    stream = diverse + copies
    rng.shuffle(stream)
    seen: set[str] = set()
    first = []
    for text in stream:
        first.append(text not in seen)
        seen.add(text)
    bpe = BPE(stream)
    held_out: dict[str, list[str]] = {"report": [], "choose": []}
    for name in HELD_OUT:
        others = random.Random(0).sample(pieces(texts(folder, name, "test")), 200)
        held_out["report"] += others[:100]
        held_out["choose"] += others[100:]
    rows = {name: bpe.encode(of_it, CONTEXT + 1) for name, of_it in held_out.items()}
    return Stream(bpe.encode(stream, CONTEXT + 1), torch.tensor(first, dtype=torch.float32), rows)


def run(task: tuple[Path, int, float, Key]) -> dict[str, Any]:
    """One training run: (folder, steps, rate of the benchmark, what)."""
    folder, steps, rate, (repeats, name, factor, seed) = task
    torch.set_num_threads(1)
    # That weights pass the bound of LinUpper's theory at r = 0.4 is known here.
    warnings.filterwarnings("ignore", "A weight of", RuntimeWarning)
    data = prepare(folder, seed, steps * BATCH, repeats)
    strategies: dict[str, Strategy] = {
        UNIFORM: Uniform(),
        LIN_UPPER: LinUpper(r=R),
        SHUFFLED: Shuffled(LinUpper(r=R), seed=seed),
        WEIGHED: OnlyFirst(data.first),
        ONCE: Uniform(),
    }
    rows = data.rows[data.first > 0] if name == ONCE else data.rows
    model = GPT(GPTConfig(), frequencies=torch.bincount(rows.flatten(), minlength=512), seed=seed)
    start = time.perf_counter()
    with WeightedStream(list(rows), strategies[name]) as stream:
        loader = stream.loader(batch_size=BATCH, shuffle=True, seed=seed, drop_last=True)
        curve = train(
            endless(loader),
            model,
            steps=steps,
            rate=rate * factor,
            held_out=data.held_out,
            evaluate_every=EVALUATE_EVERY,
        )
    return {
        "repeats": repeats,
        "weights": name,
        "rate": factor,
        "seed": seed,
        "loss": curve.final("report"),
        "choose": curve.final("choose"),
        "steps": curve.steps,
        "curves": curve.losses,
        "ess": statistics.mean(curve.ess),
        "seconds": time.perf_counter() - start,
    }


def figures(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Of each row's runs, one a seed in the same order: means, spreads, and when it was where uniform ends."""
    found = []
    for name, runs in rows.items():
        losses = [run["loss"] for run in runs]
        ends = [run["loss"] for run in rows[UNIFORM]]
        found.append(
            {
                "weights": name,
                "rate": runs[0]["rate"],
                "mean": statistics.mean(losses),
                "sd": spread(losses),
                "losses": losses,
                "below": sum(loss < end for loss, end in zip(losses, ends, strict=True)),
                "picked": statistics.mean(picked(run) for run in runs),
                "arrived": [arrival(run, end) for run, end in zip(runs, ends, strict=True)],
                "arrived at best": [arrival(r, u["loss"]) for r, u in zip(runs, rows[UNIFORM + BEST], strict=True)],
                "ess": statistics.mean(run["ess"] for run in runs),
            }
        )
    return found


def best_rate(
    which: tuple[float, str], rates: Sequence[float], seeds: Sequence[int], results: Mapping[Key, Mapping[str, Any]]
) -> float:
    """The rate with the lowest mean loss on the texts to choose on."""
    return min(rates, key=lambda rate: sum(results[(*which, rate, seed)]["choose"] for seed in seeds))


def picked(run: Mapping[str, Any]) -> float:
    """The loss to report where the loss to choose on is lowest."""
    choose, report = run["curves"]["choose"], run["curves"]["report"]
    return float(report[min(range(len(choose)), key=choose.__getitem__)])


def arrival(run: Mapping[str, Any], loss: float) -> int | None:
    """The first evaluated step at which the loss is this low."""
    return next((at for at, value in zip(run["steps"], run["curves"]["report"], strict=True) if value <= loss), None)


def tabulated(found: Sequence[Mapping[str, Any]], repeats: float, steps: int) -> Table:
    """The rows as a table."""
    columns = ["weights", "rate", "loss", "sd", "below uniform, seeds", "picked", "steps to uniform's final loss"]
    columns += ["steps to where uniform ends at its best rate", "effective sample size"]
    lines = [
        [
            one["weights"],
            f"× {one['rate']:g}",
            *(f"{one['mean']:.3f}", f"{one['sd']:.3f}"),
            "" if one["weights"].startswith(UNIFORM) else f"{one['below']} of {len(one['losses'])}",
            f"{one['picked']:.3f}",
            *(in_turn(one["arrived"]), in_turn(one["arrived at best"])),
            f"{one['ess']:.2f}",
        ]
        for one in found
    ]
    what = f"{repeats:.0%} of the stream repeats {REPEATED} documents" if repeats else "no repeats"
    return Table(
        f"Loss on diverse text, {what}",
        [(heading, "") for heading in columns],
        lines,
        f"Nats per token. A small GPT, {steps} steps, {len(found[0]['losses'])} seeds, evaluated every "
        f"{EVALUATE_EVERY} steps; rates chosen, and evaluations picked, on other text.",
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.redundant_stream")
    add_data_argument(parser)
    parser.add_argument("--seeds", type=int, help="default: 5; quick: 1")
    add_form_argument(parser)
    parser.add_argument("--steps", type=int, help="stream of steps * 64 texts, one epoch; default: 100; quick: 50")
    parser.add_argument("--rate", type=float, default=1.5e-2, help="peak learning rate")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args(argv)
    options.seeds = options.seeds or (1 if options.quick else 5)
    options.steps = options.steps or (50 if options.quick else 100)
    rates = (1.0, 2.0) if options.quick else RATES
    choosing = range(min(CHOOSING, options.seeds))
    leave_out_without(options.data, DIVERSE, "redundant_stream")
    print(machine())
    start = time.perf_counter()
    results: dict[Key, dict[str, Any]] = {}
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:

        def make(keys: Iterable[Key]) -> None:
            """Run what has not run yet, seed by seed: a process then prepares few streams."""
            missing = sorted(set(keys) - results.keys(), key=lambda key: (key[3], key))
            for result in pool.map(run, [(options.data, options.steps, options.rate, key) for key in missing]):
                results[result["repeats"], result["weights"], result["rate"], result["seed"]] = result
                shown = ("repeats", "seed", "weights", "rate", "loss", "ess", "seconds")
                values = (result[key] for key in shown)
                print(*(f"{v:.3f}" if isinstance(v, float) else v for v in values), sep="  ", flush=True)

        tuned = [(repeats, name) for repeats, (_, names) in PLAN.items() for name in names]
        make((*which, rate, seed) for which in tuned for rate in rates for seed in choosing)
        best = {which: best_rate(which, rates, choosing, results) for which in tuned}
        plan = {
            repeats: {name: (name, 1.0) for name in names}
            | {name + BEST: (name, best[repeats, name]) for name in at_best}
            for repeats, (names, at_best) in PLAN.items()
        }
        seeds = range(options.seeds)
        make((repeats, *which, seed) for repeats, rows in plan.items() for which in rows.values() for seed in seeds)
    kept: dict[str, Any] = {"steps": options.steps, "rate": options.rate, "r": R, "runs": list(results.values())}
    tables = []
    for repeats, rows in plan.items():
        kept[f"repeats {repeats}"] = figures({n: [results[(repeats, *w, s)] for s in seeds] for n, w in rows.items()})
        tables.append(tabulated(kept[f"repeats {repeats}"], repeats, options.steps))
        print(f"\n{tables[-1]}")
    print(f"\n{time.perf_counter() - start:.0f} s with {options.processes} processes")
    save("redundant_stream", kept, tables)


if __name__ == "__main__":
    main()
