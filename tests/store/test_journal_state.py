"""The state of a store: back to any moment, bit for bit, here or in another process."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weighted_stream import WeightStore
from weighted_stream.errors import StoreError, StoreMismatchError
from weighted_stream.sample_ids import DENSE_LIMIT, HASHED
from weighted_stream.scoring.identity import ScoreIdentity
from weighted_stream.store.journal_base import Base

POOL = np.concatenate([np.arange(40), [10**6, DENSE_LIMIT - 1], HASHED + np.arange(20) * 99])


def contents(store: WeightStore) -> dict[str, Any]:
    """Everything that a store remembers, to the bit."""
    ids = np.sort(np.concatenate([np.zeros(0, np.int64), *store.ids()]))
    records = store._regions.read(ids, int(ids.max())) if ids.size else np.zeros(0, "V32")
    pushed, losses, weights = store._regions.header.window()
    stats = {name: float(value).hex() for name, value in store.stats().items()}
    return {
        "ids": ids.tolist(),
        "records": records.tobytes(),
        "losses": losses[: pushed[0]].tobytes(),
        "weights": weights[: pushed[1]].tobytes(),
        "stats": stats,
    }


def step(store: WeightStore, number: int, most: int = 12) -> None:
    """One of the ways in which something comes into a store: repeated ids, losses that are none, large calls."""
    rng = np.random.default_rng(number)
    ids = rng.choice(POOL, int(rng.integers(1, most)))
    loss = rng.gamma(2.0, size=ids.size).astype(np.float32)
    loss[loss > 5] = [np.nan, np.inf, 2e38][number % 3]
    weight = rng.random(ids.size, np.float32)
    match number % 5:
        case 0 | 1:
            store.record(ids, loss, weight, step=number)
        case 2:
            store.record(ids, loss, step=number)
        case 3:
            store.update(ids, similarity=weight)
        case 4:
            store.update(ids, loss=loss, weight=weight, group=ids % 7, step=number)


@pytest.mark.parametrize("temporary", [False, True])
def test_back_to_every_step(tmp_path: Path, temporary: bool) -> None:
    with WeightStore(None if temporary else tmp_path / "store") as store:
        states, seen = [], []
        for number in range(60):
            states.append(store.state_dict())
            seen.append(contents(store))
            step(store, number)
        final = contents(store)
        for number in reversed(range(60)):
            step(store, 1000 + number)
            store.load_state_dict(states[number])
            assert contents(store) == seen[number]
        for number in range(60):
            assert contents(store) == seen[number]
            step(store, number)
        assert contents(store) == final


def test_a_position_is_plain_json_of_a_few_bytes(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "store") as store:
        for number in range(20):
            step(store, number, most=3000)
        state = store.state_dict()
        seen = contents(store)
    text = json.dumps(state)
    assert len(text) < 200
    with WeightStore(tmp_path / "store") as store:
        for number in range(20, 30):
            step(store, number, most=3000)
    shutil.move(tmp_path / "store", tmp_path / "moved")
    with WeightStore(tmp_path / "moved") as store:
        store.load_state_dict(json.loads(text))
        assert contents(store) == seen


def test_records_of_a_temporary_store_go_into_another(tmp_path: Path) -> None:
    with WeightStore() as store:
        store.bind_scores(ScoreIdentity("mini", "c0ffee", "mean"))
        for number in range(30):
            step(store, number)
        state, seen = store.state_dict(), contents(store)
        step(store, 4)
        state_ids = state["ids"].copy()
    with WeightStore() as other:
        other.load_state_dict(state)
        assert contents(other) == seen
        with pytest.raises(StoreMismatchError, match="other scores"):
            other.bind_scores(ScoreIdentity("mini", "tea", "mean"))
        step(other, 4)
        assert (state["ids"] == state_ids).all()
    with WeightStore(tmp_path / "new") as kept:
        kept.load_state_dict(state)
        kept.load_state_dict({**state, "ids": state["ids"][:0], "records": state["records"][:0], "counts": [0] * 5})
        assert len(kept) == 0
        kept.load_state_dict(state)
        assert contents(kept) == seen
        step(kept, 7)
    with WeightStore(tmp_path / "new") as kept:
        with pytest.raises(StoreMismatchError, match="another kind"):
            kept.load_state_dict(state)
        position = kept.state_dict()
        step(kept, 8)
        kept.load_state_dict(position)
    with WeightStore(tmp_path / "without", journal=False) as plain:
        plain.load_state_dict(state)
        assert contents(plain) == seen
        with pytest.raises(StoreMismatchError, match="another kind"):
            plain.load_state_dict(position)


def test_a_state_of_another_store_or_past_is_refused(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "a") as store, WeightStore(tmp_path / "b") as other:
        store.update([1], loss=[1.0])
        other.update([1], loss=[1.0])
        early = store.state_dict()
        store.update([2], loss=[1.0])
        late = store.state_dict()
        with pytest.raises(StoreMismatchError, match="another store") as caught:
            other.load_state_dict(late)
        assert late["store"] in str(caught.value.found)
        with pytest.raises(StoreMismatchError, match="another version"):
            store.load_state_dict({**late, "version": 99})
        for wrong in ({}, {"kind": "journal"}, {**late, "position": -1}, {**late, "position": "5"}, None):
            with pytest.raises(StoreError):
                store.load_state_dict(wrong)  # type: ignore[arg-type]
        seen = contents(store)
        store.load_state_dict(late)
        assert contents(store) == seen
        store.load_state_dict(early)
        with pytest.raises(StoreMismatchError, match="another past"):
            store.load_state_dict(late)
        store.update([3], loss=[1.0])
        with pytest.raises(StoreMismatchError, match="another past"):
            store.load_state_dict(late)
        store.load_state_dict(early)


def test_what_was_not_written_yet_is_undone_too(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "store") as store:
        store.record([1], [1.0], step=0)
        state = store.state_dict()
        store.record([1], [9.0], step=1)
        store.load_state_dict(state)
        assert store.get([1])["visits"].tolist() == [1]


def test_a_damaged_state_changes_nothing() -> None:
    with WeightStore() as store:
        step(store, 4)
        state, seen = store.state_dict(), contents(store)
        for spoiled in (
            {**state, "ids": state["ids"][1:]},
            {**state, "ids": -state["ids"] - 1},
            {**state, "counts": [1, 2]},
            {**state, "counts": [999, 0, 0, 0, 0]},
            {**state, "losses": state["losses"][1:]},
            {**state, "pushed": [10**6, 0]},
            {**state, "records": state["records"].astype(np.float64)[:, :3]},
            {key: value for key, value in state.items() if key != "records"},
        ):
            with pytest.raises(StoreError, match="no state"):
                store.load_state_dict(spoiled)
            assert contents(store) == seen


def test_only_a_writer_has_a_state(tmp_path: Path) -> None:
    WeightStore(tmp_path / "store").close()
    with WeightStore(tmp_path / "store", mode="r") as reader:
        for use in (reader.state_dict, lambda: reader.load_state_dict({})):
            with pytest.raises(StoreError, match="opened for reading"):
                use()


def test_the_journal_can_be_switched_off_but_not_behind_its_back(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "off", journal=False) as store:
        store.update([1, HASHED], loss=[1.0, 2.0], step=0)
        assert store.state_dict()["kind"] == "records"
    assert not (tmp_path / "off" / "journal").exists()
    with WeightStore(tmp_path / "off") as store:
        state, seen = store.state_dict(), contents(store)
        store.update([1], loss=[5.0], step=1)
        store.load_state_dict(state)
        assert contents(store) == seen
    with pytest.raises(StoreError, match="has to go on"):
        WeightStore(tmp_path / "off", journal=False)
    shutil.rmtree(tmp_path / "off" / "journal")
    with WeightStore(tmp_path / "off", journal=False) as store:
        assert contents(store) == seen
    with pytest.raises(StoreError, match="has no journal"):
        WeightStore(journal=True)
    for wrong in (0, -5, 1000, 1e9, None):
        with pytest.raises(StoreError, match="journal_bytes"):
            WeightStore(tmp_path / "new", journal_bytes=wrong)  # type: ignore[arg-type]


def test_states_from_before_other_records_came(tmp_path: Path) -> None:
    """A state is of the records it was taken of, also where no entry of the journal tells them apart."""
    with WeightStore() as other:
        other.update([3], loss=[2.0])
        records = other.state_dict()
    with WeightStore(tmp_path / "loaded") as store:
        empty = store.state_dict()
        store.load_state_dict(records)
        after = store.state_dict()
        store.update([3], loss=[9.0])
        with pytest.raises(StoreMismatchError, match="another past"):
            store.load_state_dict(empty)
        store.load_state_dict(after)
        assert store.get([3])["loss"] == [2.0]
    with WeightStore(tmp_path / "loaded") as store:
        store.load_state_dict(after)
        assert (len(store), store.get([3])["loss"]) == (1, [2.0])

    with WeightStore(tmp_path / "off") as store:
        empty = store.state_dict()
    with WeightStore(tmp_path / "off", journal=False) as store:
        store.update([3], loss=[2.0])
    with WeightStore(tmp_path / "off") as store:
        with pytest.raises(StoreMismatchError, match="another past"):
            store.load_state_dict(empty)
        state = store.state_dict()
        store.update([4], loss=[1.0])
        store.load_state_dict(state)
        assert (len(store), store.get([3])["loss"]) == (1, [2.0])


@pytest.mark.parametrize("killed", [False, True])
def test_records_that_came_half(tmp_path: Path, killed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state of all records goes into a store with a journal whole, or not at all."""

    def state_of(*ids: int) -> dict[str, Any]:
        with WeightStore() as store:
            store.update(ids, loss=np.full(len(ids), float(ids[0])))
            return store.state_dict()

    def stop(*_: Any) -> None:
        if killed:
            os._exit(9)
        raise StoreError("The disk is full.", found="", expected="", do="")

    for before in ([], [3, 4]):
        path = tmp_path / str(len(before))
        with WeightStore(path) as store:
            if before:
                store.load_state_dict(state_of(*before))

        def load(path: Path = path, before: list[int] = before) -> None:
            with monkeypatch.context() as patched, WeightStore(path) as store:
                patched.setattr(Base, "take", stop)
                with pytest.raises(StoreError, match="The disk is full"):
                    store.load_state_dict(state_of(7, 8, HASHED))
                assert sorted(i for part in store.ids() for i in part.tolist()) == before
                store.update([9], loss=[1.0])

        if killed:
            child = multiprocessing.get_context("fork").Process(target=load)
            child.start()
            child.join(20)
            assert child.exitcode == 9
        else:
            load()
        with WeightStore(path) as store:
            assert sorted(i for part in store.ids() for i in part.tolist()) == before + [9] * (not killed)
            if before:
                assert store.get([3, 4])["loss"].tolist() == [3.0, 3.0]
            store.update([10], loss=[1.0])
