"""The process ends at every line in turn of whatever changes a store; and really, by kill -9."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from crashing import Killed, abandon, killed_after
from test_journal_state import contents, step

from weighted_stream import WeightStore
from weighted_stream.sample_ids import HASHED

Before: TypeAlias = tuple[Path, dict[str, Any], list[dict[str, Any]]]

HERE = Path(__file__).parent
STEPS = 12
NEW = np.concatenate([np.arange(5), np.arange(60, 70), HASHED + np.arange(300) * 7919])


def opened(path: Path) -> WeightStore:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The journal of the store", RuntimeWarning)
        return WeightStore(path, journal_bytes=1 << 20)


def simple(store: WeightStore, number: int) -> None:
    ids = np.random.default_rng(number).choice(30, 8, replace=number % 2 == 0)
    ids = np.where(ids > 20, ids * 104_729 + HASHED, ids)
    store.update(
        ids, loss=ids % 7 + number / 8, weight=ids % 5, similarity=ids % 3 if number % 3 else None, step=number
    )


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Before:
    """A store after some steps, its state in the middle, and what it was after each step."""
    path = tmp_path_factory.mktemp("journal") / "store"
    with opened(path) as store:
        past = [contents(store)]
        for number in range(STEPS):
            simple(store, number)
            past.append(contents(store))
            if number == 4:
                middle = store.state_dict()
    return path, middle, past


def compact(store: WeightStore, middle: dict[str, Any]) -> None:
    store.compact(middle)


def roll_back(store: WeightStore, middle: dict[str, Any]) -> None:
    store.load_state_dict(middle)


def to_nothing(store: WeightStore, middle: dict[str, Any]) -> None:
    """Back to before the first entry: its files go."""
    store.load_state_dict({**middle, "position": 0, "chain": 0})


def update(store: WeightStore, middle: dict[str, Any]) -> None:
    store.update(NEW, loss=np.ones(NEW.size), weight=np.ones(NEW.size), step=STEPS)


def grow(store: WeightStore, middle: dict[str, Any]) -> None:
    """So many that the table of hashed ids has to grow, in two entries."""
    ids = HASHED + np.arange(17_000) * 97
    store.update(ids, similarity=np.ones(ids.size))


# Every how many lines; with 1 all of them are tried, which takes some minutes.
WORKS = {
    "update": (update, 4),
    "grow": (grow, 211),
    "roll back": (roll_back, 23),
    "to nothing": (to_nothing, 37),
    "compact": (compact, 37),
}


@pytest.fixture(autouse=True)
def no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends leaves its files in memory: whether they are on a disk makes no difference."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file it had open
@pytest.mark.parametrize("name", WORKS)
def test_killed_at_every_line(name: str, before: Before, tmp_path: Path) -> None:
    work, stride = WORKS[name]
    template, middle, past = before
    allowed = [past[-1], _outcome(template, tmp_path / "done", work, middle)]
    if name == "grow":  # a call of several entries may be there in part
        with WeightStore() as plain:
            for number in range(STEPS):
                simple(plain, number)
            ids = HASHED + np.arange(16_384) * 97
            plain.update(ids, similarity=np.ones(ids.size))
            allowed.insert(1, contents(plain))
    line, seen = 1, set()
    while True:
        path = tmp_path / f"{line}"
        shutil.copytree(template, path)
        store = opened(path)
        try:
            with killed_after(line):
                work(store, middle)
            abandon(store)
            break
        except Killed:
            abandon(store)
        store = opened(path)
        found = contents(store)
        assert found in allowed, line
        assert store._regions.header.claimed == store._regions.hashed.count_keys()
        seen.add(allowed.index(found))
        if found == allowed[-1] and name == "roll back":
            assert store.state_dict() == middle
        # And it goes on from there, and back.
        state = store.state_dict()
        simple(store, 99)
        store.load_state_dict(state)
        assert contents(store) == found
        abandon(store)
        if line % 5 == 1:
            WeightStore.rebuild(path)
            with opened(path) as store:
                assert contents(store) == found
        shutil.rmtree(path)
        line += stride
    assert line > 50
    assert seen == ({0} if name == "compact" else set(range(len(allowed))))


def _outcome(template: Path, path: Path, work: Callable[..., None], middle: dict[str, Any]) -> dict[str, Any]:
    shutil.copytree(template, path)
    with opened(path) as store:
        work(store, middle)
        return contents(store)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("line", range(5, 160, 31))
def test_killed_again_while_it_is_opened(line: int, before: Before, tmp_path: Path) -> None:
    """First half-way through going back, then again and again while the store is opened."""
    template, middle, past = before
    path = tmp_path / "store"
    shutil.copytree(template, path)
    store = opened(path)
    with pytest.raises(Killed), killed_after(330):
        store.load_state_dict(middle)
    abandon(store)
    lines = line
    while True:
        try:
            with killed_after(lines):
                store = opened(path)
            break
        except Killed:
            lines += 60
    assert contents(store) in (past[5], past[-1])
    store.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:The records of this store had 12 entries:RuntimeWarning")
@pytest.mark.parametrize("line", range(20, 1500, 97))
def test_killed_while_the_records_are_made_again(line: int, before: Before, tmp_path: Path) -> None:
    """The journal ends before the records do, as after a power failure."""
    template, middle, past = before
    path = tmp_path / "store"
    shutil.copytree(template, path)
    os.truncate(path / "journal" / "0000000000000001.index", 128 * middle["position"])
    with pytest.raises(Killed), killed_after(line):
        opened(path)
    with opened(path) as store:
        assert contents(store) == past[5]
        assert store.state_dict() == middle


@pytest.mark.parametrize("name", ["update", "record", "roll back"])
def test_interrupted_at_every_line_and_used_on(name: str, before: Before, tmp_path: Path) -> None:
    """Ctrl-C in a notebook: the same object goes on, and the call was made or not, but not twice."""
    template, middle, past = before

    def record(store: WeightStore, middle: dict[str, Any]) -> None:
        for number in range(33):
            store.record([3, 7], [1.0, 2.0], [1.0, 1.0], step=number)

    works = {"update": (update, 5), "record": (record, 29), "roll back": (roll_back, 31)}
    work, line = works[name][0], 1
    while True:
        path = tmp_path / f"{line}"
        shutil.copytree(template, path)
        store = opened(path)
        with store:
            visits = store.stats()["visits"]
            try:
                with killed_after(line, KeyboardInterrupt):
                    work(store, middle)
                break
            except KeyboardInterrupt:
                pass
            simple(store, 99)
            if name == "roll back":
                with WeightStore() as plain:
                    for number in [*range(STEPS), 99]:
                        simple(plain, number)
                    whole = contents(plain)
                    store.load_state_dict(middle)
                    assert contents(store) == past[5]
                    assert whole["stats"]["visits"] == float(visits + 8).hex()
            elif name == "record":
                assert store.stats()["visits"] - visits - 8 in {2 * number for number in range(34)}
            else:
                assert store.stats()["visits"] - visits - 8 in (0, NEW.size)
            found = contents(store)
        with opened(path) as store:
            assert contents(store) == found
            assert store.stats()["visits"] == store.get(np.concatenate(list(store.ids())))["visits"].sum()
        shutil.rmtree(path)
        line += works[name][1]
    assert line > 50


WRITER = """
import json, os, sys
from test_journal_crashes import opened
from test_journal_state import contents, step
store = opened(sys.argv[1])
number, state = json.loads(sys.argv[2])
if state is not None:
    store.load_state_dict(state)
while True:
    step(store, number, most=200)
    number += 1
    if number % 4 == 0:
        os.write(1, (json.dumps([number, store.state_dict()]) + "\\n").encode())
"""


def test_kill_9_and_on_from_the_last_state(tmp_path: Path) -> None:
    """Four times; the store is that of a run that nobody has interrupted."""
    said: list[Any] = [0, None]
    path = tmp_path / "store"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE), *sys.path])}
    for life in range(4):
        command = [sys.executable, "-c", WRITER, str(path), json.dumps(said)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout
            for _ in range(3 + 17 * life % 11):
                said = json.loads(process.stdout.readline())
            process.kill()
            rest = process.stdout.read().splitlines(keepends=True)
        whole = [line for line in rest if line.endswith(b"\n")]
        said = json.loads(whole[-1]) if whole else said
    with opened(path) as store, WeightStore() as plain:
        store.load_state_dict(said[1])
        for number in range(said[0]):
            step(plain, number, most=200)
        assert said[0] > 60
        assert contents(store) == contents(plain)
    assert sorted(os.listdir(path)) == ["hashed-1.bin", "header.bin", "journal", "manifest.json", "records.bin"]
