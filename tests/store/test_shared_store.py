"""Trainers that share a store through a real server: what they know together, and what a loss of the server costs."""

from __future__ import annotations

import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_servers import SharedServer, shared, until

from weighted_stream import StoreError, StoreMismatchError, WeightStore
from weighted_stream.sample_ids import HASHED
from weighted_stream.scoring.identity import ScoreIdentity
from weighted_stream.sources.base import Fingerprint
from weighted_stream.store.shared_store import SharedStore

SOME = np.array([0, 5, 70_000, HASHED + 12])


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServer]:
    """One server for all tests that do it no harm; each has a name of its own."""
    with SharedServer(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SharedServer]:
    """One to be killed."""
    with SharedServer(tmp_path / "server") as server:
        yield server


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return "".join(c if c.isalnum() else "-" for c in request.node.name)[:90]


def visits(store: WeightStore, ids: Any = SOME) -> list[int]:
    return store.get(ids)["visits"].tolist()


def meet(*stores: SharedStore) -> None:
    """Everything that these know has come to all of them."""
    for store in stores:
        store.flush()
    total = sum(int(store.stats()["visits"]) for store in stores)

    def all_know() -> bool:
        return all(sum(known["visits"].sum() for _, known in store.chunks()) == total for store in stores)

    until(all_know)


def test_what_two_trainers_know_comes_together(lasting: SharedServer, name: str) -> None:
    with shared(lasting, name=name) as one, shared(lasting, name=name) as two:
        one.record(SOME, [1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0], step=3)
        one.record(SOME[:1], [3.0], [0.5], step=4)
        two.record(SOME[:2], [8.0, np.nan], [2.0, 0.0], step=9)
        two.update([77], loss=[6.0], step=1)
        meet(one, two)
        for store in one, two:
            known = store.get([*SOME, 77])
            assert known["visits"].tolist() == [3, 1, 1, 1, 1]
            assert known["loss"].tolist() == [4.0, 2.0, 3.0, 4.0, 6.0]
            assert known["last_loss"].tolist() == [8.0, 2.0, 3.0, 4.0, 6.0]
            assert known["weight"][:4].tolist() == [2.0, 1.0, 1.0, 1.0]
            assert known["last_step"].tolist() == [9, 3, 3, 3, 1]
            assert known["nonfinite"].tolist() == [0, 1, 0, 0, 0]
            assert sorted(np.concatenate(list(store.ids(2))).tolist()) == sorted([*SOME.tolist(), 77])
        assert (len(one), len(two)) == (4, 3)
        assert one.stats()["shared_to_send"] == 0.0


def test_one_that_comes_later_learns_everything(lasting: SharedServer, name: str) -> None:
    ids = np.concatenate([np.arange(5000), HASHED + np.arange(3000) * 12_345])
    with shared(lasting, name=name) as one:
        one.update(ids, loss=ids % 7, weight=ids % 5, step=2)
        one.update(ids[::3], loss=np.ones(len(ids[::3])), step=3)
        one.flush()
        with shared(lasting, name=name) as two:
            two.catch_up()
            assert visits(two, ids) == visits(one, ids)
            for known, wanted in zip(two.get(ids).values(), one.get(ids).values(), strict=True):
                np.testing.assert_array_equal(known, wanted)
            two.update(ids[:10], loss=np.ones(10), step=1)
            meet(one, two)
            assert visits(one, ids[:3]) == [3, 2, 2]


