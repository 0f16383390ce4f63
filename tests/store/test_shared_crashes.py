"""Server and trainers are killed at random moments: the short loop; the long one is `kill_at_random` in `make soak`."""

from __future__ import annotations

from pathlib import Path

import pytest
from shared_killing import kill_at_random


@pytest.mark.timeout(240)
@pytest.mark.parametrize("durable", [False, True])
def test_nothing_is_lost_and_nothing_counts_twice(durable: bool, tmp_path: Path) -> None:
    killed = kill_at_random(tmp_path, kills=6, seed=16, durable=durable)
    assert killed["server"] >= 2
    assert killed["trainer"] >= 2
    assert killed["updates"] > 50
