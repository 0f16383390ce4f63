"""Run the benchmarks, one after the other, each in a process of its own: `make bench`.

Three that take longer, or need a machine that does nothing else, are run by themselves: `python -m
benchmarks.selection`, `python -m benchmarks.weighting_models`, `python -m benchmarks.method_cost`.
"""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.harness import LEFT_OUT

BENCHMARKS = (
    "loader_overhead",
    "rank_overhead",
    "store_ops",
    "shared_store",
    "scoring",
    "report_page",
    "noisy_labels",
    "redundant_stream",
    "standard_mixture",
)


def main() -> int:
    """0 if all ran; one without its data says so and counts as run."""
    failed = []
    for name in BENCHMARKS:
        print(f"\n=== {name}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}"], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
        )
        if done.returncode not in (0, LEFT_OUT):
            failed.append(name)
    if failed:
        print(f"\nnot run to the end: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
