"""The long run of `make soak`, for some seconds; and that it finds what it looks for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.soak import measures
from tools.soak.endure import MEMORY_GROWTH, Fault, Life, check, check_all, endure, table
from tools.soak.measures import Measure
from tools.soak.trainer import JOURNAL_BYTES


@pytest.mark.mosaicml
def test_two_short_lives(tmp_path: Path) -> None:
    lives = []
    for life in endure(tmp_path, minutes=10, restart=3.0, sources=("list",)):
        lives.append(life)
        if len(lives) == 2:
            break
    check_all(lives)
    assert [(life.workers, life.killed) for life in lives] == [(0, True), (2, True)]
    assert all(life.steps > 10 and life.measures[0].handles > 3 for life in lives)
    assert len(table(lives).splitlines()) == 3


def life(memory: float = 0.0, handles: float = 0.0, journal: int = 1, base: int = 1) -> Life:
    measured = [
        Measure(float(s), int(1e8 + memory * s / 150), int(30 + handles * s / 150), journal, base, 1)
        for s in range(150)
    ]
    return Life("list", 0, True, measures=measured)


def test_what_grows_is_found() -> None:
    check(life())
    for grown, says in [
        (life(memory=4 * MEMORY_GROWTH), "memory grew"),
        (life(handles=60), "more open files"),
        (life(journal=JOURNAL_BYTES + 1), "a journal of"),
        (life(base=1 << 22), "a base of"),
    ]:
        with pytest.raises(Fault, match=says):
            check(grown)
    later = life()
    later.measures = [m._replace(memory=m.memory + 2 * MEMORY_GROWTH) for m in later.measures]
    with pytest.raises(Fault, match="the last life takes"):
        check_all([life(), later])
    check_all([life(), life()])


def test_a_trainer_that_ends_by_itself_is_found(tmp_path: Path) -> None:
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "state.pt").write_bytes(b"no state")
    with pytest.raises(Fault, match="list, 0 workers: ended by itself, exit code 1"):
        next(endure(tmp_path, minutes=0.1, restart=3.0, sources=("list",)))


def test_the_family_of_a_process() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        try:
            assert child.pid in measures.family(os.getpid())
        finally:
            child.kill()
