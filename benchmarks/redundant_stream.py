"""Is loss-based weighting worth anything where data repeats itself, and what does it cost where it does not?

    python -m benchmarks.redundant_stream [--data DIR] [--seeds 5] [--steps 100] [--processes 2]

Half of the stream are exact repeats of 64 documents, the other half is diverse: maths, Wikipedia, speeches,
film reviews, web text, questions and answers, code. The small GPT of the demo is trained on it, and measured
on 100 held-out texts each of maths, Wikipedia, questions and answers, and web text. Every row of the table
sees the same batches but the last oracle, which gets fresh text in the place of the repeats. A second table
has no repeats at all.

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
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Table, add_form_argument, machine, save
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
REPEATED, BATCH, CONTEXT = 64, 64, 64
R = 0.4


class OnlyFirst(Strategy):
    """The oracle among weightings: a sample that has been in the stream before weighs nothing."""

    def __init__(self, first: Tensor) -> None:
        self.first = first / first.mean()

    def weights(self, signals: Signals) -> Tensor:
        return self.first[torch.from_numpy(signals.ids)]


@dataclass(frozen=True)
class Stream:
    """A tokenised stream: rows (N, T + 1), whether each is there for the first time, and the held-out
    rows."""

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
    held_out = {
        name: bpe.encode(random.Random(0).sample(pieces(texts(folder, name, "test")), 100), CONTEXT + 1)
        for name in HELD_OUT
    }
    return Stream(bpe.encode(stream, CONTEXT + 1), torch.tensor(first, dtype=torch.float32), held_out)


def run(task: tuple[Path, int, float, str, int, float]) -> dict[str, Any]:
    """One training run: (folder, seed, share of repeats, name of the weights, steps, rate)."""
    folder, seed, repeats, name, steps, rate = task
    torch.set_num_threads(1)
    # That weights pass the bound of LinUpper's theory at r = 0.4 is known here.
    warnings.filterwarnings("ignore", "A weight of", RuntimeWarning)
    data = prepare(folder, seed, steps * BATCH, repeats)
    strategies: dict[str, Strategy] = {
        "uniform": Uniform(),
        f"LinUpper r {R}": LinUpper(r=R),
        f"LinUpper r {R}, shuffled": Shuffled(LinUpper(r=R), seed=seed),
        "oracle: repeats weigh 0": OnlyFirst(data.first),
        "oracle: fresh text instead": Uniform(),
    }
    rows = data.rows[data.first > 0] if name == "oracle: fresh text instead" else data.rows
    model = GPT(GPTConfig(), frequencies=torch.bincount(rows.flatten(), minlength=512), seed=seed)
    start = time.perf_counter()
    with WeightedStream(list(rows), strategies[name]) as stream:
        loader = stream.loader(batch_size=BATCH, shuffle=True, seed=seed, drop_last=True)
        curve = train(endless(loader), model, steps=steps, rate=rate, held_out=data.held_out, evaluate_every=steps)
    losses = {key: curve.final(key) for key in data.held_out}
    return {
        "seed": seed,
        "weights": name,
        "repeats": repeats,
        "loss": statistics.mean(losses.values()),
        "losses": losses,
        "ess": statistics.mean(curve.ess),
        "seconds": time.perf_counter() - start,
    }


def report(results: list[dict[str, Any]], repeats: float) -> tuple[Table, list[dict[str, Any]]]:
    """A table of all weights at one share of repeats, and its figures."""
    by_name: dict[str, dict[int, dict[str, Any]]] = {}
    for result in results:
        if result["repeats"] == repeats:
            by_name.setdefault(result["weights"], {})[result["seed"]] = result
    uniform = by_name["uniform"]
    figures, lines = [], []
    for name, runs in by_name.items():
        losses = [runs[seed]["loss"] for seed in sorted(runs)]
        spread = statistics.stdev(losses) if len(losses) > 1 else 0.0
        below = sum(runs[seed]["loss"] < uniform[seed]["loss"] for seed in runs)
        ess = statistics.mean(run["ess"] for run in runs.values())
        mean = statistics.mean(losses)
        figure = {"weights": name, "mean": mean, "sd": spread, "losses": losses, "below": below, "ess": ess}
        figures.append(figure)
        each = " ".join(f"{loss:.3f}" for loss in losses)
        lines.append([name, mean, spread, f"{below} of {len(runs)}", ess, each])
    title = f"Loss on diverse text, {repeats:.0%} of the stream exact repeats"
    columns = [
        ("weights", ""),
        ("loss", "nats"),
        ("sd", ""),
        ("below uniform", "seeds"),
        ("ess", ""),
        ("each seed", ""),
    ]
    return Table(title, columns, lines), figures


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.redundant_stream")
    add_data_argument(parser)
    parser.add_argument("--seeds", type=int, help="default: 5; quick: 1")
    add_form_argument(parser)
    parser.add_argument("--steps", type=int, default=100, help="stream of steps * 64 texts, one epoch")
    parser.add_argument("--rate", type=float, default=1.5e-2, help="peak learning rate")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args(argv)
    options.seeds = options.seeds or (1 if options.quick else 5)
    leave_out_without(options.data, DIVERSE, "redundant_stream")
    print(machine())
    redundant = [
        "uniform",
        f"LinUpper r {R}",
        f"LinUpper r {R}, shuffled",
        "oracle: repeats weigh 0",
        "oracle: fresh text instead",
    ]
    plan = {0.5: redundant, 0.0: redundant[:2]}
    tasks = [
        (options.data, seed, repeats, name, options.steps, options.rate)
        for repeats, names in plan.items()
        for seed in range(options.seeds)
        for name in names
    ]
    results = []
    start = time.perf_counter()
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for result in pool.map(run, tasks):
            results.append(result)
            shown = ("repeats", "seed", "weights", "loss", "ess", "seconds")
            print(*(f"{v:.3f}" if isinstance(v := result[key], float) else v for key in shown), sep="  ", flush=True)
    figures: dict[str, Any] = {"steps": options.steps, "rate": options.rate, "r": R, "runs": results}
    tables = []
    for repeats in plan:
        shown, figures[f"repeats {repeats}"] = report(results, repeats)
        tables.append(shown)
        print(f"\n{shown}")
    print(f"\n{time.perf_counter() - start:.0f} s with {options.processes} processes")
    save("redundant_stream", figures, tables)


if __name__ == "__main__":
    main()
