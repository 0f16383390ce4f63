"""Any sequence of calls leaves a store as it leaves a dictionary: written, opened again, or read."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from store_model import DENSE, OTHERS, Model, assert_same

from weighted_stream import WeightStore
from weighted_stream.sample_ids import HASHED

IDS = st.lists(st.sampled_from(DENSE + OTHERS), min_size=1, max_size=12)
ANY_FLOAT = st.floats(width=32, allow_nan=True, allow_infinity=True) | st.floats(0, 10, width=32)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def columns(size: int, values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any] | None]:
    return st.none() | st.lists(values, min_size=size, max_size=size)


class StoreMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.path = tempfile.mkdtemp()
        self.store = WeightStore(self.path)
        self.reader = WeightStore(self.path, mode="r")
        self.model = Model()

    @rule(data=st.data(), ids=IDS, step=st.none() | st.integers(0, 2**31 - 1))
    def update(self, data: st.DataObject, ids: list[int], step: int | None) -> None:
        values = {
            "loss": data.draw(columns(len(ids), ANY_FLOAT), "loss"),
            "weight": data.draw(columns(len(ids), FINITE), "weight"),
            "similarity": data.draw(columns(len(ids), FINITE), "similarity"),
            "group": data.draw(columns(len(ids), st.integers(-1, 2**31 - 1)), "group"),
        }
        if step is None and all(column is None for column in values.values()):
            return
        self.store.update(ids, step=step, **values)
        self.model.update(ids, step=step, **values)

    @rule(first=st.integers(0, 3), count=st.sampled_from([100, 3000, 7000]))
    def touch_many(self, first: int, count: int) -> None:
        """So many that the table of hashed ids grows: consecutive ones and scattered ones."""
        ids = np.arange(count) + HASHED + 100_000 * first
        ids[::2] = ids[::2] * 7919 % (1 << 61) + (1 << 61)
        self.store.update(ids, loss=np.ones(count), step=first)
        self.model.update(ids.tolist(), loss=[1.0] * count, step=first)

    @rule(ids=IDS)
    def get(self, ids: list[int]) -> None:
        assert_same(self.store.get(ids), self.model.get(ids))
        assert_same(self.reader.get(ids), self.model.get(ids))

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = WeightStore(self.path)

    @rule(size=st.sampled_from([1, 7, 65536]))
    def read_all(self, size: int) -> None:
        if size == 1 and len(self.model.samples) > 200:
            return
        chunks = list(self.reader.chunks(size))
        ids = [int(i) for piece, _ in chunks for i in piece]
        assert sorted(ids) == sorted(self.model.samples)
        assert all(len(piece) == size for piece, _ in chunks[:-1])
        for piece, fields in chunks:
            assert_same(fields, self.model.get(piece.tolist()))

    @invariant()
    def counters_are_exact(self) -> None:
        expected = self.model.counts()
        for store in (self.store, self.reader):
            assert len(store) == len(self.model.samples)
            stats = store.stats()
            assert {name: stats[name] for name in expected} == expected

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.reader.close()
            shutil.rmtree(self.path)


StoreMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
test_store = StoreMachine.TestCase
