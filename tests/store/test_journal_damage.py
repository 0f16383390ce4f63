"""A journal that was cut, changed, or had no room on the disk."""

from __future__ import annotations

import errno
import os
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_journal_state import contents, step

from weighted_stream import LinUpper, WeightedStream, WeightStore
from weighted_stream.errors import StoreError, StoreMismatchError
from weighted_stream.store import header
from weighted_stream.store.header import NO_TARGET
from weighted_stream.store.journal_files import JournalFiles
from weighted_stream.store.journal_reading import read_entries

STEPS = 14
FILES = ("0000000000000001.arrow", "0000000000000001.index")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store of one segment, an entry for each step."""
    path = tmp_path_factory.mktemp("journal") / "store"
    with WeightStore(path) as store:
        for number in range(STEPS):
            step(store, number)
            store.state_dict()
    assert sorted(os.listdir(path / "journal")) == sorted(FILES)
    return path


@pytest.fixture(scope="module")
def past() -> list[dict[str, Any]]:
    seen = []
    with WeightStore() as store:
        seen.append(contents(store))
        for number in range(STEPS):
            step(store, number)
            seen.append(contents(store))
    return seen


def entries(folder: Path) -> list[tuple[int, bytes, bytes]]:
    return [(entry.line.chain, entry.ids.tobytes(), entry.old_records.tobytes()) for entry in read_entries(folder)]


@pytest.mark.parametrize("name", FILES)
def test_cut_at_any_byte(name: str, whole: Path, past: list[dict[str, Any]], tmp_path: Path) -> None:
    """As a power failure may cut it. The journal is what counts: the store is what it was after the last entry."""
    size = (whole / "journal" / name).stat().st_size
    head = (whole / "journal" / FILES[0]).read_bytes().index(b"\xff\xff\xff\xff", 4)
    for length in sorted({*random.Random(0).sample(range(size), 25), 0, 1, size - 1}):
        path = tmp_path / str(length)
        shutil.copytree(whole, path)
        os.truncate(path / "journal" / name, length)
        with pytest.warns(RuntimeWarning) as said:
            store = WeightStore(path)
        assert any("made again from the journal" in str(warning.message) for warning in said)
        position = store.state_dict()["position"]
        assert contents(store) == past[position]
        if name == FILES[1]:
            assert position == length // 128
        else:
            assert position < STEPS
            assert (position == 0) == (length < head + 100 or position == 0)
        for number in range(position, STEPS):
            step(store, number)
        assert contents(store) == past[-1]
        store.close()
        WeightStore(path).close()
        shutil.rmtree(path)


def test_what_a_killed_process_left_is_said(whole: Path, past: list[dict[str, Any]], tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "store")
    with open(tmp_path / "store" / "journal" / FILES[0], "ab") as file:
        file.write(b"x" * 1234)
    with pytest.warns(RuntimeWarning, match=r"1,234 bytes.*last whole entry is 14") as said:
        store = WeightStore(tmp_path / "store")
    assert len(said) == 1
    assert contents(store) == past[-1]
    store.close()
    WeightStore(tmp_path / "store").close()


def test_mutated_journals_are_read_or_refused(whole: Path, tmp_path: Path) -> None:
    """What can be read is what was written, all of it or the beginning; the rest is an error of ours."""
    right = entries(whole / "journal")
    chance = random.Random(1)
    outcomes = {"read": 0, "refused": 0}
    pristine = {name: (whole / "journal" / name).read_bytes() for name in FILES}
    for name in FILES:
        (tmp_path / name).write_bytes(pristine[name])
    for _ in range(3000):
        name = chance.choice(FILES)
        (tmp_path / name).write_bytes(mutated(pristine[name], chance))
        try:
            found = entries(tmp_path)
            assert found == right[: len(found)]
            outcomes["read"] += 1
        except StoreError:
            outcomes["refused"] += 1
        (tmp_path / name).write_bytes(pristine[name])
    assert min(outcomes.values()) > 100


def test_mutated_journals_are_opened_or_refused(whole: Path, past: list[dict[str, Any]], tmp_path: Path) -> None:
    chance = random.Random(2)
    pristine = {name: (whole / "journal" / name).read_bytes() for name in FILES}
    opened = 0
    for _ in range(300):
        path = tmp_path / "store"
        shutil.copytree(whole, path)
        name = chance.choice(FILES)
        (path / "journal" / name).write_bytes(mutated(pristine[name], chance))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            try:
                store = WeightStore(path)
                opened += 1
                assert contents(store) in past
                store.load_state_dict({**store.state_dict(), "position": 3, "chain": entries(whole / "journal")[2][0]})
                assert contents(store) == past[3]
            except StoreError:
                pass
            store._release()
        shutil.rmtree(path)
    assert opened > 100


def mutated(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    kind = chance.randrange(6)
    at = chance.randrange(len(data))
    if kind == 0:
        changed[at] ^= 1 << chance.randrange(8)
    elif kind == 1:
        changed[at : at + 8] = chance.randbytes(8)
    elif kind == 2:
        del changed[at : at + chance.randrange(1, 300)]
    elif kind == 3:
        changed[at:at] = chance.randbytes(chance.randrange(1, 300))
    elif kind == 4:
        changed[at : at + 4] = chance.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"])
    else:
        other = chance.randrange(len(data))
        changed[at : at + 128] = data[other : other + 128]
    return bytes(changed)


def test_damage_in_the_middle_is_no_torn_end(whole: Path, past: list[dict[str, Any]], tmp_path: Path) -> None:
    """It is found when it is needed: nothing is changed then."""
    shutil.copytree(whole, tmp_path / "store")
    with open(tmp_path / "store" / "journal" / FILES[0], "r+b") as file:
        file.seek(3000)
        file.write(b"damage")
    with WeightStore(tmp_path / "store") as store:
        state = {**store.state_dict(), "position": 1, "chain": entries(whole / "journal")[0][0]}
        with pytest.raises(StoreError, match="damaged") as caught:
            store.load_state_dict(state)
        assert "the records stay" in caught.value.do
        assert contents(store) == past[-1]
        with pytest.raises(StoreError, match="damaged"):
            list(store.history())
    with pytest.raises(StoreError, match="damaged"):
        WeightStore.rebuild(tmp_path / "store")
    with WeightStore(tmp_path / "store") as store:
        assert contents(store) == past[-1]
    shutil.rmtree(tmp_path / "store" / "journal")
    with WeightStore(tmp_path / "store") as store:
        assert contents(store) == past[-1]


def test_a_lost_file_is_missed(whole: Path, tmp_path: Path) -> None:
    for name in FILES:
        shutil.copytree(whole, tmp_path / name)
        (tmp_path / name / "journal" / name).unlink()
        with pytest.raises(StoreError):
            WeightStore(tmp_path / name)


@pytest.mark.parametrize("cell", ["_POSITION", "_CHAIN"])
@pytest.mark.parametrize("other", [0, 3, 134, 1 << 40])
def test_what_is_behind_the_entries_must_go_with_them(cell: str, other: int, tmp_path: Path) -> None:
    """Records are not made again from what would lose or repeat some, nor removed before that is known."""
    path = tmp_path / "store"
    with WeightStore(path) as store:
        for number in range(STEPS):
            step(store, number)
            if number == 5:
                middle = store.state_dict()
        store.compact(middle)
        before = contents(store)
    with open(path / "journal" / "base" / "header.bin", "r+b") as file:
        file.seek(8 * getattr(header, cell))
        file.write(other.to_bytes(8, "little"))
    for attempt in (WeightStore, WeightStore.rebuild):
        with pytest.raises(StoreError):
            attempt(path)
        with WeightStore(path, mode="r") as store:
            assert contents(store) == before


def test_the_journal_of_another_store_is_refused(whole: Path, tmp_path: Path) -> None:
    with WeightStore(tmp_path / "other") as store:
        for number in range(STEPS):
            step(store, number)
    shutil.rmtree(tmp_path / "other" / "journal")
    shutil.copytree(whole / "journal", tmp_path / "other" / "journal")
    with pytest.raises(StoreMismatchError, match="not of the journal of this store"):
        WeightStore(tmp_path / "other")


def test_the_journal_of_another_past_is_refused(whole: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(whole, tmp_path / name)
        with WeightStore(tmp_path / name) as store:
            store.update([1], loss=[float(len(name))], step=ord(name[0]))
    shutil.rmtree(tmp_path / "one" / "journal")
    shutil.copytree(tmp_path / "two" / "journal", tmp_path / "one" / "journal")
    with pytest.raises(StoreMismatchError, match="not that of its records"):
        WeightStore(tmp_path / "one")


class FullDisk:
    """`os.pwrite` on a disk that has room for so many bytes more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = 1 << 60
        self._pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", self.pwrite)

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        data = memoryview(data)[: self.room]
        if not data.nbytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= data.nbytes
        return self._pwrite(fd, data, offset)


