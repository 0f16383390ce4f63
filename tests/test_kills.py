"""kill -9 at random moments of a real training run, with workers, a scorer ahead, a journal and saved states.

In `make soak`: 200 kills. After each the run goes on from its last state, by the same command. Acknowledged is what
`flush` returned from, and what a saved state has in it. It ends as the run that nobody has interrupted, bit for bit.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soaking import LONG, SEED, progress, times

from weighted_stream import WeightStore

pytest.importorskip("sklearn")

HERE = Path(__file__).parent
VICTIMS = ("trainer", "worker", "scorer")
LEAVE = 60.0 if LONG else 20.0
"""Seconds in which everything that a trainer started has to end after it. (torch's workers look every 5 seconds.)"""
PATIENCE = 600.0 if LONG else 120.0


class Life:
    """One process of the run, until its end."""

    def __init__(self, folder: Path, temporary: Path) -> None:
        self.said: list[Any] = []
        self.members: set[int] = set()
        self.shared: set[str] = set()
        path = os.pathsep.join([str(HERE.parent), str(HERE)])
        environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
        self.errors = open(temporary.parent / "errors", "w+b")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "killed_trainer.py"), str(folder)],
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
        )
        assert self.process.stdout
        os.set_blocking(self.process.stdout.fileno(), False)
        self._held = b""

    def listen(self, seconds: float) -> None:
        """Hear what it says, for so long or until it has ended."""
        assert self.process.stdout
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as ready:
            ready.register(self.process.stdout, selectors.EVENT_READ)
            while (left := end - time.monotonic()) > 0:
                if not ready.select(min(left, 0.05)):
                    continue
                heard = self.process.stdout.read()
                if not heard:
                    return
                *lines, self._held = (self._held + heard).split(b"\n")
                self.said += map(json.loads, lines)

    def until(self, what: str, least: int = 0) -> None:
        end, over = time.monotonic() + PATIENCE, False
        while not any(what in said and said[what] >= least for said in self.said if isinstance(said, dict)):
            assert not over, self.complaint()
            assert time.monotonic() < end, f"nothing about {what!r} in {PATIENCE} seconds"
            over = self.process.poll() is not None  # what it said before is heard yet
            self.listen(0.05)

    def look(self) -> None:
        """Remember who belongs to it, and what it has in shared memory."""
        for pid in family(self.process.pid):
            self.members.add(pid)
            with contextlib.suppress(OSError):
                maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
                self.shared |= {
                    line.split()[5] for line in maps if "/dev/shm/" in line and not line.endswith("(deleted)")
                }

    def victim(self, kind: str) -> int | None:
        if kind == "trainer":
            return self.process.pid
        for pid in family(self.process.pid)[1:]:
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                # The scorer is spawned: a program of its own. Workers are forks.
                spawned = b"spawn_main" in command
                if spawned == (kind == "scorer") and b"resource_tracker" not in command:
                    return pid
        return None

    def complaint(self) -> str:
        self.errors.seek(0)
        return f"exit code {self.process.poll()}\n{self.errors.read()[-4000:].decode(errors='replace')}"

    def end(self) -> None:
        """Let nothing of it outlive this."""
        for pid in self.members | {self.process.pid}:
            with contextlib.suppress(ProcessLookupError):
                if runs(pid):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()
        self.errors.close()


