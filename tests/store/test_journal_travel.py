"""What can be made from a journal: the history, the store as of a step, the records anew; and a shorter journal."""

from __future__ import annotations

import multiprocessing
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from test_journal_state import POOL, contents, step

from weighted_stream import WeightStore
from weighted_stream.errors import StoreError
from weighted_stream.sample_ids import HASHED
from weighted_stream.store import journal_travel
from weighted_stream.store.journal_base import Base
from weighted_stream.store.journal_entry import MOST_ROWS
from weighted_stream.store.regions import Regions
from weighted_stream.store.scratch import Scratch

SMALL = 1 << 20


def fill(store: WeightStore, steps: range, most: int = 12) -> None:
    for number in steps:
        step(store, number, most)


def test_the_history_is_what_was_given(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "store") as store:
        store.record([3, 8], [2.0, np.nan], [1.5, 0.5], step=0)
        store.record([3, 3], [1.0, 2.0], [1.0, np.nan], step=1)
        store.update([HASHED], similarity=[0.25])
        store.update([5], group=[7], step=4)
        with WeightStore(tmp_path / "store", mode="r") as reader:
            assert pa.Table.from_batches(reader.history()).num_rows == 6
        rows = pa.Table.from_batches(store.history()).to_pylist()
    assert rows[0] == {"step": 0, "id": 3, "loss": 2.0, "weight": 1.5, "similarity": None, "group": None}
    assert np.isnan(rows[1]["loss"])
    assert [row["step"] for row in rows] == [0, 0, 1, 1, None, 4]
    assert np.isnan(rows[3]["weight"])
    assert rows[4] == {"step": None, "id": HASHED, "loss": None, "weight": None, "similarity": 0.25, "group": None}
    assert rows[5] == {"step": 4, "id": 5, "loss": None, "weight": None, "similarity": None, "group": 7}
    with WeightStore() as temporary, pytest.raises(StoreError, match="no journal"):
        temporary.history()


def test_a_segment_is_an_arrow_stream(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "store") as store:
        fill(store, range(40))
        history = pa.Table.from_batches(store.history())
    (file,) = (tmp_path / "store" / "journal").glob("*.arrow")
    with pa.ipc.open_stream(file) as stream:
        table = stream.read_all()
    assert table["id"].equals(history["id"])
    assert table.num_rows == history.num_rows > 100


def test_68_bytes_a_sample(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "store") as store:
        for number in range(320):
            store.record(np.arange(64) + number, np.ones(64), np.ones(64), step=number)
    size = sum(file.stat().st_size for file in (tmp_path / "store" / "journal").iterdir())
    assert 68 < size / (320 * 64) < 69


def test_as_of_every_step(tmp_path: Path) -> None:
    """Each sample is seen at its step; so one can tell from the records what the store knew."""
    with WeightStore(tmp_path / "store") as store:
        seen = []
        for number in range(80):
            step(store, number)
            if number % 5 not in (3,):
                seen.append((number, contents(store)))
            if number % 7 == 0:
                store.record(POOL[:9], np.ones(9), step=number)
                seen[-1:] = [(number, contents(store))]
        for number, expected in seen[:: 3 if len(seen) > 40 else 1]:
            with WeightStore.at_step(tmp_path / "store", number) as past:
                assert contents(past) == expected, number
                assert not past.writable
                with pytest.raises(StoreError):
                    past.update([1], loss=[1.0])


def test_as_of_a_step_inside_an_entry(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "store") as store:
        for number in range(30):  # written in one
            store.record([number, 99], [number, number], step=number)
        store._behind.write()
        assert store.state_dict()["position"] == 1
    for number in (0, 7, 28, 29, 1000):
        with WeightStore.at_step(tmp_path / "store", number) as past:
            assert past.get([99])["last_loss"].tolist() == [min(number, 29)]
            assert len(past) == min(number, 29) + 2


def test_before_anything_there_is_nothing(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "store") as store:
        store.update([1], loss=[1.0], step=7)
    with WeightStore.at_step(tmp_path / "store", 6) as past:
        assert len(past) == 0


