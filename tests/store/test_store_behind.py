"""`record`: written a little later, and nobody sees the difference."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighted_stream import SampleIdError, StoreError, WeightStore
from weighted_stream.store.behind import MOST_CALLS, MOST_SAMPLES

CALLS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 12), min_size=0, max_size=5), st.booleans(), st.sampled_from(["record", "update"])
    ),
    max_size=80,
)


@given(CALLS)
def test_the_same_as_update(calls: list[tuple[list[int], bool, str]]) -> None:
    with WeightStore() as late, WeightStore() as once:
        for step, (ids, weighed, how) in enumerate(calls):
            loss = [float(step + i) if i % 7 else math.nan for i in range(len(ids))]
            weight = [step / 10 + i for i in range(len(ids))] if weighed else None
            once.update(ids, loss=loss, weight=weight, step=step)
            if how == "record":
                late.record(ids, loss, weight, step=step)
            else:
                late.update(ids, loss=loss, weight=weight, step=step)
        assert len(late) == len(once)
        for field, values in once.get(range(13)).items():
            np.testing.assert_array_equal(late.get(range(13))[field], values, err_msg=field)
        assert {k: v for k, v in late.stats().items() if v == v} == {k: v for k, v in once.stats().items() if v == v}


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.get([1])["visits"][0] == 1,
        lambda store: len(store) == 1,
        lambda store: [ids.tolist() for ids in store.ids()] == [[1]],
        lambda store: store.stats()["visits"] == 1,
    ],
)
def test_whatever_is_asked_is_answered_after_writing(ask) -> None:
    with WeightStore() as store:
        store.record([1], [2.0], [1.0], step=0)
        assert ask(store)


@pytest.mark.parametrize("finish", ["store.close()", "store.flush()", "del store", "pass"])
def test_written_at_the_end_whatever_it_is(finish: str, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom weighted_stream import WeightStore\nstore = WeightStore(sys.argv[1])\n"
        f"store.record([1, 2**62 + 5], [2.0, 3.0], [1.0, 0.5], step=4)\n{finish}\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], check=True)
    with WeightStore(tmp_path / "s") as store:
        assert store.get([1, 2**62 + 5])["loss"].tolist() == [2.0, 3.0]
        assert store.get([1])["last_step"].tolist() == [4]


def test_a_killed_process_has_lost_no_more_than_is_said(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom weighted_stream import WeightStore\nstore = WeightStore(sys.argv[1])\n"
        "for step in range(10**6):\n    store.record([step], [1.0], [1.0], step=step)\n    print(step, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as output:
        for line in output:
            if int(line) >= 200:
                break
        os.kill(process.pid, signal.SIGKILL)
        rest = output.read().splitlines()
    process.wait()
    acknowledged = int(rest[-1]) + 1 if rest and rest[-1].isdigit() else 201
    with WeightStore(tmp_path / "s") as store:
        visits = store.get(range(acknowledged))["visits"]
        assert visits[: acknowledged - MOST_CALLS].all()
        assert visits.max() == 1


def test_bounded() -> None:
    with WeightStore() as store:
        for step in range(MOST_CALLS * 3 + 1):
            store.record([step], [1.0], step=step)
            assert store._behind._calls < MOST_CALLS
        store.record(range(MOST_SAMPLES), np.ones(MOST_SAMPLES), step=1)
        assert store._behind._samples == 0
        store.record(range(MOST_SAMPLES + 1), np.ones(MOST_SAMPLES + 1), step=1)
        assert store._behind._samples == 0
        assert store.get([MOST_SAMPLES])["visits"].tolist() == [1]


def test_arguments_are_checked_at_once_and_copied() -> None:
    with WeightStore() as store:
        for wrong, error in (
            (lambda: store.record([-1], [1.0], step=0), SampleIdError),
            (lambda: store.record([1], [1.0, 2.0], step=0), StoreError),
            (lambda: store.record([1], [1.0], ["much"], step=0), StoreError),
            (lambda: store.record([1], [1.0], step=-1), StoreError),
        ):
            with pytest.raises(error):
                wrong()
        ids, loss = np.array([1]), np.ones(1, np.float32)
        store.record(ids, loss, loss, step=0)
        ids[0], loss[0] = 2, 5
        assert store.get([1, 2])["visits"].tolist() == [1, 0]
        assert store.get([1])["loss"].tolist() == [1.0]
    with pytest.raises(StoreError):
        store.record([1], [1.0], step=0)


def test_a_forked_child_does_not_write_it(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "s") as store:
        store.record([1], [1.0], step=0)
        pid = os.fork()
        if pid == 0:
            seen = store.get([1])["visits"][0]
            os._exit(int(seen))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert store.get([1])["visits"].tolist() == [1]


def test_threads() -> None:
    with WeightStore() as store:

        def work(number: int) -> None:
            for step in range(200):
                store.record([number, 100 + step], [1.0, 1.0], [1.0, 1.0], step=step)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.get(range(4))["visits"].tolist() == [200] * 4
        assert store.stats()["visits"] == 1600
