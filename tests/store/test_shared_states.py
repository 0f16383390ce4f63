"""States of stores without a path: who goes on from one is the same trainer to the server, and nothing counts twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_servers import SharedServer, until
from shared_servers import shared as shared_store

from weighted_stream import SharedStore, StoreError, WeightStore
from weighted_stream.sample_ids import HASHED

SOME = np.array([0, 5, 70_000, HASHED + 12])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServer]:
    with SharedServer(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return "".join(c if c.isalnum() else "-" for c in request.node.name)[:90]


def shared(server: SharedServer, name: str, path: Path | None = None, **options: Any) -> SharedStore:
    return shared_store(server, path, name=name, **options)


def visits(store: WeightStore, ids: Any = SOME) -> list[int]:
    return store.get(ids)["visits"].tolist()


def seen(server: SharedServer, name: str, ids: Any = SOME) -> list[int]:
    """What the server has."""
    with shared(server, name) as other:
        other.catch_up()
        return visits(other, ids)


def begin(server: SharedServer, name: str) -> dict[str, Any]:
    """The state of a trainer that has gone on a little, and ended."""
    with shared(server, name) as store:
        store.update(SOME, loss=np.ones(4), step=0)
        state = store.state_dict()
        store.update(SOME[:2], loss=np.full(2, 9.0), step=1)
    assert seen(server, name) == [2, 2, 1, 1]
    return state


def test_it_goes_on_as_the_same_trainer(server: SharedServer, name: str) -> None:
    state = begin(server, name)
    with shared(server, name) as again:
        again.catch_up()
        again.load_state_dict(state)
        until(lambda: visits(again) == [1, 1, 1, 1])  # what it did itself is no news
        again.update(SOME, loss=np.ones(4), step=1)
        again.flush()
        assert visits(again) == [2, 2, 2, 2]
        assert seen(server, name) == [2, 2, 2, 2]
        state = again.state_dict()
    with shared(server, name) as third:
        third.load_state_dict(state)
    assert seen(server, name) == [2, 2, 2, 2]


def test_what_it_had_sent_before_as_another_one_counts_no_more(server: SharedServer, name: str) -> None:
    state = begin(server, name)
    with shared(server, name) as again:
        again.update([99], loss=[1.0], step=0)
        again.flush()
        assert seen(server, name, [99]) == [1]
        again.load_state_dict(state)
        again.update(SOME[:1], loss=[1.0], step=1)
        again.flush()
        assert seen(server, name, [*SOME, 99]) == [2, 1, 1, 1, 0]
        until(lambda: visits(again, [*SOME, 99]) == [2, 1, 1, 1, 0])


def test_with_a_path_it_stays_that_trainer(server: SharedServer, name: str, tmp_path: Path) -> None:
    state = begin(server, name)
    with shared(server, name, tmp_path / "local") as again:
        again.load_state_dict(state)
        again.update(SOME, loss=np.ones(4), step=1)
    assert seen(server, name) == [2, 2, 2, 2]
    with shared(server, name, tmp_path / "local") as again:
        until(lambda: visits(again) == [2, 2, 2, 2])
        again.update(SOME, loss=np.ones(4), step=2)
    assert seen(server, name) == [3, 3, 3, 3]
    with WeightStore(tmp_path / "local") as alone:
        assert visits(alone) == [3, 3, 3, 3]


@pytest.mark.filterwarnings("ignore:The shared store at:RuntimeWarning")
def test_a_server_that_has_forgotten_it(tmp_path: Path) -> None:
    with SharedServer(tmp_path / "server") as server:
        state = begin(server, "it")
        with shared(server, "it") as again:
            again.load_state_dict(state)
            server.kill()
            server.start()
            again.update(SOME, loss=np.ones(4), step=1)
            again.flush()
            server.kill()
            server.start()
            again.update(SOME, loss=np.ones(4), step=2)
            again.flush()
            assert seen(server, "it") == [3, 3, 3, 3]


def test_states_that_do_not_say_whose_they_are(server: SharedServer, name: str) -> None:
    state = begin(server, name)
    with WeightStore() as alone:
        alone.load_state_dict(state)
        assert visits(alone) == [1, 1, 1, 1]
        assert "writer" not in alone.state_dict()
    del state["writer"]
    with shared(server, name) as other:
        other.load_state_dict(state)
        other.flush()
        assert seen(server, name) == [3, 3, 2, 2]
        with pytest.raises(StoreError, match="no state"):
            other.load_state_dict({**state, "writer": "somebody"})
        until(lambda: visits(other) == [3, 3, 2, 2])


@pytest.mark.filterwarnings("ignore:Nothing is shared any more:RuntimeWarning")
def test_a_second_process_does_not_take_the_place_of_one_that_lives(server: SharedServer, name: str) -> None:
    with shared(server, name) as first:
        first.update(SOME, loss=np.ones(4), step=0)
        first.flush()
        second = shared(server, name)
        second.load_state_dict(first.state_dict())
        until(lambda: second._sharing._session._found is not None)
        first.update(SOME, loss=np.ones(4), step=1)
        first.flush()
        second.update(SOME, loss=np.ones(4), step=1)
        with pytest.raises(StoreError, match="Another process shares the same local store") as caught:
            second.flush()
        assert "each state of a store without a path" in caught.value.expected
        second.update(SOME[:1], loss=[1.0], step=2)  # training goes on
        with pytest.raises(StoreError, match="Another process"):
            second.close()
        first.update(SOME, loss=np.ones(4), step=2)
        first.flush()
        assert seen(server, name) == [3, 3, 3, 3]


@pytest.mark.filterwarnings("ignore:Nothing is shared any more:RuntimeWarning")
def test_nor_silently(server: SharedServer, name: str) -> None:
    """If the first one was quiet meanwhile, it hears of it as soon as it goes on."""
    first = shared(server, name)
    first.update(SOME, loss=np.ones(4), step=0)
    first.flush()
    with shared(server, name) as second:
        second.load_state_dict(first.state_dict())
        second.update(SOME, loss=np.ones(4), step=1)
        second.flush()
        first.update(SOME, loss=np.ones(4), step=1)
        with pytest.raises(StoreError, match="Another process shares the same local store"):
            first.flush()
        with pytest.raises(StoreError, match="Another process"):
            first.close()
        assert seen(server, name) == [2, 2, 2, 2]


@pytest.mark.parametrize("quiet", [True, False])
def test_who_only_looks_at_a_checkpoint_changes_nothing(server: SharedServer, name: str, quiet: bool) -> None:
    """An evaluation beside a training loads the trainer's state, and weighs nothing."""
    with shared(server, name) as trainer:
        trainer.update(SOME, loss=np.ones(4), step=0)
        state = trainer.state_dict()
        trainer.update(SOME, loss=np.ones(4), step=1)
        trainer.flush()
        with shared(server, name) as looker:
            looker.load_state_dict(state)
            looker.catch_up()
            if not quiet:
                trainer.update(SOME, loss=np.ones(4), step=2)
                trainer.flush()
            looker.flush()
        trainer.update(SOME, loss=np.ones(4), step=3)
        trainer.flush()
        assert trainer.ended is None
        assert seen(server, name) == [3 + (not quiet)] * 4
