"""Scoring ahead in its real process: what it gives a stream, how it ends, and how it dies."""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ahead_stand_ins import GrowingSource, Numbers, Plan, Scored, identity, plan, score_of, until
from torch.utils.data import DataLoader

from weighted_stream import WeightedStream
from weighted_stream.errors import ScoringError, SourceError, StoreMismatchError
from weighted_stream.scoring import ahead_process
from weighted_stream.scoring.ahead import ScoringAhead
from weighted_stream.scoring.ahead_process import main
from weighted_stream.scoring.base import ScoringPlan
from weighted_stream.signals import Signals
from weighted_stream.store import WeightStore

pytestmark = [
    # Python 3.12 warns of every fork beside a thread; here loader workers are forked beside the scorer's.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

HERE = Path(__file__).parent
SIZE = 120
TEXTS = [str(number) for number in range(SIZE)]


def lines(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def scorers() -> list[Any]:
    return [child for child in multiprocessing.active_children() if "scorer" in child.name]


def exists(pid: int) -> bool:
    """A zombie is one that exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def runs(pid: int) -> bool:
    """A zombie does not: an orphan's is there until init looks after it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def epoch(loader: Any) -> dict[int, float]:
    """The weight of each sample."""
    weights: dict[int, float] = {}
    for batch, weight in loader:
        weights |= dict(zip(map(int, batch), weight.resolve(torch.zeros(len(batch))).tolist(), strict=True))
    return weights


def test_a_stream_that_waits_weighs_every_sample_by_its_score(tmp_path: Path) -> None:
    expected = {number: score_of(str(number)) for number in range(SIZE)}
    log = tmp_path / "log"
    with WeightedStream(TEXTS, Scored(plan(Numbers(log, seconds=0.001), wait=True, ahead=10))) as stream:
        loader = stream.loader(batch_size=8, shuffle=True, num_workers=2, seed=3)
        order: list[int] = []
        for batch, weight in loader:
            numbers = list(map(int, batch))
            order += numbers
            assert weight.resolve(torch.zeros(len(batch))).tolist() == [expected[n] for n in numbers]
        assert lines(log) == order, "scored in the trainer's own order"
        until(lambda: not scorers())
        assert epoch(loader) == expected
        assert epoch(DataLoader(stream, batch_size=8)) == expected
        stats = stream.stats()
        assert stats["scored_ahead"] == stats["scored"] == SIZE
        assert stats["scorer_rate"] > 10
        assert stats["scorer_parts"] > 0
        assert stats["unscored"] == stats["unscored_batches"] == stats["scorer_bad_parts"] == 0
        assert not scorers(), "there was nothing to start it for again"


def test_a_stream_that_does_not_wait_gives_the_neutral_weight_and_counts(tmp_path: Path) -> None:
    log = tmp_path / "log"
    stream = WeightedStream(TEXTS, Scored(plan(Numbers(log, seconds=0.05))), store=tmp_path / "store")
    try:
        # The user's own DataLoader: the first weight starts the process.
        assert epoch(DataLoader(stream, batch_size=8)) == dict.fromkeys(range(SIZE), 1.0)
        (scorer,) = scorers()
        assert stream.stats()["unscored_batches"] == 15
        assert stream.stats()["unscored"] == SIZE
        until(log.exists)
    finally:
        stream.close()
    assert not exists(scorer.pid)
    assert not scorers()


def test_a_scorer_killed_and_started_again_loses_and_repeats_nothing(tmp_path: Path) -> None:
    log, store = tmp_path / "log", tmp_path / "store"
    numbers = Numbers(log, seconds=0.004)
    stream = WeightedStream(TEXTS, Scored(plan(numbers, wait=True, ahead=20)), store=store)
    with pytest.raises(ScoringError, match="SIGKILL") as caught:  # noqa: PT012
        for batch, weight in stream.loader(batch_size=8):
            torch.zeros(len(batch)) * weight
            if int(batch[0]) == 48:
                (scorer,) = scorers()
                os.kill(scorer.pid, signal.SIGKILL)
    assert "killed by SIGKILL" in str(caught.value.found)
    with pytest.raises(ScoringError, match="SIGKILL"):
        epoch(stream.loader())
    stream.close()
    assert not exists(scorer.pid)
    with WeightStore(store, mode="r") as left:
        first = set(range(SIZE))
        had = {n for n in first if left.get([n])["similarity"] == score_of(str(n))}
    assert 48 <= len(had) < SIZE
    before = lines(log)
    log.unlink()
    with WeightedStream(TEXTS, Scored(plan(numbers, wait=True, ahead=20)), store=store) as stream:
        assert epoch(stream.loader(batch_size=8)) == {n: score_of(str(n)) for n in range(SIZE)}
    assert sorted(lines(log)) == sorted(first - had), "what was stored is not encoded again, and all the rest is"
    assert len(before) == len(set(before))
    assert set(before) >= had
    assert len(set(before) - had) <= 10, "of the chunk in flight only the scores are lost"


def test_an_error_reaches_the_trainer_with_its_traceback(tmp_path: Path) -> None:
    stream = WeightedStream(TEXTS, Scored(plan(Numbers(poison="77"))))
    with pytest.raises(ScoringError, match="no likeness of 77") as caught:  # noqa: PT012
        for batch, weight in stream.loader(batch_size=1):
            time.sleep(0.2)
            torch.zeros(len(batch)) * weight
    assert "KeyError" in str(caught.value)
    assert "rows 0 to 119" in str(caught.value)
    assert 'raise KeyError(f"no likeness of {sample}")' in str(caught.value.__cause__)
    with pytest.raises(ScoringError, match="no likeness of 77"):
        stream.weight([1]).tensor()
    until(lambda: not scorers())
    stream.close()


def test_a_state_after_an_error_is_of_what_was_handed_over() -> None:
    stream, got = WeightedStream(TEXTS, Scored(plan(Numbers(poison="77")))), 0
    with pytest.raises(ScoringError, match="no likeness of 77"):  # noqa: PT012
        for _ in stream.loader(batch_size=2):
            got += 2
            time.sleep(0.2)
    state = stream.state_dict()
    stream.close()
    with WeightedStream(TEXTS, Scored(plan(Numbers()))) as again:
        again.load_state_dict(state)
        batch, _ = next(iter(again.loader(batch_size=2)))
        assert list(map(int, batch)) == [got, got + 1]


def test_a_stream_that_is_refused_leaves_its_store_open_to_others(tmp_path: Path) -> None:
    with WeightStore(tmp_path) as store:
        store.bind_scores(identity("another"))
        store.update(range(SIZE), similarity=[0.5] * SIZE)
    whose = replace(plan(Numbers()), whose=identity())
    with pytest.raises(StoreMismatchError, match="holds other scores") as kept:
        WeightedStream(TEXTS, Scored(whose), store=tmp_path)
    WeightedStream(TEXTS, Scored(replace(whose, whose=identity("another"))), store=tmp_path).close()
    assert kept.value is not None


def test_weights_that_are_only_looked_at_let_it_go_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with WeightedStream(TEXTS, Scored(plan(Numbers(log), ahead=16))) as stream:
        for at, (batch, weight) in enumerate(stream.loader(batch_size=4)):
            until(lambda at=at: len(lines(log)) >= min(4 * at + 12, SIZE))
            until(lambda at=at: stream.stats()["scored_ahead"] >= 4 * at + 4)  # what is in the log may be on its way
            assert weight.tensor().tolist() == [score_of(text) for text in batch]
            weight.tensor()
            if at % 2:
                weight.resolve(torch.zeros(4))
        assert stream.stats()["unscored_batches"] == 0


def test_an_error_no_batch_came_to_raise_is_a_warning_at_the_end() -> None:
    stream = WeightedStream(TEXTS, Scored(plan(Numbers(poison="0"))))
    epoch(stream.loader(batch_size=60))
    until(lambda: not scorers())
    until(lambda: stream._ahead and stream._ahead._desk.error)
    with pytest.warns(RuntimeWarning, match="no likeness of 0"):
        stream.close()


def test_scores_of_another_target_reach_the_trainer(tmp_path: Path) -> None:
    with WeightStore(tmp_path) as store:
        store.bind_scores(identity("another"))
        store.update(range(SIZE), similarity=[0.5] * SIZE)
    with WeightedStream(TEXTS, Scored(plan(Numbers())), store=tmp_path) as stream:
        with pytest.raises(StoreMismatchError, match="This store holds other scores"):  # noqa: PT012
            for _ in stream.loader(batch_size=1):
                time.sleep(0.2)
        assert stream.stats()["scored_ahead"] == 0


def test_who_waits_for_scores_uses_none_of_another_target(tmp_path: Path) -> None:
    with WeightStore(tmp_path) as store:
        store.bind_scores(identity("another"))
        store.update(range(SIZE), similarity=[0.5] * SIZE)
    with WeightedStream(TEXTS, Scored(plan(Numbers(), wait=True)), store=tmp_path) as stream:
        with pytest.raises(StoreMismatchError, match="This store holds other scores"):
            epoch(stream.loader(batch_size=60))
        assert stream.stats()["visits"] == 0


def test_a_later_epoch_with_new_samples_starts_it_again(tmp_path: Path) -> None:
    with WeightStore() as store:
        source = GrowingSource([[1, 2], [3, 4]], bad={"shard 0": 1})
        ahead = ScoringAhead(source, plan(Numbers(tmp_path / "log"), wait=True, on_bad_shard="skip"), store)

        def scores(asked: list[int]) -> list[float]:
            signals = Signals(np.array(asked), 0, None, store.get)
            ahead.meet(signals)
            known: list[float] = signals.known("similarity").tolist()
            return known

        with pytest.warns(RuntimeWarning, match=r"samples of shard 0 .*the disk is gone") as warned:  # noqa: PT031
            ahead.begin(0)
            assert scores([1]) == [score_of("1")]
            until(lambda: not scorers())
            ahead.check()
            ahead.check()
        assert len(warned) == 1
        ahead.begin(1)
        assert not scorers(), "not before it is needed"
        assert scores([3, 1]) == [score_of("3"), score_of("1")]
        assert lines(tmp_path / "log") in ([1, 3, 4], [1, 4, 3])
        with pytest.raises(ScoringError, match="has read the whole dataset") as caught:
            scores([4, 2])
        assert "1 samples without a score, for one id 2; unreadable shards: shard 0" in str(caught.value.found)
        assert ahead.stats()["scorer_bad_parts"] == 1
        ahead.close()


def test_a_stream_that_is_deleted_takes_its_scorer_along(tmp_path: Path) -> None:
    stream = WeightedStream(TEXTS, Scored(plan(Numbers(tmp_path / "log", seconds=0.02))), store=tmp_path / "store")
    iterator = iter(stream.loader())
    next(iterator)
    (scorer,) = scorers()
    until((tmp_path / "log").exists)
    del stream, iterator
    gc.collect()
    assert not exists(scorer.pid)
    WeightStore(tmp_path / "store").close()  # which nobody holds any more


def test_a_trainer_that_is_killed_takes_its_scorer_along(tmp_path: Path) -> None:
    with trainer("wait", 2, tmp_path / "log") as process:
        assert process.stdout
        scorer = int(process.stdout.readline())
        assert exists(scorer)
        process.kill()
        process.wait()
        until(lambda: not runs(scorer), 4.5)  # the workers live on for 5 seconds


def test_a_trainer_that_ends_takes_its_scorer_along(tmp_path: Path) -> None:
    with trainer("end", 0, tmp_path / "log") as process:
        assert process.stdout
        scorer = int(process.stdout.readline())
        assert process.wait(30) == 0
        assert not exists(scorer)
        assert process.stderr
        assert process.stderr.read() == b""


def told_again(connection: Any) -> None:
    """A scorer that is told to end while it ends."""
    atexit.register(os.kill, os.getpid(), signal.SIGTERM)
    main(connection)


@pytest.mark.parametrize("told", [False, True])
def test_a_scorer_that_is_told_to_end_while_it_ends_says_nothing(told: bool, capfd: pytest.CaptureFixture[str]) -> None:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=told_again, args=(there,))
    process.start()
    there.close()
    here.recv_bytes()  # it says hello
    if told:
        process.terminate()
        process.join(60)
    here.close()
    process.join(60)
    assert process.exitcode in (128 + signal.SIGTERM if told else 0, -signal.SIGALRM)  # the latter if it is slow
    assert capfd.readouterr().err == ""


def trainer(how: str, workers: int, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(HERE / "ahead_trainer.py"), how, str(workers), str(log)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)])}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe)


