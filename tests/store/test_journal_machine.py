"""Store and journal against a dictionary, with the process ending between any two lines of any call."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
from crashing import Killed, abandon, killed_after
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from store_model import DENSE, OTHERS, Model, assert_same
from test_journal_state import contents

from weighted_stream import WeightStore
from weighted_stream.errors import StoreError, StoreMismatchError

POOL = [*DENSE[:5], *OTHERS]
IDS = st.lists(st.sampled_from(POOL), min_size=1, max_size=8)
VALUES = st.floats(-4, 4, width=32) | st.just(float("nan")) | st.just(2e38)
FINITE = st.floats(-4, 4, width=32)
CRASH = st.none() | st.integers(1, 250) | st.integers(1, 1500)
Call = tuple[str, dict[str, Any]]


class JournalMachine(RuleBasedStateMachine):
    """``calls`` are all that were made; those from ``safe`` on may be lost when the process ends."""

    @initialize()
    def begin(self) -> None:
        self.path = Path(tempfile.mkdtemp())
        self.calls: list[Call] = []
        self.safe = self.compacted = 0
        self.states: list[tuple[int, dict[str, Any]]] = []
        self.open()

    def open(self) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The journal of the store", RuntimeWarning)
            self.store = WeightStore(self.path, journal_bytes=1 << 20)

    def attempt(self, work: Any, crash: int | None) -> bool:
        """Do something, or be killed while at it. Returns whether it was done."""
        if crash is None:
            work()
            return True
        try:
            with killed_after(crash):
                work()
            return True
        except Killed:
            pass
        abandon(self.store)
        while True:  # and perhaps again while the store is opened
            try:
                with killed_after(crash * 2):
                    self.open()
                return False
            except Killed:
                crash *= 3

    def settle(self, least: int, also: int | None = None) -> None:
        """Find how many of the calls the store has: no fewer than were safe (or as many as ``also``)."""
        seen = contents(self.store)
        for count in [*range(len(self.calls), least - 1, -1), *([] if also is None else [also])]:
            if seen == self.replayed(count):
                break
        else:
            raise AssertionError("the store is in a state that it never was in")
        del self.calls[count:]
        self.safe = count
        self.states = [(at, state) for at, state in self.states if at <= count]

    def replayed(self, count: int) -> dict[str, Any]:
        with WeightStore() as plain:
            for how, arguments in self.calls[:count]:
                getattr(plain, how)(**arguments)
            return contents(plain)

    @rule(data=st.data(), ids=IDS, crash=CRASH)
    def update(self, data: st.DataObject, ids: list[int], crash: int | None) -> None:
        values = {
            "loss": data.draw(st.none() | st.lists(VALUES, min_size=len(ids), max_size=len(ids)), "loss"),
            "weight": data.draw(st.none() | st.lists(FINITE, min_size=len(ids), max_size=len(ids)), "weight"),
            "similarity": data.draw(st.none() | st.lists(FINITE, min_size=len(ids), max_size=len(ids)), "similarity"),
            "step": len(self.calls),
        }
        self.calls.append(("update", {"ids": ids, **values}))
        if self.attempt(lambda: self.store.update(ids, **values), crash):
            self.safe = len(self.calls)
        else:
            self.settle(self.safe)

    @rule(data=st.data(), ids=IDS, weighed=st.booleans(), crash=CRASH)
    def record(self, data: st.DataObject, ids: list[int], weighed: bool, crash: int | None) -> None:
        loss = data.draw(st.lists(VALUES, min_size=len(ids), max_size=len(ids)), "loss")
        weight = [1.5] * len(ids) if weighed else None
        arguments = {"ids": ids, "loss": loss, "weight": weight, "step": len(self.calls)}
        self.calls.append(("record", arguments))
        if not self.attempt(lambda: self.store.record(**arguments), crash):
            self.settle(self.safe)

    @rule()
    def check(self) -> None:
        model = Model()
        for _, arguments in self.calls:
            model.update(**arguments)
        assert_same(self.store.get(POOL), model.get(POOL))
        stats = self.store.stats()
        assert {name: stats[name] for name in model.counts()} == model.counts()
        self.safe = len(self.calls)
        assert contents(self.store) == self.replayed(len(self.calls))

    @rule()
    def save(self) -> None:
        self.states.append((len(self.calls), self.store.state_dict()))
        self.safe = len(self.calls)

    @rule(which=st.integers(0, 99), crash=CRASH)
    def load(self, which: int, crash: int | None) -> None:
        if not self.states:
            return
        count, state = self.states[which % len(self.states)]
        try:
            done = self.attempt(lambda: self.store.load_state_dict(state), crash)
        except StoreMismatchError:
            raise
        except StoreError:
            assert count < self.compacted
            return
        if done:
            del self.calls[count:]
            self.safe = count
            self.states = [(at, kept) for at, kept in self.states if at <= count]
        else:
            self.settle(self.safe, also=count)

    @rule(crash=CRASH)
    def compact(self, crash: int | None) -> None:
        self.compacted = len(self.calls)
        if self.attempt(lambda: self.store.compact(), crash):
            self.safe = len(self.calls)
        else:
            self.settle(self.safe)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.open()
        self.safe = len(self.calls)

    @rule(torn=st.binary(min_size=1, max_size=300), line=st.binary(max_size=127))
    def die_in_a_write(self, torn: bytes, line: bytes) -> None:
        """The last of the journal is a half-written entry."""
        abandon(self.store)
        for name, rest in ((".arrow", torn), (".index", line)):
            files = sorted((self.path / "journal").glob(f"*{name}"))
            if files:
                with open(files[-1], "ab") as file:
                    file.write(rest)
        self.open()
        self.settle(self.safe)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.open()
            assert contents(self.store) == self.replayed(len(self.calls))
            self.store.close()
            if self.calls:
                WeightStore.rebuild(self.path)
            self.open()
            assert contents(self.store) == self.replayed(len(self.calls))
            self.store.close()
            shutil.rmtree(self.path)


JournalMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
# A process that ends leaves files open.
test_journal = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")(JournalMachine.TestCase)
