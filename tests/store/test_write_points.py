"""The process is killed at every write in turn of whatever changes a store (in `make test`: at some of them)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crash_model import BULK
from soaking import progress, times
from test_crash_machine import opened
from test_journal_crashes import simple
from test_journal_state import contents
from write_points import killed_at

from weighted_stream import WeightStore
from weighted_stream.store.journal_entry import MOST_ROWS

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

STEPS, MIDDLE = 12, 5
Work = Callable[[Path, dict[str, Any]], Any]
Before = tuple[Path, dict[str, Any], dict[str, Any]]


def on(work: Callable[[WeightStore, dict[str, Any]], Any]) -> Work:
    return lambda path, middle: work(opened(path), middle)


def record(store: WeightStore, middle: dict[str, Any]) -> None:
    for number in range(32):
        store.record([number, 3], [1.0, 2.0], [1.0, 1.0], step=STEPS)


def many(store: WeightStore, middle: dict[str, Any]) -> None:
    store.update(BULK, similarity=np.ones(BULK.size))


def twice(store: WeightStore, middle: dict[str, Any]) -> None:
    """Some of the entries go into the base, then all others are taken back."""
    store.compact(middle)
    store.load_state_dict(middle)


def nothing(store: WeightStore, middle: dict[str, Any]) -> None:
    """Back to before the first entry."""
    store.load_state_dict({**middle, "position": 0, "chain": 0})


WORKS: dict[str, Work] = {
    "open": on(lambda store, middle: None),
    "update": on(lambda store, middle: simple(store, STEPS)),
    "record": on(record),
    "groups": on(lambda store, middle: store.set_groups([3, 70], ["new", "newer"])),
    "many": on(many),
    "load": on(lambda store, middle: store.load_state_dict(middle)),
    "load nothing": on(nothing),
    "compact": on(lambda store, middle: store.compact(middle)),
    "compact all": on(lambda store, middle: store.compact()),
    "compact and load": on(twice),
    "rebuild": lambda path, middle: WeightStore.rebuild(path),
    "close": on(lambda store, middle: store.close()),
}


@pytest.fixture(autouse=True)
def no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Before:
    """A store after some steps, its state in the middle, and what it was there."""
    path = tmp_path_factory.mktemp("writes") / "store"
    with opened(path) as store:
        for number in range(STEPS):
            simple(store, number)
            if number + 1 == MIDDLE:
                middle, then = store.state_dict(), contents(store)
        store.set_groups([3], ["first"])
    return path, middle, then


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", WORKS)
def test_killed_at_every_write(name: str, before: Before, tmp_path: Path) -> None:
    template, middle, then = before
    work = WORKS[name]
    shutil.copytree(template, tmp_path / "whole")
    with opened(tmp_path / "whole") as store:
        allowed = [contents(store)]
    writes = killed_at(None, lambda: work(tmp_path / "whole", middle)).writes
    with opened(tmp_path / "whole") as store:
        allowed.append(contents(store))
    if name == "many":
        shutil.copytree(template, tmp_path / "half")
        with opened(tmp_path / "half") as store:
            store.update(BULK[:MOST_ROWS], similarity=np.ones(MOST_ROWS))
            allowed.append(contents(store))
    assert writes or name in ("open", "close")
    stride = times(max(1, writes // 16), max(1, writes // 4000))
    begin = 1 + writes % stride
    if name == "load nothing" and stride > 1:
        begin, stride = writes - 7, 1  # where its files go
    for write in range(begin, writes + 1, stride):
        for seed in range(times(1, 4)):
            path = tmp_path / "store"
            shutil.copytree(template, path)
            outcome = killed_at(write, lambda path=path: work(path, middle), seed=seed)  # type: ignore[misc]
            assert not outcome.done, f"{outcome.error} before write {write} of {writes}"
            # And again while it is opened: all of the opening is done at last, however little each time.
            for again in range(1, 40, times(13, 1) if name != "load nothing" else 1):
                if killed_at(again, lambda path=path: str(opened(path)), seed=seed).done:  # type: ignore[misc]
                    break
            with opened(path) as store:
                found = contents(store)
                assert found in allowed, f"write {write} of {writes}, seed {seed}"
                assert store._journal is not None
                known = middle["position"] <= store._journal.mark[0]
                assert name != "compact" or store._journal.base.mark[0] <= middle["position"]
                simple(store, 99)
                if known and store._journal.base.mark[0] <= middle["position"]:
                    store.load_state_dict(middle)
                    assert contents(store) == then, f"write {write} of {writes}, seed {seed}"
                whole = contents(store)
            WeightStore.rebuild(path)
            with opened(path) as store:
                assert contents(store) == whole, f"write {write} of {writes}, seed {seed}"
            shutil.rmtree(path)
    progress(f"{name}: {writes} writes")


def test_a_compaction_that_is_killed_leaves_the_state_it_was_to_leave(before: Before, tmp_path: Path) -> None:
    """At its last writes, where the last entry that was to go has gone: not one more goes when the store is opened."""
    template, middle, then = before
    shutil.copytree(template, tmp_path / "whole")
    writes = killed_at(None, lambda: WORKS["compact"](tmp_path / "whole", middle)).writes
    for write in range(writes - 7, writes + 1):
        path = tmp_path / str(write)
        shutil.copytree(template, path)
        assert not killed_at(write, lambda path=path: WORKS["compact"](path, middle)).done  # type: ignore[misc]
        with opened(path) as store:
            store.load_state_dict(middle)
            assert contents(store) == then, f"write {write} of {writes}"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", ["update", "compact all", "compact and load", "load"])
def test_killed_again_while_it_is_opened(name: str, before: Before, tmp_path: Path) -> None:
    """Killed at one write, and then at any of those that set it right: the third opening sets it right, too."""
    path, middle, _ = before
    half, again = tmp_path / "half", tmp_path / "again"
    shutil.copytree(path, again)
    writes = killed_at(None, lambda: WORKS[name](again, middle)).writes
    for write in sorted({1, 4, writes // 2, writes - 2, writes - 1, writes}):
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(path, half)
        killed_at(write, lambda: WORKS[name](half, middle), seed=write)
        second, done = 0, False
        while not done:
            second += 1
            shutil.rmtree(again, ignore_errors=True)
            shutil.copytree(half, again)
            outcome = killed_at(second, lambda: str(opened(again)), seed=write + second)
            assert not outcome.error, f"{write}, {second}: {outcome.error}"
            done = outcome.done
            with opened(again) as store:
                assert contents(store)
