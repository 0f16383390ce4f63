"""Who only looks at a shared store, or is slow to follow it: nothing is left behind, and all news comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_servers import SharedServer, shared, until

from weighted_stream import StoreMismatchError
from weighted_stream.figures import following_shared
from weighted_stream.figures.following_shared import FollowedShared
from weighted_stream.scoring.identity import ScoreIdentity
from weighted_stream.shards.inspection import inspect_path
from weighted_stream.store.shared_server import Unreachable

SCORES = ScoreIdentity("mini", "c0ffee", "mean")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SharedServer]:
    with SharedServer(tmp_path / "server") as server:
        yield server


@pytest.fixture
def client(server: SharedServer) -> Iterator[Any]:
    import redis

    with redis.Redis(port=server.port) as client:
        yield client


def everything(client: Any) -> dict[bytes, bytes]:
    return {key: client.dump(key) for key in client.scan_iter()}


def score(server: SharedServer) -> None:
    with shared(server, follow=False) as scorer:
        scorer.bind_scores(SCORES)
        scorer.update(range(20), similarity=np.arange(20.0))


def test_a_look_at_scores_sends_none_back(server: SharedServer, client: Any) -> None:
    score(server)
    before = everything(client)
    with shared(server) as store:
        store.catch_up()
        assert store.stats()["scored"] == 20.0
        store.flush()
        assert store.stats()["shared_sent"] == 0.0
    assert inspect_path(server.url).facts["scored"] == 20
    followed = FollowedShared(server.url, "weights")
    assert followed.look().stats["scored"] == 20.0
    followed.close()
    assert everything(client) == before


@pytest.mark.filterwarnings("ignore:The shared store at:RuntimeWarning")
def test_a_look_goes_on_at_an_empty_server_without_a_trace(server: SharedServer) -> None:
    import redis

    score(server)
    with shared(server) as store:
        store.catch_up()
        server.kill()
        until(lambda: store.stats()["shared_connected"] == 0.0)
        server.start()
        store.catch_up()
        store.flush()
        assert store.stats()["scored"] == 20.0  # they are known
    with redis.Redis(port=server.port) as client:
        assert client.keys() == []


def test_who_trains_after_it_has_looked_sends_what_it_learns(server: SharedServer) -> None:
    score(server)
    with shared(server) as store, shared(server) as other:
        store.catch_up()
        store.flush()
        store.update([3], loss=[1.0], step=0)
        store.flush()
        other.catch_up()
        assert other.get([3])["visits"].tolist() == [1]
        assert other.get([3])["similarity"].tolist() == [3.0]


def test_news_has_come_whatever_is_still_to_be_sent(server: SharedServer) -> None:
    with shared(server) as other:
        other.update(range(50), loss=np.ones(50), step=0)
    with shared(server) as store:
        store.update([99], loss=[1.0], step=0)
        sharing = store._sharing
        assert sharing is not None
        push = sharing._session.push
        sharing._session.push = lambda: push() or True  # there is always more
        store.catch_up(20.0)
        assert store.get(range(50))["visits"].sum() == 50
        sharing._session.push = push


def test_short_steps_are_sent_together(server: SharedServer, client: Any) -> None:
    """Or those who follow many trainers would never come to the end."""
    every = 0.25
    with shared(server, follow=False, every=every) as store:
        began, step = time.monotonic(), 0
        while time.monotonic() < began + 1.0:
            store.update([step % 7], loss=[1.0], step=step)
            step += 1
        pushes = int(client.hget("weighted_stream:{weights}:meta", "changes"))
        assert pushes <= (time.monotonic() - began) / every + 2
        store.update(range(5000), loss=np.ones(5000), step=0)  # so many do not wait
        store.flush()
        with shared(server) as other:
            other.catch_up()
            assert other.get(range(5000))["visits"].sum() == 5000 + step


def test_nothing_on_its_way_counts_as_sent(server: SharedServer) -> None:
    """A flush that asks while the first push after an outage is being made must go on waiting."""
    with shared(server, follow=False, every=5.0) as store:
        store.update([1], loss=[1.0], step=0)
        store.flush()
        sharing = store._sharing
        assert sharing is not None
        own, records, content = sharing._own, sharing._own.records, []

        def watched(ids: Any) -> Any:
            content.append(sharing._nothing_to_wait_for() or sharing._acknowledged())
            return records(ids)

        own.records = watched
        with sharing._line:
            sharing._gone(Unreachable("the line was cut"))
            sharing._server.close()
        with pytest.warns(RuntimeWarning, match="is gone"):
            store.update([1, 2], loss=[1.0, 1.0], step=1)
        store.flush()
        assert content
        assert not any(content)
        own.records = records


@pytest.mark.filterwarnings("ignore:The shared store at:RuntimeWarning")
def test_what_follow_says_when_no_news_comes(
    server: SharedServer, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following_shared, "_PATIENCE", 0.5)
    with shared(server) as trainer:
        trainer.update([3], loss=[1.0], weight=[1.0], step=0)
        trainer.flush()
        followed = FollowedShared(server.url, "weights")
        assert followed.look().notes == []
        server.freeze()
        (note,) = (sight := followed.look()).notes
        assert "has not come yet: 1 samples after 0.5 s" in note
        assert "cannot be reached" not in note
        assert sight.ended is None
        server.thaw()
        followed._store.catch_up()
    key = "weighted_stream:{weights}:meta"
    client.hset(key, "manifest", client.hget(key, "manifest").replace(b'"shared": 1', b'"shared": 2'))
    client.client_kill_filter(_type="normal", skipme=True)
    until(lambda: followed._store.ended is not None)
    assert isinstance(followed._store.ended, StoreMismatchError)
    (note,) = (sight := followed.look()).notes
    assert "This shared store has another layout: version 2" in note
    assert sight.ended == "Nothing is shared any more: no more will come."
    assert sight.stats["visits"] == 1.0
    followed.close()


def test_a_follower_learns_while_others_write(server: SharedServer) -> None:
    done = threading.Event()

    def train() -> None:
        with shared(server, follow=False) as store:
            step = 0
            while not done.is_set():
                store.update([step % 1000], loss=[1.0], step=step)
                step += 1
                time.sleep(0.0005)

    trainers = [threading.Thread(target=train) for _ in range(2)]
    for one in trainers:
        one.start()
    try:
        with shared(server) as follower:
            for _ in range(5):
                follower.catch_up()
    finally:
        done.set()
        for one in trainers:
            one.join()
