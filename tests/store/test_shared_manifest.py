"""The manifest on a real server: what its errors advise, and what becomes of a server that is emptied in between."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_servers import SharedServer

from weighted_stream import StoreError, StoreMismatchError, WeightStore
from weighted_stream.scoring.identity import ScoreIdentity
from weighted_stream.sources.base import Fingerprint
from weighted_stream.store.shared_address import parse_address
from weighted_stream.store.shared_manifest import ServerManifest
from weighted_stream.store.shared_own import Own
from weighted_stream.store.shared_server import Server
from weighted_stream.store.shared_store import SharedStore

KEY = "weighted_stream:{it}:meta"
SCORES = ScoreIdentity("mini", "c0ffee", "mean")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServer]:
    with SharedServer(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def client(server: SharedServer) -> Iterator[Any]:
    """Another one, on an empty server."""
    import redis

    with redis.Redis(port=server.port) as client:
        client.flushall()
        yield client


@pytest.fixture
def line(server: SharedServer) -> Iterator[Server]:
    line = Server(parse_address(server.url), 5.0)
    line.connect()
    yield line
    line.close()


@pytest.mark.parametrize(
    ("change", "problem", "do"),
    [
        ({"version": 99}, "The shared store 'it' has another format", "use the version of weighted-stream that made"),
        ({"shared": 99}, "This shared store has another layout", "use the version of weighted-stream that made"),
        ({"format": None, "fingerprint": 7}, "The manifest of the shared store 'it' is damaged", "delete its keys"),
    ],
)
def test_what_to_do_about_a_manifest(
    change: dict[str, Any], problem: str, do: str, server: SharedServer, client: Any
) -> None:
    SharedStore(server.url, name="it", fingerprint=Fingerprint("list", {"samples": 3})).close()
    client.hset(KEY, "manifest", json.dumps({**json.loads(client.hget(KEY, "manifest")), **change}))
    with pytest.raises(StoreError, match=problem) as caught:
        SharedStore(server.url, name="it")
    assert do in caught.value.do
    assert "directory" not in str(caught.value)


def _check(manifest: ServerManifest) -> object:
    return manifest.check()


def _bind(manifest: ServerManifest) -> object:
    return manifest.bind(Fingerprint("list", {"samples": 3}))


def _bind_scores(manifest: ServerManifest) -> object:
    return manifest.bind_scores(SCORES)


def _check_scores(manifest: ServerManifest) -> object:
    return manifest.check_scores(SCORES)


def _agree(manifest: ServerManifest) -> object:
    return manifest.agree(SCORES.to_json())


@pytest.mark.parametrize("work", [_check, _bind, _bind_scores, _check_scores, _agree])
def test_emptied_between_two_readings(work: Callable[[ServerManifest], object], line: Server, client: Any) -> None:
    manifest = ServerManifest(line, KEY, "it")
    manifest.begin()
    exchange = line.exchange
    emptied = 0

    def emptying(commands: Any) -> list[Any]:
        nonlocal emptied
        replies = exchange(commands)
        if commands[0][0] == "HGET" and not emptied:
            client.flushall()
            emptied += 1
        return replies

    line.exchange = emptying
    work(manifest)
    assert emptied == 1
    if work in (_bind, _bind_scores, _agree):
        assert b"list" in client.hget(KEY, "manifest") or b"c0ffee" in client.hget(KEY, "manifest")


def test_who_only_looks_agrees_and_writes_nothing(line: Server, client: Any) -> None:
    manifest = ServerManifest(line, KEY, "it")
    assert manifest.agree(SCORES.to_json(), write=False) is None
    assert client.keys() == []
    manifest.bind_scores(SCORES)
    assert manifest.agree(SCORES.to_json(), write=False) == SCORES.to_json()
    other = ScoreIdentity("mini", "tea", "mean").to_json()
    assert manifest.agree(other, write=False) is None  # there are no scores yet: it may become theirs
    client.hset(KEY, "scored", 3)
    with pytest.raises(StoreMismatchError, match="holds other scores"):
        manifest.agree(other, write=False)


def test_a_field_that_one_side_does_not_know_decides_nothing(line: Server, client: Any) -> None:
    manifest = ServerManifest(line, KEY, "it")
    titles, bodies = (ScoreIdentity("mini", "c0ffee", "mean", text=name) for name in ("title", "body"))
    manifest.bind_scores(titles)
    client.hset(KEY, "scored", 3)
    for known in (titles, SCORES):
        assert manifest.agree(known.to_json(), write=False) == titles.to_json()
    with pytest.raises(StoreMismatchError, match="holds other scores"):
        manifest.agree(bodies.to_json(), write=False)


def test_scores_of_others_take_no_group_names_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The thread that shares and the trainer write the local manifest at the same moment."""
    with WeightStore(tmp_path / "local") as store:
        own = Own(store._place, store._regions, store._behind, store._threads)
        read = store._place.read_manifest
        trainer = threading.Thread(target=store.set_groups, args=([1], ["code"]))

        def slow() -> Any:
            value = read()
            if not trainer.ident and threading.current_thread() is not trainer:
                trainer.start()
                trainer.join(0.3)
            return value

        monkeypatch.setattr(store._place, "read_manifest", slow)
        own.put_scores(SCORES.to_json())
        trainer.join()
        monkeypatch.undo()
        assert own.place.read_manifest()["scores"] == SCORES.to_json()
        assert own.place.read_manifest()["groups"] == ["code"]
        assert store.get(np.array([1]))["group"].tolist() == [0]