@pytest.mark.parametrize("room", [0, 1, 500, 700, 5000])
def test_a_full_disk_loses_nothing(room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch)
    with WeightStore(tmp_path / "store") as store, WeightStore() as plain:
        for each in (store, plain):
            step(each, 4)
        seen, state = contents(store), store.state_dict()
        disk.room = room
        for number in range(100):
            try:
                step(store, 5 * number + 4)
            except StoreError as error:
                said = error
                break
            step(plain, 5 * number + 4)
        assert "Cannot write the journal" in said.problem
        assert said.found == "No space left on device"
        assert "free some space" in said.do
        assert contents(store) == contents(plain)
        disk.room = 1 << 60
        for each in (store, plain):
            step(each, 9)
        assert contents(store) == contents(plain)
        store.load_state_dict(state)
        assert contents(store) == seen
    with WeightStore(tmp_path / "store") as store:
        assert contents(store) == seen


def test_what_is_tried_again_after_a_full_disk_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch)
    with WeightStore(tmp_path / "store") as store:
        disk.room = 0
        failed = 0
        for number in range(70):
            try:
                store.record([number, 999], [1.0, 1.0], step=number)
            except StoreError:
                failed += 1
                disk.room = 1 << 60
                store.record([number, 999], [1.0, 1.0], step=number)
        assert failed == 1
        assert store.get([*range(70), 999])["visits"].tolist() == [1] * 70 + [70]