def test_a_damaged_base_is_refused(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "store") as store:
        store.update([1, 2, HASHED], loss=[1.0, 2.0, 3.0], step=0)
        store.compact()
        store.update([1], loss=[4.0], step=1)
    table = tmp_path / "store" / "journal" / "base" / "hashed-1.bin"
    keys = np.memmap(table, np.int64, "r+", shape=(1 << 13,))
    keys[np.flatnonzero(keys)] = -3083868502939216614
    del keys
    with pytest.raises(StoreError, match="is damaged") as caught:
        WeightStore.at_step(tmp_path / "store", 1)
    assert "-3083868502939216614" in str(caught.value.found)


def test_what_was_compacted_is_in_the_base_and_not_in_the_history(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "store") as store:
        fill(store, range(30))
        early = store.state_dict()
        fill(store, range(30, 60))
        middle, seen = store.state_dict(), contents(store)
        fill(store, range(60, 90))
        late, last = store.state_dict(), contents(store)
        store.compact(middle)
        assert contents(store) == last
        assert store._journal.base.mark[0] == middle["position"]
        with pytest.raises(StoreError, match="does not reach back") as caught:
            store.load_state_dict(early)
        assert "compacted" in str(caught.value.expected)
        with pytest.raises(StoreError, match="does not reach back to step 3"):
            WeightStore.at_step(tmp_path / "store", 3)
        with WeightStore.at_step(tmp_path / "store", 89) as past:
            assert past.get(POOL)["last_step"].max() == 89
    with WeightStore(tmp_path / "store") as store:
        assert contents(store) == last
        store.load_state_dict(middle)
        assert contents(store) == seen
        fill(store, range(60, 90))
        assert contents(store) == last
        assert store.state_dict() == late  # the same past
        store.compact()
        assert contents(store) == last
        assert not list((tmp_path / "store" / "journal").glob("*.arrow"))
        store.load_state_dict(late)
        fill(store, range(90, 95))
        last = contents(store)
    with WeightStore(tmp_path / "store") as store:
        assert contents(store) == last


def test_rebuilt_bit_for_bit(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "store") as store:
        fill(store, range(50), most=400)
        store.compact()
        fill(store, range(50, 80), most=400)
        expected = contents(store)
        with pytest.raises(StoreError, match="writer already"):
            WeightStore.rebuild(tmp_path / "store")
    with open(tmp_path / "store" / "records.bin", "rb") as file:  # a sparse one, of terabytes
        records = file.read(33_000_000)
    (tmp_path / "store" / "header.bin").unlink()
    (tmp_path / "store" / "records.bin").unlink()
    for table in (tmp_path / "store").glob("hashed-*"):
        table.write_bytes(b"nonsense")
    WeightStore.rebuild(tmp_path / "store")
    with open(tmp_path / "store" / "records.bin", "rb") as file:
        assert file.read(33_000_000) == records
    with WeightStore(tmp_path / "store") as store:
        assert contents(store) == expected
    shutil.rmtree(tmp_path / "store" / "journal")
    with pytest.raises(StoreError, match="cannot be made again"):
        WeightStore.rebuild(tmp_path / "store")


def test_a_journal_stays_within_its_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with WeightStore(tmp_path / "bounded", journal_bytes=SMALL) as store, WeightStore() as plain:
        folder = tmp_path / "bounded" / "journal"
        largest, states = 0, []
        for number in range(900):
            ids, loss = rng.choice(5000, 64) + (HASHED if number % 3 else 0), rng.random(64, np.float32)
            for each in (store, plain):
                each.record(ids, loss, loss, step=number)
            if number % 50 == 0:
                states.append((store.state_dict(), contents(store)))
                largest = max(largest, sum(file.stat().st_size for file in folder.glob("*.*")))
        assert SMALL / 2 < largest < 1.4 * SMALL
        assert contents(store) == contents(plain)
        with pytest.raises(StoreError, match="does not reach back"):
            store.load_state_dict(states[0][0])
        for state, seen in states[:-4:-1]:
            store.load_state_dict(state)
            assert contents(store) == seen
    with WeightStore(tmp_path / "bounded", journal_bytes=SMALL) as store:
        assert contents(store) == seen


