"""Server and trainers are killed at random moments; in `make soak` 200 times."""

from __future__ import annotations

from pathlib import Path

import pytest
from shared_killing import kill_at_random
from soaking import LONG, SEED, progress, times


@pytest.mark.timeout(0 if LONG else 240)
@pytest.mark.parametrize("durable", [False, True])
def test_nothing_is_lost_and_nothing_counts_twice(durable: bool, tmp_path: Path) -> None:
    killed = kill_at_random(tmp_path, kills=times(6, 100), seed=16 + SEED, durable=durable)
    progress(f"{dict(killed)}, a server that {'keeps' if durable else 'forgets'} what it has acknowledged")
    assert killed["server"] >= 2
    assert killed["trainer"] >= 2
    assert killed["updates"] > 50