def test_a_reader_that_has_missed_too_much_goes_through_all(
    lasting: SharedServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from weighted_stream.store import shared_scripts

    script = shared_scripts.SCRIPTS["push"].replace("'MAXLEN', 4096", "'MAXLEN', 2")
    assert script != shared_scripts.SCRIPTS["push"]
    monkeypatch.setitem(shared_scripts.SCRIPTS, "push", script)
    with shared(lasting, name=name) as one, shared(lasting, name=name, every=0.3) as two:
        for step in range(30):
            one.update([step], loss=[1.0], step=step)
            one.flush()
        meet(one, two)


def test_groups_and_zero_visits_stay_at_home(lasting: SharedServer, name: str) -> None:
    with shared(lasting, name=name) as one, shared(lasting, name=name) as two:
        one.set_groups([3, 4], ["code", "text"])
        one.update([4], loss=[1.0], step=0)
        meet(one, two)
        assert two.groups == ()
        assert two.get([3, 4])["group"].tolist() == [-1, -1]
        assert one.get([3, 4])["group"].tolist() == [0, 1]


def test_scores_reach_a_trainer_and_stay_with_it(lasting: SharedServer, name: str, tmp_path: Path) -> None:
    identity = ScoreIdentity("mini", "c0ffee", "mean", (1.0, 0.0))
    with shared(lasting, tmp_path / "trainer", name=name) as trainer:
        with shared(lasting, name=name, follow=False) as scorer:
            scorer.bind_scores(identity)
            scorer.update(SOME, similarity=[0.1, 0.2, 0.3, 0.4])
        until(lambda: trainer.stats()["scored"] == 4.0)
        trainer.check_scores(identity)
        with pytest.raises(StoreMismatchError, match="holds other scores: target 'tea'"):
            trainer.bind_scores(ScoreIdentity("mini", "tea", "mean"))
        with shared(lasting, name=name) as other, pytest.raises(StoreMismatchError, match="other scores: encoder"):
            other.bind_scores(ScoreIdentity("maxi", "c0ffee", "mean"))
        assert trainer.stats()["shared_sent"] == 0.0  # they are not its own
    with WeightStore(tmp_path / "trainer") as alone:
        assert alone.get(SOME)["similarity"].tolist() == np.float32([0.1, 0.2, 0.3, 0.4]).tolist()
        with pytest.raises(StoreMismatchError):
            alone.bind_scores(ScoreIdentity("mini", "tea", "mean"))


def test_scores_of_two_kinds_do_not_meet(lasting: SharedServer, name: str, tmp_path: Path) -> None:
    with WeightStore(tmp_path / "local") as local:
        local.bind_scores(ScoreIdentity("mini", "tea", "mean"))
        local.update([3], similarity=[1.0])
    with shared(lasting, name=name) as scorer:
        scorer.bind_scores(ScoreIdentity("mini", "c0ffee", "mean"))
        scorer.update([3], similarity=[0.5])
    with pytest.raises(StoreMismatchError, match="holds other scores than this one") as caught:
        shared(lasting, tmp_path / "local", name=name)
    assert "'tea'" in str(caught.value).replace('"', "'")
    assert "name=" in caught.value.do


def test_another_dataset_is_refused(lasting: SharedServer, name: str, tmp_path: Path) -> None:
    data, other = Fingerprint("list", {"samples": 3}), Fingerprint("list", {"samples": 4})
    shared(lasting, name=name, fingerprint=data).close()
    with pytest.raises(StoreMismatchError, match=f"The shared store '{name}' belongs to another dataset") as caught:
        shared(lasting, name=name, fingerprint=other)
    assert caught.value.found
    assert "another name=" in caught.value.do
    with shared(lasting, name=name) as store:
        with pytest.raises(StoreMismatchError, match="another dataset"):
            store.bind(other)
        assert store.stats()["shared_connected"] == 1.0
    shared(lasting, name=name, fingerprint=data).close()
    shared(lasting, name=name + "2", fingerprint=other).close()


def test_another_layout_is_refused(lasting: SharedServer, name: str) -> None:
    import redis

    with shared(lasting, name=name) as store:
        store.update(SOME, loss=np.ones(4), step=0)
    with redis.Redis(port=lasting.port) as client:
        key = f"weighted_stream:{{{name}}}:meta"
        client.hset(key, "manifest", client.hget(key, "manifest").replace(b'"shared": 1', b'"shared": 2'))
        with pytest.raises(StoreMismatchError, match="another layout"):
            shared(lasting, name=name)
        client.hset(key, "manifest", b"[" * 100_000)
        with pytest.raises(StoreError, match="is damaged"):
            shared(lasting, name=name)


@pytest.mark.filterwarnings("ignore:The shared store at:RuntimeWarning")
def test_a_server_that_comes_back_empty_gets_everything(server: SharedServer) -> None:
    with shared(server) as one, shared(server) as two:
        one.update(SOME, loss=[1.0, 1.0, 1.0, 1.0], similarity=[1.0, 2.0, 3.0, 4.0], step=1)
        two.update(SOME, loss=[3.0, 3.0, 3.0, 3.0], step=2)
        meet(one, two)
        server.kill()
        one.record(SOME[:2], [1.0, 1.0], [1.0, 1.0], step=3)
        two.record(SOME[2:], [3.0, 3.0], [1.0, 1.0], step=3)
        until(lambda: one.stats()["shared_connected"] == two.stats()["shared_connected"] == 0.0)
        assert one.stats()["shared_to_send"] == 2.0
        assert visits(one) == [3, 3, 2, 2]  # what it knows
        server.start()
        meet(one, two)
        for store in one, two:
            assert visits(store) == [3, 3, 3, 3]
            assert store.get(SOME)["similarity"].tolist() == [1.0, 2.0, 3.0, 4.0]
            assert store.stats()["shared_outages"] == 1.0
        with shared(server) as three:
            until(lambda: visits(three) == [3, 3, 3, 3])


def test_gone_is_said_once(server: SharedServer) -> None:
    with shared(server) as store:
        store.update(SOME, loss=np.ones(4), step=0)
        store.flush()
        for turn in range(2):
            server.kill()
            until(lambda turn=turn: store._sharing._outages == turn + 1)  # type: ignore[misc,union-attr]
            if turn == 0:
                with pytest.warns(RuntimeWarning, match="is gone .* is sent when the server is back"):
                    store.record(SOME, np.ones(4), step=1)
            store.record(SOME, np.ones(4), step=2)
            server.start()
            store.flush()
        assert store.stats()["shared_outages"] == 2.0
        server.kill()
        begin = time.monotonic()
    assert time.monotonic() - begin < 15.0  # nothing is left to be sent


def test_emptied_while_it_runs(server: SharedServer) -> None:
    import redis

    with shared(server, fingerprint=Fingerprint("list", {"samples": 3})) as one, shared(server) as two:
        one.update(SOME, loss=np.ones(4), step=1)
        meet(one, two)
        with redis.Redis(port=server.port) as client:
            client.flushall()
        meet(one, two)
        assert visits(two) == [1, 1, 1, 1]
        with pytest.raises(StoreMismatchError):
            shared(server, fingerprint=Fingerprint("list", {"samples": 5}))


@pytest.mark.filterwarnings("ignore:The shared store at:RuntimeWarning")
def test_a_server_that_comes_back_as_it_was_earlier(server: SharedServer) -> None:
    """It has lost what it had acknowledged: from the snapshot on, or all of it."""
    import redis

    with shared(server) as one, shared(server) as two:
        one.update(SOME, loss=np.ones(4), step=1)
        meet(one, two)
        with redis.Redis(port=server.port) as client:
            client.save()
        for step in range(20):
            one.update(SOME[:2], loss=[2.0, 2.0], step=step)
            two.update([step], loss=[1.0], step=step)
            one.flush()
        meet(one, two)
        before = [visits(one, range(30)), visits(two, range(30))]
        sent = one.stats()["shared_sent"]
        server.kill()
        server.start()
        meet(one, two)
        assert [visits(one, range(30)), visits(two, range(30))] == before
        assert one.stats()["shared_sent"] - sent < 10  # what was lost, not everything


def test_an_answer_that_is_lost_counts_nothing_twice(lasting: SharedServer, name: str) -> None:
    with shared(lasting, name=name) as one, shared(lasting, name=name) as two:
        exchange = one._sharing._server.exchange  # type: ignore[union-attr]
        lost = 0

        def forgetful(commands: Any) -> Any:
            nonlocal lost
            replies = exchange(commands)
            if any(reply == b"done" for reply in replies) and lost < 5:
                lost += 1
                server = one._sharing._server  # type: ignore[union-attr]
                server._fail(ConnectionError("the answer was lost"))
            return replies

        one._sharing._server.exchange = forgetful  # type: ignore[union-attr,method-assign]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            for step in range(8):
                one.record(SOME, np.ones(4), np.ones(4), step=step)
                one.flush()
            meet(one, two)
        assert lost == 5
        assert visits(two) == [8, 8, 8, 8]


def test_a_state_brings_the_server_back_too(lasting: SharedServer, name: str, tmp_path: Path) -> None:
    with shared(lasting, tmp_path / "one", name=name) as one, shared(lasting, name=name) as two:
        two.update(SOME, loss=np.ones(4), step=0)
        one.update(SOME[:2], loss=[1.0, 1.0], step=0)
        state = one.state_dict()
        one.update(SOME, loss=np.full(4, 9.0), similarity=np.ones(4), step=5)
        one.update([123], loss=[1.0], step=5)
        meet(one, two)
        assert visits(two, [*SOME, 123]) == [3, 3, 2, 2, 1]
        one.load_state_dict(state)
        assert visits(one)[:2] == [2, 2]
        meet(one, two)
        for store in one, two:
            assert visits(store, [*SOME, 123]) == [2, 2, 1, 1, 0]
            assert store.get(SOME)["loss"].tolist() == [1.0, 1.0, 1.0, 1.0]
        with shared(lasting, name=name) as three:
            until(lambda: visits(three, [*SOME, 123]) == [2, 2, 1, 1, 0])


def test_opened_again_it_is_the_same_trainer(lasting: SharedServer, name: str, tmp_path: Path) -> None:
    with shared(lasting, name=name) as other:
        for turn in range(3):
            with shared(lasting, tmp_path / "one", name=name) as one:
                one.update(SOME, loss=np.ones(4), step=turn)
        until(lambda: visits(other) == [3, 3, 3, 3])
        with WeightStore(tmp_path / "one") as alone:
            alone.update(SOME, loss=np.ones(4), step=9)
        assert visits(other) == [3, 3, 3, 3]
        with shared(lasting, tmp_path / "one", name=name) as one:
            meet(one, other)
            assert visits(one) == visits(other) == [4, 4, 4, 4]


def test_a_copy_takes_the_place_of_its_original(lasting: SharedServer, name: str, tmp_path: Path) -> None:
    import shutil

    one = shared(lasting, tmp_path / "one", name=name)
    one.update(SOME, loss=np.ones(4), step=0)
    one.flush()
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    with shared(lasting, tmp_path / "copy", name=name) as copy:
        copy.update(SOME, loss=np.ones(4), step=0)
        copy.flush()
        one.update(SOME, loss=np.ones(4), step=1)
        with pytest.raises(StoreError, match="Another process shares the same local store") as caught:
            one.flush()
        assert "still to be sent: 4" in caught.value.found
        with pytest.warns(RuntimeWarning, match="Nothing is shared any more"):
            one.update(SOME[:1], loss=[1.0], step=1)  # training goes on
        assert visits(one) == [3, 2, 2, 2]
        with pytest.raises(StoreError, match="Another process"):
            one.close()
        with shared(lasting, name=name) as other:
            until(lambda: visits(other) == [2, 2, 2, 2])


def test_close_says_what_is_left(server: SharedServer, tmp_path: Path) -> None:
    store = shared(server, tmp_path / "local", flush_timeout=0.3, timeout=0.2)
    server.freeze()
    store.update(SOME, loss=np.ones(4), step=0)
    begin = time.monotonic()
    with pytest.raises(StoreError, match="has not got everything") as caught:
        store.flush()
    assert "after 0.3 s: 4" in caught.value.found
    with pytest.raises(StoreError, match="has not got everything"):
        store.close()
    assert time.monotonic() - begin < 15.0
    store.close()  # again
    server.thaw()
    with WeightStore(tmp_path / "local") as alone:
        assert visits(alone) == [1, 1, 1, 1]
    shared(server, tmp_path / "local").close()
    with shared(server) as other:
        until(lambda: visits(other) == [1, 1, 1, 1])


def test_it_need_not_be_there_to_begin_with(server: SharedServer, tmp_path: Path) -> None:
    server.kill()
    begin = time.monotonic()
    with pytest.raises(StoreError, match="cannot be used") as caught:
        shared(server, tmp_path / "local", timeout=0.3)
    assert time.monotonic() - begin < 15.0
    assert "must_connect=False" in caught.value.do
    with shared(server, tmp_path / "local", must_connect=False) as store:
        until(lambda: store._sharing._said_gone)  # type: ignore[union-attr]
        with pytest.warns(RuntimeWarning, match="is gone"):
            store.record(SOME, np.ones(4), step=0)
        assert visits(store) == [1, 1, 1, 1]
        server.start()
        store.flush()


def test_what_a_store_had_before_is_missed_too_where_there_is_no_server(server: SharedServer, tmp_path: Path) -> None:
    shared(server, tmp_path / "local").close()
    with WeightStore(tmp_path / "local") as alone:
        alone.update(SOME, loss=np.ones(4), step=0)
    server.kill()
    store = shared(server, tmp_path / "local", must_connect=False, timeout=0.3, flush_timeout=0.3)
    with pytest.raises(StoreError, match="has not got everything"):
        store.flush()
    with pytest.raises(StoreError, match="has not got everything"):
        store.close()
    server.start()
    shared(server, tmp_path / "local").close()
    with shared(server) as other:
        until(lambda: visits(other) == [1, 1, 1, 1])


def test_a_server_that_has_become_one_of_another_dataset(server: SharedServer) -> None:
    import redis

    data, other = Fingerprint("list", {"samples": 3}), Fingerprint("list", {"samples": 9})
    store = shared(server, fingerprint=data, every=5.0)
    store.flush()
    with redis.Redis(port=server.port) as client:
        client.flushall()
    shared(server, fingerprint=other).close()
    store.update(SOME, loss=np.ones(4), step=0)
    with pytest.raises(StoreMismatchError, match="another dataset"):
        store.flush()
    with pytest.warns(RuntimeWarning, match="Nothing is shared any more"):
        store.update(SOME, loss=np.ones(4), step=0)
    assert visits(store) == [2, 2, 2, 2]
    with pytest.raises(StoreMismatchError, match="another dataset"):
        store.close()


def test_all_ids_while_another_thread_writes() -> None:
    """What goes through all records must not mind that they change meanwhile."""
    import threading

    with WeightStore() as store:
        ids = np.arange(30_000)
        everywhere = np.concatenate([ids, HASHED + ids * 7])
        store.update(everywhere[::1000], loss=np.ones(60), step=0)
        done = threading.Event()

        def write() -> None:
            for part in np.array_split(np.random.default_rng(0).permutation(everywhere), 2000):
                store.update(part, loss=np.ones(len(part)), step=1)
            done.set()

        thread = threading.Thread(target=write)
        thread.start()
        while not done.is_set():
            assert sum(len(some) for some in store.ids()) >= 60
        thread.join()
        assert sum(len(some) for some in store.ids()) == 60_000


def test_who_only_reads_leaves_nothing_behind(lasting: SharedServer, name: str) -> None:
    import redis

    with shared(lasting, name=name) as reader:
        reader.catch_up()
        reader.flush()
    with redis.Redis(port=lasting.port) as client:
        assert list(client.scan_iter(f"weighted_stream:{{{name}}}:*")) == []
    with (
        shared(lasting, name=name, follow=False) as store,
        pytest.raises(StoreError, match="learns nothing of others"),
    ):
        store.catch_up()


def test_as_of_a_step_it_is_local(lasting: SharedServer, name: str, tmp_path: Path) -> None:
    with shared(lasting, tmp_path / "one", name=name) as one, shared(lasting, name=name) as two:
        two.update(SOME, loss=np.ones(4), step=0)
        one.update(SOME, loss=np.ones(4), step=0)
        one.update(SOME, loss=np.ones(4), step=1)
        meet(one, two)
        assert visits(one) == [3, 3, 3, 3]
        then = SharedStore.at_step(tmp_path / "one", 0)
        assert visits(then) == [1, 1, 1, 1]
        assert "samples" in repr(then)


UNCLOSED = """
import sys
from weighted_stream import SharedStore
store = SharedStore(sys.argv[1], timeout=1.0, every=5.0)
store.record([3, 4], [1.0, 2.0], step=0)
if len(sys.argv) > 2:
    import os, signal
    os.kill(int(sys.argv[2]), signal.SIGKILL)
"""


@pytest.mark.timeout(240)
def test_a_program_that_ends_without_closing_sends_what_is_left(server: SharedServer) -> None:
    command = [sys.executable, "-c", UNCLOSED, server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    assert done.stderr == ""
    with shared(server) as other:
        other.catch_up()
        assert visits(other, [3, 4]) == [1, 1]
    begin = time.monotonic()
    done = subprocess.run([*command, str(server.pid)], capture_output=True, text=True, timeout=90, check=True)
    assert "samples still to be sent after 5 s: 2" in done.stderr
    assert time.monotonic() - begin < 80.0


def test_catching_up_takes_no_longer_than_it_may(server: SharedServer) -> None:
    with shared(server, timeout=0.2) as store:
        server.freeze()
        with pytest.raises(StoreError, match="has not come yet"):
            store.catch_up(0.3)
        server.thaw()
        store.catch_up()
        with pytest.warns(RuntimeWarning, match="is gone"):
            store.stats()