def test_a_large_call_is_several_entries(tmp_path: Path) -> None:
    ids = np.arange(3 * MOST_ROWS + 5) * 7 % 40_000
    values = np.random.default_rng(0).random(ids.size, np.float32)
    with WeightStore(tmp_path / "store") as store, WeightStore() as plain:
        before = contents(store)
        state = store.state_dict()
        for each in (store, plain):
            each.update(ids, loss=values, weight=values, similarity=values, group=ids % 9, step=1)
        assert store.state_dict()["position"] == 4
        assert contents(store) == contents(plain)
        store.load_state_dict(state)
        assert contents(store) == before


def read_while_written(path: Path) -> None:
    looks = 0
    while looks < 20:
        try:
            with WeightStore(path, mode="r") as reader:
                rows = sum(batch.num_rows for batch in reader.history())
            with WeightStore.at_step(path, 10**6) as past:
                visits = past.get(np.arange(100))["visits"]
                assert visits.max() == visits.min()
            looks += rows > 0
        except StoreError as error:
            if not any(reason in str(error) for reason in ("No such file", "compacted", "does not reach back")):
                raise


def test_readers_of_a_journal_that_is_written_and_compacted(tmp_path: Path) -> None:
    reader = multiprocessing.get_context("spawn").Process(target=read_while_written, args=(tmp_path / "store",))
    with WeightStore(tmp_path / "store", journal_bytes=SMALL) as store:
        store.update(np.arange(100), loss=np.ones(100), step=0)
        reader.start()
        number = 0
        while reader.exitcode is None:
            number += 1
            store.update(np.arange(100), loss=np.ones(100), step=number)
            if number % 100 == 0:
                store.compact()
            time.sleep(0.002)
        assert reader.exitcode == 0


def test_entries_that_went_away_while_they_were_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a store whose writer lets entries go into its base between the base's copy and the reading of the journal."""
    with WeightStore(tmp_path, journal_bytes=1 << 20) as store:
        for step in range(200):
            store.update(np.arange(step * 100, step * 100 + 100), loss=np.full(100, float(step)), step=step)
        original, done = journal_travel._base_of, []

        def copied(place: Any) -> Any:
            result = original(place)
            if not done:
                done.append(store.compact())
                store.update([0], loss=[7.0], step=200)
            return result

        monkeypatch.setattr(journal_travel, "_base_of", copied)
        with WeightStore.at_step(tmp_path, 200) as then:
            assert done
            assert then.get(np.arange(20_000))["visits"].tolist() == [2, *[1] * 19_999]
            assert then.get([0])["last_loss"] == [7.0]


def test_a_base_that_grew_while_it_was_copied(tmp_path: Path) -> None:
    with WeightStore(tmp_path) as store:
        store.update([1], loss=[1.0], step=0)
        store.compact()
        base = Base(tmp_path / "journal" / "base", write=False)
        high = 1 << 20
        store.update([high, 2**50], loss=[2.0, 3.0], step=1)
        store.compact()
        copied = Regions(Scratch(), write=True, new=True)
        base.copy_to(copied)
        assert copied.header.tally.samples == 3
        assert sorted(i for part in copied.touched() for i in part.tolist()) == [1, high, 2**50]


@pytest.mark.parametrize("removed", [False, True])
def test_a_store_without_a_journal_has_no_past(tmp_path: Path, removed: bool) -> None:
    with WeightStore(tmp_path, journal=removed) as store:
        store.update([1], loss=[1.0], step=0)
    if removed:
        for file in (tmp_path / "journal").iterdir():
            file.unlink()
    with pytest.raises(StoreError, match="This store has no journal"):
        WeightStore.at_step(tmp_path, 5)
    with (
        WeightStore(tmp_path, mode="r") as store,
        pytest.raises(StoreError, match="This store has no journal"),
    ):
        store.history()
    with pytest.raises(StoreError, match="cannot be made again"):
        WeightStore.rebuild(tmp_path)
    with WeightStore(tmp_path, mode="r") as store:
        assert store.get([1])["loss"] == [1.0]
