"""Workers that are stuck, killed or gone are named, with what they read: in time, and in words."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import Dataset

from weighted_stream import ParquetDataset, SourceError, Uniform, WeightedStream, watching
from weighted_stream.errors import WorkerError
from weighted_stream.sources.board import Board, Desk, SitDown

pytestmark = pytest.mark.timeout(60)


class Hook(Dataset[int]):
    """Numbers, with something that happens at one of them in a worker."""

    def __init__(self, at: int, happens: Any, rows: int = 64) -> None:
        self.at, self.happens, self.rows = at, happens, rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> int:
        if index == self.at:
            self.happens()
        return index


def hangs() -> None:
    threading.Event().wait()


def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crashes() -> None:
    ctypes.string_at(0)


def leaves() -> None:
    sys.exit(3)


def epoch(stream: WeightedStream, **arguments: Any) -> int:
    count = 0
    for _, weight in stream.loader(batch_size=4, **arguments):
        weight.resolve(_ones(len(weight)))
        count += len(weight)
    return count


def _ones(count: int) -> Any:
    return torch.ones(count)


def parquet(folder: Path) -> ParquetDataset:
    for part in range(4):
        pq.write_table(pa.table({"n": range(part * 10, part * 10 + 10)}), folder / f"{part}.parquet")
    return ParquetDataset(folder)


class At:
    """A collate function in which something happens when a row comes by."""

    def __init__(self, row: int, happens: Any) -> None:
        self.row, self.happens = row, happens

    def __call__(self, samples: Any) -> Any:
        if any(sample["n"] == self.row for sample in samples):
            self.happens()
        return [sample["n"] for sample in samples]


@pytest.mark.parametrize(("context", "timeout"), [("fork", 4), ("spawn", 25)])  # spawning imports torch
def test_a_stuck_worker_is_shown_with_its_stack_and_shard(tmp_path: Path, context: str, timeout: int) -> None:
    stream = WeightedStream(parquet(tmp_path), Uniform())
    arguments = {"collate_fn": At(13, hangs), "num_workers": 2, "multiprocessing_context": context, "timeout": timeout}
    with pytest.raises(WorkerError, match=r"No batch came .* for \d+ seconds") as error:
        epoch(stream, **arguments)
    text = str(error.value)
    assert "worker 0 (pid " in text
    assert "at 1.parquet for " in text
    assert "in hangs" in text
    assert "worker 1" not in text.split("wait for work")[0] or "1 that wait for work" in text


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_long_wait_is_reported_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "REPORT_AFTER", 0.6)
    stream = WeightedStream(Hook(9, takes_long), Uniform())
    with pytest.warns(RuntimeWarning) as said:  # a busy machine takes long elsewhere, too
        assert epoch(stream, num_workers=1) == 64
    says = re.compile(r"No batch has come from the loader for \d+ seconds(.|\n)*in takes_long")
    assert any(says.search(str(one.message)) for one in said)


def takes_long() -> None:
    time.sleep(4)  # a machine whose disk is busy may stand still for a second or two


def test_without_workers_a_time_out_is_a_warning() -> None:
    stream = WeightedStream(Hook(9, takes_long), Uniform())
    with pytest.warns(RuntimeWarning, match=r"the main process, at no shard that is known(.|\n)*in takes_long"):
        assert epoch(stream, timeout=0.4) == 64


def test_a_time_out_does_no_harm_to_workers_in_time() -> None:
    assert epoch(WeightedStream(Hook(-1, hangs), Uniform()), num_workers=2, timeout=20) == 64


@pytest.mark.parametrize(
    ("happens", "says"),
    [(is_killed, "killed by SIGKILL"), (crashes, "killed by SIGSEGV"), (leaves, "exit code 3")],
)
def test_a_dead_worker_is_named_with_its_shard(tmp_path: Path, happens: Any, says: str) -> None:
    stream = WeightedStream(parquet(tmp_path), Uniform())
    with pytest.raises(WorkerError, match=rf"died \({says}\) while it read 3.parquet") as error:
        epoch(stream, collate_fn=At(33, happens), num_workers=2)
    assert "worker 1 (pid " in str(error.value)
    assert error.value.do


def test_a_worker_that_dies_while_the_trainer_is_busy() -> None:
    """Torch raises where the main process is, which is not in our code."""
    stream = WeightedStream(Hook(-1, hangs, rows=400), Uniform())
    others = multiprocessing.active_children()  # of tests before this one
    batches = iter(stream.loader(batch_size=4, num_workers=1))
    next(batches)
    (worker,) = [child for child in multiprocessing.active_children() if child not in others]
    os.kill(worker.pid or 0, signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"died \(killed by SIGKILL\)"):
        time.sleep(20)


def kill_after_first(batches: Any) -> None:
    """Take a batch; when half of the next is in the pipe, its worker is killed."""
    others = multiprocessing.active_children()
    next(batches)
    time.sleep(1)  # long enough to fill the pipe
    worker = next(child for child in multiprocessing.active_children() if child not in others)
    os.kill(worker.pid or 0, signal.SIGKILL)


def dies_as_it_looks() -> None:
    """Between two batches a worker looks whether it is to end, under a lock that the trainer takes to tell it."""
    frame = sys._getframe()
    while "done_event" not in frame.f_locals:
        assert frame.f_back is not None
        frame = frame.f_back
    frame.f_locals["done_event"]._cond.acquire()
    is_killed()


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_with_the_lock_of_the_end_is_not_waited_for(workers: int, persistent: bool) -> None:
    stream = WeightedStream(Hook(33, dies_as_it_looks), Uniform())
    with pytest.raises(WorkerError, match=r"died \(killed by SIGKILL\)"):
        epoch(stream, num_workers=workers, persistent_workers=persistent)
    gc.collect()  # torch ends the others here


LARGE = [torch.zeros(12_000)] * 400
"""Batches of four are larger than a pipe, and small enough to go through it."""


@pytest.mark.parametrize("workers", [1, 2])
def test_nobody_waits_for_what_a_dead_worker_has_sent_half(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes the error for one of the step (out of memory …) and goes on hears of it again."""
    monkeypatch.setattr(watching, "DEAD_AFTER", 1.0)
    batches = iter(WeightedStream(LARGE, Uniform()).loader(batch_size=4, num_workers=workers))
    with suppress(WorkerError):  # torch raises wherever the trainer is
        kill_after_first(batches)
        time.sleep(5)
    with pytest.raises(WorkerError, match=r"died \(killed by SIGKILL\)"):
        list(batches)


