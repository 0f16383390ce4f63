"""Opening a store: whose it is, what may be wrong with it, and what is said then."""

from __future__ import annotations

import errno
import json
import mmap
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weighted_stream.errors import StoreError, StoreMismatchError
from weighted_stream.sample_ids import DENSE_LIMIT, HASHED
from weighted_stream.sources.base import Fingerprint
from weighted_stream.store import WeightStore
from weighted_stream.store.dense import DenseRegion
from weighted_stream.store.file import StoreFile

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed store with samples in both regions."""
    with WeightStore(tmp_path / "store") as store:
        store.update([1, 2, HASHED], loss=[1.0, 2.0, 3.0])
    return tmp_path / "store"


def refusal(path: Any, kind: type[StoreError] = StoreError, **arguments: Any) -> StoreError:
    with pytest.raises(StoreError) as caught:
        WeightStore(path, **arguments)
    error = caught.value
    assert type(error) is kind
    assert all(part and part in str(error) for part in (str(error.found), str(error.expected), error.do))
    return error


def test_directories_are_made(tmp_path: Path) -> None:
    with WeightStore(str(tmp_path / "a" / "b" / "store")) as store:
        assert store.path == tmp_path / "a" / "b" / "store"
        assert repr(store) == f"WeightStore({str(store.path)!r}, 0 samples)"
    assert repr(store).endswith("closed)")
    (tmp_path / "empty").mkdir()
    WeightStore(tmp_path / "empty").close()


def test_a_relative_path_outlives_a_change_of_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with WeightStore("store") as store:
        monkeypatch.chdir("/")
        store.update(HASHED + np.arange(9000) * 99, weight=np.ones(9000))
    assert WeightStore(tmp_path / "store", mode="r").stats()["samples"] == 9000


@pytest.mark.parametrize("mode", ["a", "r"])
def test_a_store_opens_again(path: Path, mode: Any) -> None:
    with WeightStore(path, mode=mode) as store:
        assert store.get([1, 2, HASHED])["loss"].tolist() == [1.0, 2.0, 3.0]
        assert store.stats()["loss_mean"] == 2.0


def test_nothing_works_after_close(path: Path) -> None:
    store = WeightStore(path)
    store.close()
    store.close()
    for use in (
        lambda: store.get([1]),
        lambda: store.update([1], loss=[1.0]),
        lambda: len(store),
        store.stats,
        store.flush,
        store.ids,
        lambda: list(store),
        lambda: store.reserve(5),
        lambda: store.bind(Fingerprint("a", "b")),
    ):
        with pytest.raises(StoreError, match="closed"):
            use()


def test_a_reader_writes_nothing(path: Path) -> None:
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with WeightStore(path, mode="r") as store:
        for use in (lambda: store.update([1], loss=[1.0]), lambda: store.reserve(10**6), store.flush):
            with pytest.raises(StoreError, match="opened for reading"):
                use()
        store.bind(Fingerprint("a", "b"))
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("arguments", [{"mode": "w"}, {"mode": "r"}, {"mode": None}], ids=str)
def test_modes_that_are_none(arguments: dict[str, Any]) -> None:
    refusal(None, **arguments)


def test_nothing_to_read(tmp_path: Path) -> None:
    error = refusal(tmp_path / "none", mode="r")
    assert error.found == "No such file or directory"
    assert not (tmp_path / "none").exists()
    assert "no manifest.json" in str(refusal(tmp_path, mode="r").found)


@pytest.mark.parametrize("mode", ["a", "r"])
@pytest.mark.parametrize("below", [False, True])
def test_a_path_that_is_a_file(tmp_path: Path, mode: Any, below: bool) -> None:
    (tmp_path / "file").write_text("mine")
    refusal(tmp_path / "file" / "store" if below else tmp_path / "file", mode=mode)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_directory_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    assert "model.pt" in str(refusal(tmp_path).found)
    assert os.listdir(tmp_path) == ["model.pt"]


def test_a_directory_that_cannot_be_written() -> None:
    # Root may write anywhere, but not here.
    if not os.path.isdir("/proc/self"):
        pytest.skip("needs /proc")
    refusal("/proc/self/store")


@pytest.mark.skipif(ROOT, reason="root may write anything")
def test_a_read_only_store_can_be_read(path: Path) -> None:
    for file in path.iterdir():
        file.chmod(0o444)
    path.chmod(0o555)
    try:
        assert 'mode="r"' in refusal(path).do
        assert WeightStore(path, mode="r").get([1])["loss"][0] == 1.0
    finally:
        path.chmod(0o755)


def overwrite(file: Path, offset: int, data: bytes) -> None:
    with open(file, "r+b") as stream:
        stream.seek(offset)
        stream.write(data)


CAPACITY, CLAIMED, LOSSES = 32, 48, 56  # where in the header

DAMAGES = {
    "header: another file": (lambda path: overwrite(path / "header.bin", 0, b"\x7fELF"), StoreError, "magic"),
    "header: another version": (
        lambda path: overwrite(path / "header.bin", 8, struct.pack("=q", 2)),
        StoreMismatchError,
        "version 2 with records of 32 bytes",
    ),
    "header: other records": (
        lambda path: overwrite(path / "header.bin", 16, struct.pack("=q", 64)),
        StoreMismatchError,
        "records of 64 bytes",
    ),
    "header: cut": (lambda path: os.truncate(path / "header.bin", 5000), StoreError, "5,000 bytes"),
    "header: empty": (lambda path: os.truncate(path / "header.bin", 0), StoreError, "0 bytes"),
    "header: lost": (lambda path: (path / "header.bin").unlink(), StoreError, "No such file"),
    "header: no capacity": (
        lambda path: overwrite(path / "header.bin", CAPACITY, struct.pack("=q", 0)),
        StoreError,
        "a capacity of 0",
    ),
    "header: a capacity below zero": (  # the last four bytes of a cell, which made a number that mmap cannot take
        lambda path: overwrite(path / "header.bin", CAPACITY + 4, struct.pack("=i", -0x1234567)),
        StoreError,
        "-81,985,52",
    ),
    "header: too many losses": (
        lambda path: overwrite(path / "header.bin", LOSSES, struct.pack("=q", (1 << 63) - 1)),
        StoreError,
        "9,223,372,036,854,775,807",
    ),
    "records: cut": (lambda path: os.truncate(path / "records.bin", 96), StoreError, "96 bytes"),
    "records: lost": (lambda path: (path / "records.bin").unlink(), StoreError, "No such file"),
    "table: cut": (lambda path: os.truncate(path / "hashed-1.bin", 10**5), StoreError, "100,000 bytes"),
    "table: lost": (lambda path: (path / "hashed-1.bin").unlink(), StoreError, "No such file"),
    "manifest: no JSON": (
        lambda path: (path / "manifest.json").write_text('{"format'),
        StoreError,
        "no JSON",
    ),
    "manifest: not text": (
        lambda path: (path / "manifest.json").write_bytes(b"\xff\xfe\x00"),
        StoreError,
        "no JSON",
    ),
    "manifest: other JSON": (
        lambda path: (path / "manifest.json").write_text("[1, 2]"),
        StoreError,
        "[1, 2]",
    ),
    "manifest: another version": (
        lambda path: (path / "manifest.json").write_text(
            json.dumps({"format": "weighted_stream.store", "version": 9, "fingerprint": None})
        ),
        StoreMismatchError,
        "version 9",
    ),
    "manifest: lost": (lambda path: (path / "manifest.json").unlink(), StoreError, ""),
}


@pytest.mark.parametrize("mode", ["a", "r"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_refused(path: Path, damage: str, mode: Any) -> None:
    break_it, kind, found = DAMAGES[damage]
    break_it(path)
    sizes = {file.name: file.stat().st_size for file in path.iterdir()}
    error = refusal(path, kind, mode=mode)
    assert found in str(error.found)
    # Nothing was mended behind the user's back, and the lock is free again.
    assert {file.name: file.stat().st_size for file in path.iterdir()} == sizes
    refusal(path, kind, mode=mode)


@pytest.mark.parametrize("key", [-3083868502939216614, 1, DENSE_LIMIT - 1])
@pytest.mark.parametrize("journal", [True, False])
def test_a_key_that_is_no_hashed_id_is_refused(tmp_path: Path, key: int, journal: bool) -> None:
    with WeightStore(tmp_path / "store", journal=journal) as store:
        store.update([1, 2, HASHED], loss=[1.0, 2.0, 3.0], step=4)
    table = tmp_path / "store" / "hashed-1.bin"
    (slot,) = np.flatnonzero(np.fromfile(table, np.int64, count=1 << 13))
    overwrite(table, 8 * int(slot), struct.pack("=q", key))
    with WeightStore(tmp_path / "store", mode="r") as store, pytest.raises(StoreError, match="is damaged") as error:
        list(store.chunks(100))
    assert str(key) in str(error.value.found)
    if journal:
        WeightStore.rebuild(tmp_path / "store")
        with WeightStore(tmp_path / "store") as store:
            assert store.get([HASHED])["loss"][0] == 3.0


def test_more_keys_than_slots_are_refused(path: Path) -> None:
    for claimed in (1 << 13) + 1, 1 << 62:  # the latter would grow the table beyond any file
        overwrite(path / "header.bin", CLAIMED, struct.pack("=q", claimed))
        assert f"{claimed:,} keys" in str(refusal(path).found)
    WeightStore.rebuild(path)
    with WeightStore(path) as store:
        store.update([HASHED + 1], loss=[1.0])
        assert len(store) == 4


def test_what_a_dying_process_leaves_is_cleared(path: Path) -> None:
    (path / "hashed-2.bin").write_bytes(b"half a table")
    (path / "manifest.json.new").write_text("{")
    with WeightStore(path) as store:
        assert store.get([HASHED])["loss"][0] == 3.0
        store.bind(Fingerprint("a", "b"))
    assert sorted(os.listdir(path)) == ["hashed-1.bin", "header.bin", "journal", "manifest.json", "records.bin"]


@pytest.mark.parametrize("lost", [["manifest.json"], ["manifest.json", "records.bin"]], ids=str)
@pytest.mark.parametrize("header", [0, 4096, None])
def test_a_store_that_was_only_half_begun_is_begun_again(tmp_path: Path, lost: list[str], header: int | None) -> None:
    WeightStore(tmp_path).close()
    for name in lost:
        (tmp_path / name).unlink()
    if header is not None:
        os.truncate(tmp_path / "header.bin", header)
    with WeightStore(tmp_path) as store:
        store.update([1], loss=[1.0])
        assert len(store) == 1


FIRST = Fingerprint("mds", "text", None, {"a": 10, "b": 20})


def test_the_first_dataset_is_remembered(path: Path) -> None:
    with WeightStore(path, fingerprint=FIRST) as store:
        store.bind(FIRST)
    stored = json.loads((path / "manifest.json").read_text())["fingerprint"]
    assert Fingerprint.from_json(stored) == FIRST
    WeightStore(path).close()
    WeightStore(path, fingerprint=FIRST, mode="r").close()


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (Fingerprint("webdataset", "text", None, {"a": 10}), "kind 'webdataset' instead of 'mds'"),
        (Fingerprint("mds", "text", None, {"a": 11}), "shard 'a' has size 11 instead of 10"),
        (Fingerprint("mds", "text", None, {"c": 1}), "no shard in common"),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
@pytest.mark.parametrize("mode", ["a", "r"])
def test_another_dataset_is_refused_with_both_printed(path: Path, other: Fingerprint, reason: str, mode: Any) -> None:
    WeightStore(path, fingerprint=FIRST).close()
    before = (path / "manifest.json").read_text()
    error = refusal(path, StoreMismatchError, fingerprint=other, mode=mode)
    assert reason in error.problem
    assert json.dumps(other.to_json()) in str(error.found)
    assert json.dumps(FIRST.to_json()) in str(error.expected)
    assert (path / "manifest.json").read_text() == before
    with WeightStore(path) as store, pytest.raises(StoreMismatchError, match=reason):
        store.bind(other)


def test_added_shards_are_merged(path: Path) -> None:
    WeightStore(path, fingerprint=FIRST).close()
    WeightStore(path, fingerprint=Fingerprint("mds", "text", None, {"b": 20, "c": 30})).close()
    stored = json.loads((path / "manifest.json").read_text())["fingerprint"]
    assert stored["shards"] == {"a": 10, "b": 20, "c": 30}
    refusal(path, StoreMismatchError, fingerprint=Fingerprint("mds", "text", None, {"a": 10, "c": 31}))


def test_a_fingerprint_of_another_form_is_a_mismatch(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "fingerprint": {"who": "knows"}}))
    assert "KeyError" in refusal(path, StoreMismatchError, fingerprint=FIRST).problem


def test_a_huge_fingerprint_is_not_printed_whole(path: Path) -> None:
    many = {f"shard-{k:06}": 100 for k in range(10_000)}
    WeightStore(path, fingerprint=Fingerprint("mds", "text", None, many)).close()
    error = refusal(path, StoreMismatchError, fingerprint=Fingerprint("mds", "other", None, many))
    assert len(str(error)) < 2000


def test_a_temporary_store_knows_its_dataset() -> None:
    with WeightStore(fingerprint=FIRST) as store, pytest.raises(StoreMismatchError):
        store.bind(Fingerprint("mds", "another"))


def test_what_cannot_be_mapped_is_not_asked_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WeightStore(tmp_path) as store:
        store.update([1], loss=[2.0])
        original = StoreFile.map

        def limited(file: StoreFile, size: int) -> mmap.mmap:
            if size > 1 << 30:
                raise StoreError("Cannot map it.", found="ulimit -v", expected="address space", do="lift the limit")
            return original(file, size)

        monkeypatch.setattr(StoreFile, "map", limited)
        with pytest.raises(StoreError, match="Cannot map it"):
            store.update([1 << 30], loss=[1.0])
        with WeightStore(tmp_path, mode="r") as reader:
            assert reader.get([1])["loss"] == [2.0]
        store.update([2], loss=[3.0])
    with WeightStore(tmp_path) as store:
        assert (len(store), store.get([2])["loss"]) == (2, [3.0])


def test_a_disk_that_fails_when_it_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = WeightStore(tmp_path)
    store.update([1], loss=[2.0])
    with monkeypatch.context() as broken:
        broken.setattr(DenseRegion, "flush", raises(OSError(errno.EDQUOT, "Disk quota exceeded")))
        with pytest.raises(StoreError, match=r"cannot be put on its disk(.|\n)*Disk quota exceeded"):
            store.flush()
    store.close()


def raises(error: Exception) -> Any:
    def fail(*_: Any) -> None:
        raise error

    return fail
