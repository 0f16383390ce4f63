"""Run the benchmarks, one after the other, each in a process of its own.

    make bench                                   all of them in their quick form: two cores, less than 20 minutes
    make bench-gpu                               those of a GPU, in parts of less than 10 minutes
    python -m benchmarks --list                  what there is, and how long it takes
    python -m benchmarks selection --full        one or more by name, in full
    python -m benchmarks --results FOLDER        where the figures go; runs/bench by default

Each leaves a JSON file there, and all together a page of tables, `tables.md`. No file of the project changes. One that
lacks its data or packages says so and counts as run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import tables
from benchmarks.harness import FOLDER, LEFT_OUT, results_folder, table
from benchmarks.plan import BENCHMARKS


def main(argv: Sequence[str] | None = None) -> int:
    """0 if all ran."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run the benchmarks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="by default all")
    parser.add_argument("--full", action="store_true", help="in full, as published; quick otherwise")
    parser.add_argument("--gpu", action="store_true", help="those of a GPU")
    parser.add_argument("--part", type=int, help="with --gpu and one name: this part of it, from 0")
    parser.add_argument("--results", type=Path, default=results_folder(), metavar="FOLDER")
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    options = parser.parse_args(argv)
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    if options.list:
        print(listed())
        return 0
    os.environ[FOLDER] = str(options.results.resolve())
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows, failed = [], []
    for name, arguments in wanted(options):
        print(f"\n=== {' '.join([name, *arguments])}", flush=True)
        began = time.perf_counter()
        status = start(name, arguments)
        outcome = {0: "", LEFT_OUT: "left out"}.get(status, "FAILED")
        failed += [name] if outcome == "FAILED" else []
        rows.append([name, " ".join(arguments), f"{time.perf_counter() - began:.0f}", outcome])
    rows.append(["all", "", sum(int(row[2]) for row in rows), ""])
    print(f"\n{table(['benchmark', 'arguments', 'seconds', ''], rows)}")
    options.results.mkdir(parents=True, exist_ok=True)
    print(f"\ntables: {tables.write(options.results)}")
    if failed:
        print(f"\nnot run to the end: {', '.join(failed)}")
    return 1 if failed else 0


def start(name: str, arguments: Sequence[str]) -> int:
    """Run one in a process of its own; its exit status."""
    return subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], check=False).returncode


def wanted(options: argparse.Namespace) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names and arguments of the processes to come."""
    for name in options.names or BENCHMARKS:
        one = BENCHMARKS[name]
        if options.gpu:
            parts = one.gpu if options.part is None else one.gpu[options.part : options.part + 1]
            yield from ((name, arguments) for arguments in parts)
        elif options.full:
            yield name, ()
        elif one.quick is not None:
            yield name, one.quick


def listed() -> str:
    """All benchmarks and how long they take."""
    rows = [[name, one.asks, one.quick_minutes, one.full_minutes, len(one.gpu)] for name, one in BENCHMARKS.items()]
    return table(["benchmark", "asks about", "quick, minutes", "full, minutes", "parts on a GPU"], rows)


if __name__ == "__main__":
    sys.exit(main())
