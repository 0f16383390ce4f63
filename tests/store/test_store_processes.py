"""Other processes: readers, forks, a second writer, and writers that are killed."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from store_writer import ids_of
from torch.utils.data import DataLoader

from weighted_stream.errors import StoreError
from weighted_stream.sample_ids import HASHED
from weighted_stream.store import WeightStore

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), *sys.path])}


def kill_a_writer(path: Path, after: int) -> int:
    """Start a writer, kill it once it has said ``after`` updates, and return the last update it has said."""
    command = [sys.executable, str(HERE / "store_writer.py"), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdout
        said = b""
        while said.count(b"\n") < after:
            piece = os.read(process.stdout.fileno(), 1 << 16)
            assert piece, "the writer ended by itself"
            said += piece
        process.kill()
        said += process.stdout.read()
    assert process.returncode == -signal.SIGKILL
    # The last number may be cut.
    return int(said.rpartition(b"\n")[0].rpartition(b"\n")[2])


@pytest.mark.parametrize("after", [1, 1500])
def test_kill_9_loses_no_update_that_returned(tmp_path: Path, after: int) -> None:
    last = kill_a_writer(tmp_path / "store", after)
    assert last >= after - 1
    with WeightStore(tmp_path / "store") as store:
        for update in range(last + 1):
            found = store.get(ids_of(update)[1:])
            assert found["last_step"].tolist() == [update] * 16
            assert found["loss"].tolist() == [update] * 16
            assert found["weight"].tolist() == [update + 1] * 16
        assert store.get([0])["visits"][0] in (last + 1, last + 2)
        # At most one more update was begun, and any part of it may be there.
        touched = np.concatenate([[0], *(ids for ids in store.ids())])
        begun = np.concatenate([ids_of(update) for update in range(last + 2)])
        assert np.isin(touched, begun).all()
        stats = store.stats()
        assert stats["samples"] == len(store) == np.unique(touched).size
        assert stats["visits"] == stats["unscored"] + store.get([0])["visits"][0] - 1
        # And it can be written further.
        store.update(ids_of(0), loss=np.zeros(17))
        assert store.get(ids_of(0)[1:])["visits"].tolist() == [2] * 16


def test_counters_are_mended_after_an_update_cut_short(tmp_path: Path) -> None:
    from weighted_stream.store.header import Header

    path = tmp_path / "store"
    with WeightStore(path, journal=False) as store:
        store.update([1, 2, HASHED], loss=[1.0, 2.0, np.nan])
        store.update([1], similarity=[0.5])
        exact = store.stats()
        # As a writer leaves it that dies between the records and the counters.
        header = store._regions.header
        assert isinstance(header, Header)
        header.begin()
        header.tally = header.tally._replace(samples=99, visits=77, unscored=55)
        header.claimed = 0
    with WeightStore(path, journal=False) as store:
        assert store.stats() == exact
        assert store._regions.header.claimed == 1


def test_an_error_inside_an_update_spoils_no_counter() -> None:
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    with WeightStore() as store:
        store.update([1, HASHED], loss=[1.0, 1.0])
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, old[1]))
        try:
            # For some of them the table would have to grow: none of them is written.
            ids = np.concatenate([[2, 3], HASHED + np.arange(30_000) * 99])
            with pytest.raises(StoreError, match="File too large") as caught:
                store.update(ids, loss=np.ones(ids.size))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
        assert "ulimit -f" in str(caught.value.expected)
        store.update([4], loss=[1.0])
        assert store.stats()["visits"] == store.get([1, 2, 3, 4, HASHED])["visits"].sum() == 3
        assert len(store) == 3


def follow(path: str, pipe: multiprocessing.connection.Connection) -> None:
    """Read what the other end asks for."""
    with WeightStore(path, mode="r") as store:
        while (ids := pipe.recv()) is not None:
            pipe.send((store.get(ids), len(store), store.stats()["visits"], sum(map(len, store.ids()))))


def test_another_process_reads_what_is_written_and_sees_it_grow(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    with WeightStore(tmp_path / "store") as store:
        reader = context.Process(target=follow, args=(str(tmp_path / "store"), there))
        reader.start()
        for ids in (
            np.arange(10),
            HASHED + np.arange(10),
            np.arange(10) + 10**9,
            HASHED + np.arange(10**5) * 999,
        ):
            store.update(ids, loss=np.arange(ids.size), step=5)
            here.send(ids[:50])
            found, samples, visits, iterated = here.recv()
            assert found["last_loss"].tolist() == list(range(min(50, ids.size)))
            assert len(store) == samples == iterated
            assert visits == store.stats()["visits"]
        here.send(None)
        reader.join()
        assert reader.exitcode == 0
    # Of the tables it has grown through, one is left.
    assert len(list((tmp_path / "store").glob("hashed-*"))) == 1


class Reads:
    """A dataset that looks into a store in the workers."""

    def __init__(self, store: WeightStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> float:
        return float(self.store.get([index])["loss"][0])


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_loader_workers_read(tmp_path: Path, start: str) -> None:
    with WeightStore(tmp_path / "store") as store:
        loader = DataLoader(Reads(store), batch_size=4, num_workers=1, multiprocessing_context=start)
        store.update([0, 1, 2, 3], loss=[4.0, 3.0, 2.0, 1.0])
        assert next(iter(loader)).tolist() == [4.0, 3.0, 2.0, 1.0]


def in_a_fork(work: Callable[[], object]) -> str:
    """What ``work()`` returns, or raises, in a forked child."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            text = str(work())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write, text.encode()[:60_000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


