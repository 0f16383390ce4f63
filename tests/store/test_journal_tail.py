"""The tail of a journal: each entry once, whatever its writer does meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from weighted_stream import WeightStore
from weighted_stream.store import journal_tail
from weighted_stream.store.journal_tail import JournalTail
from weighted_stream.store.place import JOURNAL


def put(store: WeightStore, *steps: int) -> None:
    for step in steps:
        store.update([step], loss=[float(step)], weight=[1.0], step=step)


def news(tail: JournalTail) -> list[int]:
    return [int(entry.ids[0]) for entry in tail.news()]


def test_each_entry_once(tmp_path: Path) -> None:
    tail = JournalTail(tmp_path / JOURNAL)
    assert news(tail) == []
    with WeightStore(tmp_path) as store:
        assert news(tail) == []
        put(store, 0, 1, 2)
        assert news(tail) == [0, 1, 2]
        assert news(tail) == []
        put(store, 3)
        assert news(tail) == [3]
        assert news(JournalTail(tmp_path / JOURNAL)) == [0, 1, 2, 3]


def test_over_many_files_the_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_tail, "MOST_ENTRIES", 10)
    with WeightStore(tmp_path, journal_bytes=16 << 20) as store:
        tail = JournalTail(tmp_path / JOURNAL)
        for number in range(30):
            store.update(np.arange(4000) + number, loss=np.ones(4000), step=number)
        assert len(list((tmp_path / JOURNAL).glob("*.arrow"))) > 2
        assert news(tail) == list(range(20, 30))
        store.update([1000], loss=[1.0], step=30)
        assert news(tail) == [1000]


def test_a_journal_that_is_cut_or_removed(tmp_path: Path) -> None:
    store = WeightStore(tmp_path)
    tail = JournalTail(tmp_path / JOURNAL)
    put(store, 0, 1)
    state = store.state_dict()
    put(store, 2, 3, 4)
    assert news(tail) == [0, 1, 2, 3, 4]
    assert tail.cuts == 0
    store.load_state_dict(state)
    assert news(tail) == [0, 1]
    put(store, 7)
    assert (news(tail), tail.cuts) == ([7], 1)
    store.load_state_dict(state)
    put(store, 8, 9, 10)
    assert (news(tail), tail.cuts) == ([0, 1, 8, 9, 10], 2)
    store.close()
    shutil.rmtree(tmp_path)
    assert news(tail) == []
