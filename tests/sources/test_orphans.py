"""A worker whose trainer is killed while it begins ends, however it was started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TRAINER = """
import os, signal, sys, time
from weighted_stream import Uniform, WeightedStream

def kill_trainer(pid):
    os.write(1, b"%d " % os.getpid())
    os.kill(pid, signal.SIGKILL)
    while os.getppid() == pid:
        time.sleep(0.01)
    time.sleep(0.3)

class Data(list):
    def __reduce__(self):  # spawned workers begin by unpickling it
        return unpickled, (os.getpid(),)

def unpickled(pid):
    kill_trainer(pid)
    return Data(range(8))

if __name__ == "__main__":
    method, when = sys.argv[1:]
    trainer = os.getpid()
    late = {"worker_init_fn": lambda worker: kill_trainer(trainer)} if when == "late" else {}
    loader = WeightedStream(Data(range(8)), Uniform()).loader(num_workers=1, multiprocessing_context=method, **late)
    if method == "fork" and not late:
        os.register_at_fork(after_in_child=lambda: kill_trainer(trainer))
    next(iter(loader))
"""


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("method", "when"), [("fork", "early"), ("fork", "late"), ("spawn", "early"), ("forkserver", "early")]
)
def test_a_worker_that_begins_without_its_trainer_ends(method: str, when: str, tmp_path: Path) -> None:
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    process = subprocess.Popen([sys.executable, script, method, when], stdout=subprocess.PIPE)
    try:
        said, _ = process.communicate(timeout=100)  # until nobody holds its output any more
    except subprocess.TimeoutExpired as late:
        worker = int((late.stdout or b"0").split()[0])
        os.kill(worker, signal.SIGKILL)
        pytest.fail(f"worker {worker} waits for a trainer that is gone")
    assert said.strip().isdigit()
    assert process.returncode == -signal.SIGKILL
