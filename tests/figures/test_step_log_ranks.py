"""On several ranks one of them logs, and its lines are those of one process with the global batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from global_batches import together
from log_ranks import EPOCHS, STRATEGIES, logged, one_rank
from ranks import run_ranks

OTHER = ("time", "epoch", "samples", "visits", "scored", "unscored", "nonfinite")
"""The store is written a little later on ranks that share it, and an epoch's last batch may be logged in the next."""


def lines(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in OTHER} for line in found]


@pytest.mark.timeout(240)
def test_lines_are_those_of_the_global_batches(tmp_path: Path) -> None:
    run_ranks(one_rank, 2, tmp_path, 2, str(tmp_path))
    for name in STRATEGIES:
        logged(name, [together(2, epoch) for epoch in range(EPOCHS)], tmp_path, "alone")
        expected, found = lines(tmp_path / f"{name}.alone.jsonl"), lines(tmp_path / f"{name}.0.jsonl")
        assert [line["step"] for line in found] == [line["step"] for line in expected]
        for one, other in zip(found, expected, strict=True):
            # The samples stand rank by rank in both; equal weights at the edge of a tenth may differ in the last digit.
            assert one == pytest.approx(other, rel=1e-5, abs=1e-6), (name, one["step"])
        assert not (tmp_path / f"{name}.1.jsonl").exists()
