"""Store and journal against dictionaries; the process is killed (SIGKILL) at any of its writes, or within one.

In `make soak`: 100,000 random operations.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from crash_model import BULK, NAMES, NEVER, POOL, Moment, difference
from crashing import abandon
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from soaking import LONG, progress, times
from write_points import killed_at

from weighted_stream import WeightStore
from weighted_stream.errors import StoreError, StoreMismatchError
from weighted_stream.store.journal_entry import MOST_ROWS

IDS = st.lists(st.sampled_from(POOL), min_size=1, max_size=8)
VALUES = st.floats(-4, 4, width=32) | st.just(float("nan")) | st.just(2e38)
FINITE = st.floats(-4, 4, width=32)
# At which write to be killed, and how much of it is made.
CRASH = st.none() | st.tuples(st.integers(1, 7) | st.integers(1, 16) | st.integers(1, 70), st.integers(0, 99))
AGAIN = st.lists(st.integers(1, 40), max_size=2)
"""At which write to be killed while the store is opened then."""

STEPS = 50
JOURNAL_BYTES = 1 << 20
KNOWN = {"header.bin", "records.bin", "manifest.json", "manifest.json.new", "journal"}

done: Counter[str] = Counter()


def opened(path: Path) -> WeightStore:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The journal of the store", RuntimeWarning)
        return WeightStore(path, journal_bytes=JOURNAL_BYTES)


class CrashMachine(RuleBasedStateMachine):
    """``moments[k]`` is what k calls made of the store; those from ``safe`` on may be lost when the process ends."""

    @initialize()
    def begin(self) -> None:
        self.path = Path(tempfile.mkdtemp())
        self.moments = [NEVER]
        self.safe = self.compacted = self.bulks = 0
        self.states: list[tuple[int, dict[str, Any]]] = []
        self.gone: list[tuple[Moment, dict[str, Any]]] = []
        self.store = opened(self.path / "store")

    @property
    def now(self) -> Moment:
        return self.moments[-1]

    # How things are done

    def attempt(
        self, work: Callable[[WeightStore], Any], crash: tuple[int, int] | None, again: list[int], least: int = -1
    ) -> bool:
        """Do something, or be killed while at it or right after. Returns whether it was done by the one store."""
        count("operations")
        if crash is None:
            work(self.store)
            return True
        write, seed = crash
        outcome = killed_at(write, lambda: str(work(self.store) or ""), store=self.store, seed=seed)
        assert not outcome.error, outcome.error
        count("killed after a call" if outcome.done else "killed within a call")
        abandon(self.store)
        for write in again:
            outcome = killed_at(write, lambda: str(opened(self.path / "store")), seed=seed)
            assert not outcome.error, outcome.error
            count("killed while opened" if not outcome.done else "killed after it was opened")
        self.store = opened(self.path / "store")
        return False

    def change(
        self,
        work: Callable[[WeightStore], Any],
        after: list[Moment],
        crash: tuple[int, int] | None,
        again: list[int],
        *,
        held: bool = False,
    ) -> None:
        """A call that changes something; ``held``: it may be written later."""
        self.moments += after
        if self.attempt(work, crash, again):
            self.safe = self.safe if held else len(self.moments) - 1
        else:
            self.settle(self.safe)

    def settle(self, least: int, also: int | None = None) -> None:
        """Find which moment the store is in: none before the safe one (or this one)."""
        said = None
        for place in [*range(len(self.moments) - 1, least - 1, -1), *([] if also is None else [also])]:
            differs = difference(self.store, self.moments[place])
            if differs is None:
                self.back_to(place)
                return
            said = said or differs
        raise AssertionError(f"the store is in a state that it never was in: {said}")

    def back_to(self, place: int) -> None:
        self.gone += [(self.moments[at], state) for at, state in self.states if at > place]
        self.states = [(at, state) for at, state in self.states if at <= place]
        del self.moments[place + 1 :]
        self.safe = place

    def check(self) -> None:
        assert difference(self.store, self.now) is None
        self.safe = len(self.moments) - 1

    # What is done

    @rule(data=st.data(), ids=IDS, stepped=st.booleans(), crash=CRASH, again=AGAIN)
    def update(self, data: st.DataObject, ids: list[int], stepped: bool, crash: Any, again: list[int]) -> None:
        def column(values: st.SearchStrategy[Any]) -> Any:
            return data.draw(st.none() | st.lists(values, min_size=len(ids), max_size=len(ids)))

        values = {"loss": column(VALUES), "weight": column(FINITE), "similarity": column(FINITE)}
        step = len(self.moments) if stepped or all(v is None for v in values.values()) else None
        after = self.now.updated(ids, step=step, **values)
        self.change(lambda store: store.update(ids, **values, step=step), [after], crash, again)

    @rule(data=st.data(), ids=IDS, weighed=st.booleans(), crash=CRASH, again=AGAIN)
    def record(self, data: st.DataObject, ids: list[int], weighed: bool, crash: Any, again: list[int]) -> None:
        loss = data.draw(st.lists(VALUES, min_size=len(ids), max_size=len(ids)))
        weight = [1.5 + len(self.moments)] * len(ids) if weighed else None
        step = len(self.moments)
        after = self.now.updated(ids, step=step, loss=loss, weight=weight)
        self.change(lambda store: store.record(ids, loss, weight, step=step), [after], crash, again, held=True)

    @rule(ids=IDS, names=st.lists(st.sampled_from(NAMES), min_size=8, max_size=8), crash=CRASH, again=AGAIN)
    def set_groups(self, ids: list[int], names: list[str], crash: Any, again: list[int]) -> None:
        ids = list(dict.fromkeys(ids))
        names = names[: len(ids)]
        after = self.now.grouped(ids, [NAMES.index(name) for name in names])
        self.change(lambda store: store.set_groups(ids, names), [after], crash, again)

    @precondition(lambda self: self.bulks < 2 and len(self.moments) % 5 == 4)
    @rule(value=FINITE, crash=st.none() | st.tuples(st.integers(1, 60), st.integers(0, 99)), again=AGAIN)
    def update_many(self, value: float, crash: Any, again: list[int]) -> None:
        """Two entries, and the journal passes its limit."""
        self.bulks += 1
        first = self.now.bulked(0, value)
        self.compacted = len(self.moments) + 1
        work = lambda store: store.update(BULK, similarity=np.full(BULK.size, value, np.float32))  # noqa: E731
        self.change(work, [first, first.bulked(1, value)], crash, again)

    @rule()
    def get(self) -> None:
        count("operations")
        self.check()

    @rule(crash=CRASH, again=AGAIN)
    def flush(self, crash: Any, again: list[int]) -> None:
        self.change(WeightStore.flush, [], crash, again)

    @rule()
    def save(self) -> None:
        count("operations")
        self.states.append((len(self.moments) - 1, self.store.state_dict()))
        self.safe = len(self.moments) - 1

    @rule(which=st.integers(0, 99), crash=CRASH, again=AGAIN)
    def load(self, which: int, crash: Any, again: list[int]) -> None:
        if not self.states:
            return
        place, state = self.states[which % len(self.states)]

        def work(store: WeightStore) -> str:
            try:
                store.load_state_dict(state)
            except StoreMismatchError:
                raise
            except StoreError:
                if place >= self.compacted:
                    raise
                return "refused"
            return "loaded"

        count("states loaded")
        if crash is not None:
            if not self.attempt(work, crash, again):
                self.settle(self.safe, also=place)
        elif work(self.store) == "loaded":
            count("operations")
            self.back_to(place)
            self.check()

    @rule(which=st.integers(0, 99))
    def load_what_is_gone(self, which: int) -> None:
        """Of another past: it is refused, unless all has come again just as it was."""
        if not self.gone:
            return
        count("operations")
        moment, state = self.gone[which % len(self.gone)]
        self.check()
        try:
            self.store.load_state_dict(state)
        except StoreError:
            assert difference(self.store, self.now) is None
            return
        assert difference(self.store, moment) is None
        places = [place for place, known in enumerate(self.moments) if known == moment]
        assert places, "a past that nobody made"
        self.back_to(places[-1])

    @rule(which=st.none() | st.integers(0, 99), crash=CRASH, again=AGAIN)
    def compact(self, which: int | None, crash: Any, again: list[int]) -> None:
        usable = [(place, state) for place, state in self.states if place >= self.compacted]
        place, state = (len(self.moments) - 1, None)
        if which is not None and usable:
            place, state = usable[which % len(usable)]
        self.compacted = max(self.compacted, place)
        if self.attempt(lambda store: store.compact(state), crash, again):
            self.check()
        else:
            self.settle(self.safe)

    @rule()
    def reopen(self) -> None:
        count("operations")
        self.store.close()
        self.store = opened(self.path / "store")
        self.check()

    @rule()
    def read_elsewhere(self) -> None:
        count("operations")
        self.check()
        with WeightStore(self.path / "store", mode="r") as reader:
            assert difference(reader, self.now) is None

    @rule(crash=CRASH)
    def export(self, crash: Any) -> None:
        file = self.path / "export.parquet"
        before = file.read_bytes() if file.exists() else None
        if self.attempt(lambda store: store.to_parquet(file), crash, []):
            table = pq.read_table(file, columns=["id", "visits"], use_threads=False)
            found = dict(zip(table["id"].to_pylist(), table["visits"].to_pylist(), strict=True))
            assert {i: found[i] for i in self.now.samples} == {i: s.visits for i, s in self.now.samples.items()}
            assert len(found) == self.now.figures()["samples"]
            self.safe = len(self.moments) - 1
        else:
            self.settle(self.safe)
            if file.exists() and file.read_bytes() != before:
                pq.read_table(file, use_threads=False)

    @rule(which=st.integers(0, 99))
    def at_step(self, which: int) -> None:
        count("operations")
        self.check()
        stepped = [place for place in range(1, len(self.moments)) if self.stepped(place)]
        if not stepped:
            return
        place = stepped[which % len(stepped)]
        try:
            past = WeightStore.at_step(self.path / "store", place)
        except StoreError:
            if place > self.compacted:
                raise
            return
        with past:
            assert difference(past, self.moments[place]) is None

    def stepped(self, place: int) -> bool:
        return any(sample.last_step == place for sample in self.moments[place].samples.values())

    @rule()
    def history(self) -> None:
        count("operations")
        self.check()
        rows = [row for batch in self.store.history() for row in batch.column("id").to_pylist()]
        assert tuple(rows) == self.now.rows[len(self.now.rows) - len(rows) :]
        if not self.compacted:
            assert len(rows) == len(self.now.rows)

    @rule(lost=st.booleans(), crash=CRASH, again=AGAIN)
    def rebuild(self, lost: bool, crash: Any, again: list[int]) -> None:
        if not (self.path / "store" / "journal").is_dir():
            return
        count("operations")
        self.check()
        self.store.close()
        path = self.path / "store"
        if lost:
            for file in path.glob("*.bin"):
                file.unlink()
        if crash is not None:
            outcome = killed_at(crash[0], lambda: WeightStore.rebuild(path), seed=crash[1])
            assert not outcome.error, outcome.error
            count("killed within a rebuild" if not outcome.done else "killed after a rebuild")
        if crash is None or lost:
            WeightStore.rebuild(path)
        self.store = opened(path)
        self.check()

    def teardown(self) -> None:
        if not hasattr(self, "store") or self.store._closed:
            return
        path = self.path / "store"
        self.check()
        self.store.close()
        if (path / "journal").is_dir():
            WeightStore.rebuild(path)
        self.store = opened(path)
        self.check()
        self.store.close()
        strangers = set(os.listdir(path)) - KNOWN
        assert all(name.startswith("hashed-") for name in strangers), strangers
        shutil.rmtree(self.path)


def count(what: str) -> None:
    done[what] += 1
    if what == "operations" and done[what] % 5000 == 0:
        progress(f"{time.strftime('%H:%M:%S')} {dict(done)}")


@pytest.fixture(autouse=True)
def no_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that is killed leaves its files in memory: whether they are on a disk makes no difference."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    yield
    progress(f"{dict(done)}")


CrashMachine.TestCase.settings = settings(
    max_examples=times(8, 3000),
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=list(HealthCheck) if LONG else [HealthCheck.too_slow],
)
test_crashes = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")(
    CrashMachine.TestCase
)
assert BULK.size > MOST_ROWS