FORK = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@FORK
@pytest.mark.parametrize("temporary", [True, False])
def test_a_fork_reads_but_does_not_write(tmp_path: Path, temporary: bool) -> None:
    with WeightStore(None if temporary else tmp_path / "store") as store:
        store.update([1, HASHED], loss=[2.0, 3.0])
        assert in_a_fork(lambda: store.get([1, HASHED])["loss"].tolist()) == "[2.0, 3.0]"
        for work in (lambda: store.update([1], loss=[9.0]), lambda: store.reserve(10**7), store.flush):
            said = in_a_fork(work)
            assert said.startswith("StoreError: A store is written by the process that opened it.")
            assert f"forked from {os.getpid()}" in said
        assert in_a_fork(store.close) == "None"
        store.update([1], loss=[4.0])
        assert store.get([1])["last_loss"][0] == 4.0


ORPHAN = """
import os, sys, time
from weighted_stream.store import WeightStore
store = WeightStore({path!r})
if os.fork() == 0:
    os.write(1, b"%d" % os.getpid())
    time.sleep(60)
time.sleep(60)
"""


@FORK
def test_a_fork_does_not_keep_the_lock(tmp_path: Path) -> None:
    code = ORPHAN.format(path=str(tmp_path / "store"))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=ENVIRONMENT) as parent:
        assert parent.stdout
        child = int(os.read(parent.stdout.fileno(), 20))
        try:
            with pytest.raises(StoreError, match="has a writer already"):
                WeightStore(tmp_path / "store")
            parent.kill()
            parent.wait()
            WeightStore(tmp_path / "store").close()
        finally:
            os.kill(child, signal.SIGKILL)


@FORK
def test_close_frees_the_lock_whatever_a_fork_does(tmp_path: Path) -> None:
    for _ in range(20):
        store = WeightStore(tmp_path / "store")
        child = os.fork()
        if child == 0:
            os._exit(0)
        store.close()
        WeightStore(tmp_path / "store").close()
        os.waitpid(child, 0)


@FORK
def test_a_fork_follows_a_store_with_a_path(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "store") as store:
        store.update([HASHED], loss=[1.0])
        read, write = os.pipe()

        def wait_and_look() -> list[float]:
            os.read(read, 1)
            return store.get([HASHED + 9 * 9999, 5 * 10**6])["loss"].tolist()

        child_read, child_write = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(child_write, str(wait_and_look()).encode())
            os._exit(0)
        store.update(HASHED + np.arange(20_000) * 9, loss=np.arange(20_000))
        store.update([5 * 10**6], loss=[7.0])
        os.write(write, b"x")
        os.waitpid(child, 0)
        assert os.read(child_read, 100) == b"[9999.0, 7.0]"
        for end in (read, write, child_read, child_write):
            os.close(end)


def test_a_second_writer_is_refused_and_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with WeightStore(path) as first:
        with pytest.raises(StoreError, match="has a writer already") as caught:
            WeightStore(path)
        assert "mode" in caught.value.do
        code = f"from weighted_stream.store import WeightStore; WeightStore({str(path)!r})"
        other = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True)
        assert "has a writer already" in other.stderr
        first.update([2], loss=[1.0])
    kill_a_writer(path, 1)
    with WeightStore(path) as store:
        assert store.get([2])["loss"][0] == 1.0
    # Dropped without close: the lock goes with the object.
    WeightStore(path).update([1], weight=[2.0])
    with WeightStore(path) as store:
        assert store.get([1])["weight"][0] == 2.0


def test_a_temporary_store_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with WeightStore() as store:
        store.update(np.concatenate([np.arange(9), HASHED + np.arange(9000) * 99]), weight=np.ones(9009))
        assert store.path is None
        # Not even while it is open: so kill -9 leaves nothing either.
        assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StoreError, match="temporary store"):
        pickle.dumps(store)


def test_a_pickled_store_reads(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "store") as store:
        store.update([1], loss=[3.0])
        with pickle.loads(pickle.dumps(store)) as copy:
            assert copy.get([1])["loss"][0] == 3.0
            with pytest.raises(StoreError, match="opened for reading"):
                copy.update([1], loss=[4.0])


def test_threads_share_a_store() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with WeightStore() as store:

        def work(number: int) -> None:
            for _ in range(100):
                store.update([5, HASHED + number], loss=[1.0, float(number)])
                store.get([5, HASHED + number])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert store.get([5, *(HASHED + k for k in range(4))])["visits"].tolist() == [400, 100, 100, 100, 100]
        assert store.stats()["visits"] == 800


def test_a_fork_of_a_temporary_store_reads_on_after_its_table_has_grown() -> None:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    with WeightStore() as store:
        store.update([1, HASHED], loss=[1.0, 2.0])

        def read() -> None:
            there.recv()
            there.send([store.get([1, HASHED])["loss"].tolist(), len(list(store.ids()))])

        child = context.Process(target=read)
        child.start()
        store.update(HASHED + np.arange(20_000), loss=np.ones(20_000, np.float32))
        here.send("grown")
        assert here.poll(20)
        losses, _ = here.recv()
        child.join(20)
    assert losses == [1.0, 2.0]
    assert child.exitcode == 0