def family(pid: int) -> list[int]:
    """A process and all that it started, directly or not."""
    found = [pid]
    for member in found:
        for task in Path(f"/proc/{member}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, task.read_text().split())
    return found


def runs(pid: int) -> bool:
    """A zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def steps_of(said: list[Any]) -> Iterator[tuple[int, int]]:
    return ((one["step"], one["sum"]) for one in said if isinstance(one, dict) and "sum" in one)


def whole_run(folder: Path, temporary: Path) -> tuple[dict[int, int], dict[str, Any]]:
    """The run that nobody interrupts: checksums of its steps, and its end."""
    life = Life(folder, temporary)
    try:
        life.until("done")
        life.listen(PATIENCE)
        assert life.process.wait(PATIENCE) == 0, life.complaint()
    finally:
        life.end()
    return dict(steps_of(life.said)), next(said for said in life.said if "done" in said)


@pytest.mark.timeout(0)
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at /proc")
def test_killed_at_random_moments(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    expected, end = whole_run(tmp_path / "whole", temporary)
    assert len(expected) == max(expected) == 180
    kills: Counter[str] = Counter()
    wanted, run, folder = times(8, 200), 0, tmp_path / "run-0"
    left: set[str] = set()
    while kills.total() < wanted:
        life = Life(folder, temporary)
        try:
            killed = kill_somewhere(life, chance, kills)
            check_steps(life, expected)
            if killed is None:
                run += 1
                folder = finished(life, end, tmp_path, run)
            else:
                check_acknowledged(life, folder)
            left |= check_nothing_is_left(life, temporary)
        finally:
            life.end()
        if killed and kills.total() % 10 == 0:
            progress(f"{time.strftime('%H:%M:%S')} {dict(kills)}, {run} runs finished; left behind by torch: {left}")
    life = Life(folder, temporary)
    try:
        life.until("done")
        life.listen(PATIENCE)
        check_steps(life, expected)
        finished(life, end, tmp_path, run + 1)
        check_nothing_is_left(life, temporary)
    finally:
        life.end()


def kill_somewhere(life: Life, chance: random.Random, kills: Counter[str]) -> str | None:
    """Kill something, and wait for the end of the rest. Returns what; None: the run has ended before."""
    kind = chance.choice(VICTIMS)
    if chance.random() < 0.2:  # while it starts, or loads its state
        life.listen(chance.uniform(0.0, 5.0))
    else:
        life.until("begins")
        begins = next(said["begins"] for said in life.said if "begins" in said)
        steps = chance.randrange(60)
        if begins + steps >= 180 or (begins + steps > 150 and kind == "scorer"):
            life.until("done")
            life.listen(PATIENCE)
            return None
        if steps:
            life.until("step", begins + steps)
        life.listen(chance.uniform(0.0, 0.05))
    life.look()
    victim = life.victim(kind)
    if victim is None:
        kind, victim = "trainer", life.process.pid
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    life.listen(PATIENCE)
    code = life.process.wait(PATIENCE)
    if code == 0 and any("done" in said for said in life.said if isinstance(said, dict)):
        return None  # it was at its end
    kills[kind] += 1
    if kind == "trainer":
        assert code == -signal.SIGKILL
    else:
        complaint = life.complaint()
        assert code == 1, complaint
        assert "worker" in complaint or "scorer" in complaint, complaint
    return kind


def check_steps(life: Life, expected: dict[int, int]) -> None:
    for step, checksum in steps_of(life.said):
        assert checksum == expected[step], f"step {step} is another one"


def check_acknowledged(life: Life, folder: Path) -> None:
    """What was flushed is there for everyone, before anything is opened for writing again."""
    flushed = max((said["flushed"] for said in life.said if isinstance(said, dict) and "flushed" in said), default=0)
    if not flushed:
        return
    with WeightStore(folder / "store", mode="r") as store:
        visits = store.get(np.arange(480))["visits"].sum()
    done = max(step for step, _ in steps_of(life.said)) + 1
    assert flushed <= visits <= 8 * done, f"{visits} visits, {flushed} flushed, at most {done} steps made"


def finished(life: Life, end: dict[str, Any], tmp_path: Path, run: int) -> Path:
    assert life.process.wait(PATIENCE) == 0, life.complaint()
    assert next(said for said in life.said if "done" in said) == end
    return tmp_path / f"run-{run}"


def check_nothing_is_left(life: Life, temporary: Path) -> set[str]:
    """No process, nothing in shared memory, nothing in temporary folders but what torch and Python leave there."""
    deadline = time.monotonic() + LEAVE
    while alive := [pid for pid in life.members if runs(pid)]:
        assert time.monotonic() < deadline, f"outlive their trainer: {alive}"
        time.sleep(0.1)
    ours = str(temporary.parent)  # the test's folder, which may lie there
    names = {name for name in life.shared if Path(name).exists() and not name.startswith(ours)}
    assert not names, f"left in shared memory: {names}"
    kinds = set()
    for path in temporary.iterdir():
        files = [file for file in path.rglob("*") if not file.is_socket()] if path.is_dir() else [path]
        files = [file for file in files if file.name != "_remote_module_non_scriptable.py"]  # of torch
        assert not files, f"left in the temporary folder: {files}"
        kinds.add(path.name.partition("-")[0][:4])
    return kinds