def test_a_script_without_the_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from ahead_stand_ins import *\n"
        "from weighted_stream import WeightedStream\n"
        "stream = WeightedStream(['1', '2'], Scored(plan(Numbers(), wait=True)))\n"
        "stream.weight([0, 1]).tensor()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)])}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    last = done.stderr.rpartition("Traceback")[2]
    assert "ScoringError: The scorer that runs ahead has ended before it began (exit code 1)." in last
    assert 'put the script\'s top level under if __name__ == "__main__":' in last


def test_what_cannot_travel_is_told_at_once() -> None:
    with WeightedStream(TEXTS, Scored(ScoringPlan(lambda: Numbers()))) as stream:
        with pytest.raises(ScoringError, match="cannot be sent") as caught:
            next(iter(stream.loader()))
        assert "lambda" in str(caught.value.found)
        with pytest.raises(ScoringError, match="cannot be sent"):  # nor is it forgotten by the next one
            next(iter(stream.loader()))
        assert stream.state_dict()["next_epoch"] == 0


def test_what_cannot_arrive_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    here = type("OnlyHere", (Numbers,), {"__module__": "__main__", "__qualname__": "OnlyHere"})
    monkeypatch.setattr(sys.modules["__main__"], "OnlyHere", here, raising=False)
    with WeightedStream(TEXTS, Scored(ScoringPlan(Plan(here()), wait=True))) as stream:
        with pytest.raises(ScoringError, match="cannot be loaded in the process") as caught:
            epoch(stream.loader())
        assert "OnlyHere" in str(caught.value.found)