def test_a_large_call_on_a_full_disk_is_not_there_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch)
    with WeightStore(tmp_path / "store") as store:
        step(store, 4)
        seen = contents(store)
        disk.room = 2_000_000
        with pytest.raises(StoreError, match="Cannot write the journal"):
            store.update(np.arange(50_000), loss=np.ones(50_000))
        assert contents(store) == seen
        disk.room = 1 << 60
        store.update(np.arange(50_000), loss=np.ones(50_000))
        assert (store.get(np.arange(50_000))["last_loss"] == 1).all()


def test_a_batch_is_counted_once_whatever_the_disk_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    disk = FullDisk(monkeypatch)
    with WeightedStream(list(range(64)), LinUpper(), store=tmp_path / "store") as stream:
        for number, (_, weight) in enumerate(stream.loader(batch_size=2)):
            losses = torch.ones(2)
            disk.room = 0 if number in (5, 20, 31) else 1 << 60
            try:
                losses * weight
            except StoreError:
                disk.room = 1 << 60
                losses * weight
        assert stream.store.get(range(64))["visits"].tolist() == [1] * 64


def test_a_journal_of_no_entries_yet(tmp_path: Path) -> None:
    files = JournalFiles(tmp_path / "none", "0" * 32, (7, 9), 1 << 20, cutting=NO_TARGET != 0)
    assert (files.position, files.chain, files.first, files.size) == (7, 9, 8, 0)
    assert list(files.entries(8)) == []
