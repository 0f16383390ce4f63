"""Resume at every step, for every source, on every layout of ranks and workers, and from each layout to each other one.

In `make soak`: 1, 2 and 4 ranks with 0 and 2 workers. In `make test` the sources that `test_elastic.py` leaves out.
"""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from elastic import SIZE
from layouts import Layout, file_of, rests, whole_runs
from ranks import run_ranks
from soaking import LONG, progress
from test_elastic import make_shards

SOURCES = ["list", "iterable", "parquet", "mds", "webdataset", "hugging face", "hugging face iterable"]
if not LONG:
    SOURCES = ["iterable", "hugging face", "hugging face iterable"]
LAYOUTS: list[Layout] = [(ranks, workers) for ranks in (1, 2, 4) for workers in (0, 2)] if LONG else [(2, 0)]
STOPS = [3]
"""Where another layout goes on: within the first epoch for all of them, but at its end for four ranks."""
NEEDS = {
    "mds": "streaming",
    "webdataset": "webdataset",
    "hugging face": "datasets",
    "hugging face iterable": "datasets",
}


def sources(folder: Path) -> list[str]:
    """Those whose packages are there; their shards are written."""
    there = [source for source in SOURCES if find_spec(NEEDS.get(source, "torch"))]
    for source in there:
        make_shards(folder, source)
    return there


def load(folder: Path, source: str, layout: Layout, name: str) -> Any:
    return torch.load(file_of(str(folder), source, layout, name), weights_only=True)


@pytest.mark.timeout(0 if LONG else 240)
def test_every_layout(tmp_path: Path) -> None:
    names = sources(tmp_path)
    for work, cells in ((whole_runs, of_whole_runs), (rests, of_rests)):
        for ranks in sorted({ranks for ranks, _ in LAYOUTS}):
            (tmp_path / f"{work.__name__}-{ranks}").mkdir()
            run_ranks(work, ranks, tmp_path / f"{work.__name__}-{ranks}", ranks, cells(names, ranks), str(tmp_path))
            progress(f"{work.__name__} on {ranks} ranks are done")
    for source in names:
        for layout in LAYOUTS:
            count = check_bit_for_bit(tmp_path, source, layout)
            others = [before for before in LAYOUTS if before != layout]
            for before in others:
                check_others(tmp_path, source, before, layout)
            progress(
                f"{source}, {layout[0]} ranks x {layout[1]} workers: {count} steps, and from {len(others)} layouts"
            )


def of_whole_runs(names: list[str], ranks: int) -> list[tuple[str, int]]:
    return [(source, workers) for source in names for among, workers in LAYOUTS if among == ranks]


def of_rests(names: list[str], ranks: int) -> list[tuple[str, int, Layout, list[int]]]:
    return [
        (source, workers, before, [0] if before == (ranks, workers) else STOPS)
        for source in names
        for among, workers in LAYOUTS
        if among == ranks
        for before in LAYOUTS
    ]


def check_bit_for_bit(folder: Path, source: str, layout: Layout) -> int:
    """After every step on the same layout: the steps of every rank, and the store. Returns how many steps."""
    count = len(load(folder, source, layout, "states"))
    assert count >= 2
    for rank in range(layout[0]):
        whole = load(folder, source, layout, f"whole.{rank}")
        found = load(folder, source, layout, f"after {layout[0]}x{layout[1]}.{rank}")
        assert list(found) == list(range(1, count + 1))
        for stop, rest in found.items():
            left = len(rest["steps"])
            where = f"{source} on {layout}, rank {rank} after step {stop}"
            assert rest["steps"] == whole["steps"][len(whole["steps"]) - left :], where
            assert rank or left == count - stop, where
            for name, values in whole["records"].items():
                torch.testing.assert_close(rest["records"][name], values, rtol=0, atol=0, equal_nan=True, msg=where)
    return count


def check_others(folder: Path, source: str, before: Layout, after: Layout) -> None:
    """On another layout: each sample in each epoch, those alone twice that fill up a last batch; one store."""
    done = [load(folder, source, before, f"whole.{rank}")["steps"] for rank in range(before[0])]
    found = [load(folder, source, after, f"after {before[0]}x{before[1]}.{rank}") for rank in range(after[0])]
    whole = load(folder, source, before, "whole.0")["records"]
    for stop in STOPS:
        rest = [one[stop] for one in found]
        total = 0
        for epoch in range(2):
            seen = Counter(m for s in done for step in s[:stop] if step["epoch"] == epoch for m in step["markers"])
            seen += Counter(m for r in rest for step in r["steps"] if step["epoch"] == epoch for m in step["markers"])
            where = f"{source} from {before} to {after} after step {stop}, epoch {epoch}"
            assert set(seen) == set(range(SIZE)), f"{where}: {sorted(set(range(SIZE)) - set(seen))} are missing"
            assert seen.total() <= SIZE + after[0] + before[0] - 2, f"{where}: {seen}"
            total += seen.total()
        assert int(rest[0]["records"]["visits"].sum()) == total
        for other in rest[1:]:
            for name, values in rest[0]["records"].items():
                torch.testing.assert_close(other["records"][name], values, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(rest[0]["records"]["last_loss"], whole["last_loss"], rtol=0, atol=0)