def test_a_loop_that_is_left_open_at_the_end_of_the_program_says_nothing(tmp_path: Path) -> None:
    script = "import weighted_stream as ws; s = ws.WeightedStream(list(range(64)), ws.Uniform())\n"
    script += "it = iter(s.loader(batch_size=4, num_workers=2)); next(it)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_nor_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no signal is heard."""
    monkeypatch.setattr(watching, "DEAD_AFTER", 1.0)
    said: list[str] = []

    def train() -> None:
        batches = iter(WeightedStream(LARGE, Uniform()).loader(batch_size=4, num_workers=2))
        try:
            kill_after_first(batches)
            list(batches)
        except WorkerError as error:
            said.append(str(error))

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    until = time.monotonic() + 40
    while thread.is_alive() and time.monotonic() < until:
        with suppress(RuntimeError):  # torch tells the main thread of it, where tests before this one had it listen
            time.sleep(0.1)
    assert len(said) == 1
    assert "killed by SIGKILL" in said[0]


def test_other_errors_pass() -> None:
    def fails() -> None:
        raise RuntimeError("of the user")

    for workers in (0, 1):
        with pytest.raises(RuntimeError, match="of the user") as error:
            epoch(WeightedStream(Hook(5, fails), Uniform()), num_workers=workers)
        assert not isinstance(error.value, WorkerError)


def test_the_users_own_worker_init_fn_runs(tmp_path: Path) -> None:
    def init(worker: int) -> None:
        (tmp_path / str(worker)).touch()

    assert epoch(WeightedStream(Hook(-1, hangs), Uniform()), num_workers=2, worker_init_fn=init) == 64
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]


def test_no_thread_and_no_file_is_left() -> None:
    def left() -> tuple[int, list[str]]:
        gc.collect()
        threads = [thread.name for thread in threading.enumerate() if thread.name == "weighted_stream.watching"]
        return len(os.listdir("/proc/self/fd")), threads

    stream = WeightedStream(Hook(-1, hangs), Uniform())
    epoch(stream)
    before = left()
    for _ in range(3):
        epoch(stream)
        for _ in stream.loader(batch_size=4):
            break
    del _
    until = time.monotonic() + 20  # a thread that was told to end takes its time; other tests' rubbish may go, too
    while (now := left())[1] != before[1] or now[0] > before[0]:
        assert time.monotonic() < until, f"{now} instead of {before}"
        time.sleep(0.05)


def test_notes_of_several_readers() -> None:
    board = Board(2)
    desks = [Desk(board, number) for number in range(2)]
    desks[1].reads("ä.tar".encode())
    assert board.place(1).shard == "ä.tar"
    assert not board.place(0).shard
    desks[0].reads(b"x" * 5000)
    assert board.place(0).shard == "x" * 1007
    assert board.place(1).shard == "ä.tar"
    for desk in desks:
        desk.write({"bad": "a"})
    assert len(board.notes()) == 2
    assert board.find(os.getpid()) == 0
    assert SitDown(board, None).then is None


def test_bad_policies() -> None:
    for policy in ("ignore", -1, True, None):
        with pytest.raises(SourceError, match="on_bad_shard"):
            WeightedStream([1.0], Uniform(), on_bad_shard=policy)  # type: ignore[arg-type]
    with pytest.raises(SourceError, match="Nobody can leave a bad shard"):
        WeightedStream([1.0], Uniform(), on_bad_shard="skip")
