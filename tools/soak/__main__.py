"""`python -m tools.soak`: all that takes long, one after the other, and a summary."""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from tools.soak import data
from tools.soak.endure import Fault, Life, check_all, endure, table

MEMORY = "/dev/shm"
ROOT = Path(__file__).parents[2]
PROOFS = {
    "state machine": "tests/store/test_crash_machine.py",
    "damaged files": "tests/test_damaged_files.py",
    "kills": "tests/test_kills.py",
    "shared kills": "tests/store/test_shared_crashes.py",
    "hostile places": "tests/store/test_hostile_places.py",
    "layouts": "tests/over_ranks/test_layouts.py",
    "broken shards": "tests/sources/test_fault_table.py",
}
"""Tests that do what `make test` does, many times over."""


def main() -> int:
    """Run what is asked for. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=120.0, help="of the long run (default: 120)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31), help="default: random")
    parser.add_argument("--only", action="append", choices=[*PROOFS, "long run"], help="again for more than one")
    options = parser.parse_args()
    wanted = options.only or [*PROOFS, "long run"]
    print(f"seed {options.seed}", flush=True)
    outcomes = []
    clean = partial(tempfile.TemporaryDirectory, prefix="soak-", ignore_cleanup_errors=True)
    # A process that is killed leaves its files in memory: whether they are on a disk makes no difference but time.
    with clean() as folder, clean(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as quick:
        for name in wanted:
            begun = time.monotonic()
            if name == "long run":
                done = long_run(Path(folder) / "long-run", options.minutes)
            else:
                done = proof(name, options.seed, Path(quick) / name.replace(" ", "-"))
            outcomes.append((name, done, time.monotonic() - begun))
    print(f"\nseed {options.seed}")
    for name, done, seconds in outcomes:
        print(f"{name:16}{'passed' if done else 'FAILED':8}{seconds / 60:8.1f} minutes")
    return 0 if all(done for _, done, _ in outcomes) else 1


def proof(name: str, seed: int, temporary: Path) -> bool:
    """The long version of a test. Returns whether it passed."""
    print(f"\n== {name}", flush=True)
    temporary.mkdir(parents=True)
    environment = {
        **os.environ,
        "WEIGHTED_STREAM_SOAK": str(seed),
        "TMPDIR": str(temporary),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-s", "--timeout=0", f"--hypothesis-seed={seed}", PROOFS[name]]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


def long_run(folder: Path, minutes: float) -> bool:
    """Train for so many minutes. Returns whether there was no fault."""
    print(f"\n== long run: {minutes:g} minutes over {', '.join(data.SOURCES)}", flush=True)
    folder.mkdir(parents=True)
    lives: list[Life] = []
    begun = time.monotonic()
    fault = None
    try:
        for life in endure(folder, minutes):
            lives.append(life)
            print(
                f"{(time.monotonic() - begun) / 60:6.1f} min  {life.source:11}{life.workers} workers "
                f"{life.steps:9,} steps, epoch {life.epoch:5,}, {life.memory / 2**20:4.0f} MiB, "
                f"{life.measures[-1].handles} files, {'killed' if life.killed else 'stopped'}",
                flush=True,
            )
        check_all(lives)
    except Fault as found:
        fault = found
    if lives:
        print(table(lives))
    print(f"FAULT: {fault}" if fault else "no fault")
    return fault is None


if __name__ == "__main__":
    sys.exit(main())