def test_a_dataset_that_nobody_can_read_ahead_is_refused_when_it_is_wrapped() -> None:
    class Stream(torch.utils.data.IterableDataset[str]):
        def __iter__(self) -> Any:
            return iter(TEXTS)

    with pytest.raises(SourceError, match="ahead of the trainer"):
        WeightedStream(Stream(), Scored(plan(Numbers())), id_fn=int)


def test_progress_needs_tqdm() -> None:
    pytest.importorskip("tqdm")
    with WeightedStream(["1"], Scored(plan(Numbers(), progress=True))):
        gc.collect()


@pytest.mark.parametrize("ended", [False, True])
def test_scores_that_a_state_does_not_know_are_made_again(tmp_path: Path, ended: bool) -> None:
    """The store goes back to before they were there; the scorer, which has been past them, hears of it."""
    numbers = Numbers(seconds=0.001)
    expected = {number: score_of(str(number)) for number in range(SIZE)}
    with WeightedStream(TEXTS, Scored(plan(numbers, wait=True, ahead=16)), store=tmp_path / "store") as stream:
        loader = stream.loader(batch_size=8)
        state: dict[str, Any] = {}
        for step, (batch, weight) in enumerate(loader, 1):
            weight.resolve(torch.zeros(len(batch)))
            if step == 3:
                state = stream.state_dict()
            if step == 10 and not ended:
                break
        if ended:
            until(lambda: not scorers())
        for _ in range(2):
            stream.load_state_dict(state)
            assert epoch(loader) == {n: expected[n] for n in range(24, SIZE)}
        assert epoch(loader) == expected


def test_the_gpu_of_the_trainer_is_that_of_its_scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr(torch.cuda, "_lazy_call", called.append)
    ahead_process._prefer(None)
    ahead_process._prefer(3)
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for there in (4, 2):  # GPUs that the scorer's process sees
        monkeypatch.setattr(torch.cuda, "device_count", lambda there=there: there)
        called[0]()
    assert (len(called), chosen) == (1, [3])
