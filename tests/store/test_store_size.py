"""Disk, memory and time go with what is touched; the table of hashed ids bears any ids."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_model import Model, assert_same

from weighted_stream.errors import StoreError
from weighted_stream.sample_ids import DENSE_LIMIT, HASHED
from weighted_stream.sources.ids import key_id, shard_base
from weighted_stream.store import WeightStore, probing
from weighted_stream.store.file import StoreFile
from weighted_stream.store.hashed import LOAD

PAGE = os.sysconf("SC_PAGESIZE")


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def on_disk(path: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_store_of_10_9_samples_costs_what_is_touched(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 10**9, 4000)
    with WeightStore() as warm:
        warm.update(ids[:1], loss=[1.0])
    before = resident()
    begin = time.perf_counter()
    with WeightStore(tmp_path / "store") as store:
        store.reserve(10**9)
        assert time.perf_counter() - begin < 1.0
        assert (tmp_path / "store" / "records.bin").stat().st_size >= 32 * 10**9
        assert on_disk(tmp_path / "store") < 200_000
        for part in np.split(ids, 40):
            store.update(part, loss=np.ones(100), step=1)
        store.flush()
        # One page per sample, and what the file system needs to find it.
        assert on_disk(tmp_path / "store") < 1.5 * 4000 * PAGE
        assert resident() - before < 1.5 * 4000 * PAGE + 8_000_000
        begin = time.perf_counter()
        assert np.concatenate(list(store.ids())).tolist() == np.unique(ids).tolist()
        assert time.perf_counter() - begin < 2.0
    begin = time.perf_counter()
    with WeightStore(tmp_path / "store") as store:
        assert time.perf_counter() - begin < 1.0
        assert len(store) == np.unique(ids).size


def test_reading_touches_no_disk(tmp_path: Path) -> None:
    with open(tmp_path / "hole", "w+b") as file:
        file.truncate(PAGE)
        mmap.mmap(file.fileno(), PAGE)[0]
        if os.fstat(file.fileno()).st_blocks:
            pytest.skip("this file system (a tmpfs) fills the holes that are read")
    with WeightStore(tmp_path / "store") as store:
        store.reserve(10**8)
        before = on_disk(tmp_path / "store")
        assert store.get(np.arange(0, 10**8, 10**5))["visits"].sum() == 0
        assert store.get([10**12 % DENSE_LIMIT, HASHED])["visits"].tolist() == [0, 0]
        store.flush()
        assert on_disk(tmp_path / "store") == before


KINDS = {
    "rows of shards": lambda n: np.concatenate([shard_base(f"{k}.tar") + np.arange(1000) for k in range(n // 1000)]),
    "rows of small shards": lambda n: np.concatenate([shard_base(f"{k}") + np.arange(50) for k in range(n // 50)]),
    "keys": lambda n: np.array([key_id("a.tar", str(k)) for k in range(n)]),
    "multiples of 2**10": lambda n: DENSE_LIMIT + np.arange(n) * 2**10,
    "multiples of 2**44": lambda n: DENSE_LIMIT + np.arange(n) * 2**44,
    "powers and their neighbours": lambda n: np.unique((1 << np.arange(39, 62))[:, None] + np.arange(n // 23)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_ids_spread_well(kind: str) -> None:
    ids = KINDS[kind](20_000).astype(np.int64)
    keys = np.zeros(1 << int(ids.size / LOAD).bit_length(), np.int64)
    slots = np.concatenate([probing.insert(keys, part) for part in np.array_split(ids, 40)])
    assert np.unique(slots).size == ids.size
    assert (keys[slots] == ids).all()
    found = probing.find(keys, ids)
    assert found.known is None or found.known.all()
    assert (found.slots == slots).all()
    # Nearly all are in the first bucket of their search, the one they would get in an empty table.
    some = range(0, ids.size, 20)
    at_home = [probing.insert(np.zeros_like(keys), ids[k : k + 1])[0] // 8 == slots[k] // 8 for k in some]
    assert np.mean(at_home) > 0.95


@settings(max_examples=30)
@given(st.lists(st.integers(DENSE_LIMIT, 2**63 - 1), min_size=1, max_size=150, unique=True))
def test_a_small_table_takes_all_it_has_room_for(ids: list[int]) -> None:
    keys = np.zeros(256, np.int64)
    slots = probing.insert(keys, np.array(ids))
    assert slots is not None
    assert keys[slots].tolist() == ids
    assert np.count_nonzero(keys) == len(ids)


def test_a_table_without_room_says_so() -> None:
    keys = np.zeros(256, np.int64)
    assert probing.insert(keys, HASHED + np.arange(257)) is None


def test_growth_keeps_every_record() -> None:
    model, rng = Model(), np.random.default_rng(1)
    with WeightStore() as store:
        ids = rng.integers(DENSE_LIMIT, 2**63 - 1, 30_000)
        for part in np.split(ids, 30):
            store.update(part, loss=part % 97, group=part % 5)
            model.update(part.tolist(), loss=(part % 97).tolist(), group=(part % 5).tolist())
        assert_same(store.get(ids), model.get(ids.tolist()))
        assert sorted(np.concatenate(list(store.ids())).tolist()) == sorted(model.samples)


def test_the_last_dense_id() -> None:
    with WeightStore() as store:
        store.update([DENSE_LIMIT - 1, DENSE_LIMIT], loss=[1.0, 2.0])
        assert store.get([DENSE_LIMIT - 1, DENSE_LIMIT, DENSE_LIMIT - 2])["visits"].tolist() == [1, 1, 0]
        assert np.concatenate(list(store.ids())).tolist() == [DENSE_LIMIT - 1, DENSE_LIMIT]


FULL_DISK = """
import numpy as np
from weighted_stream.errors import StoreError
from weighted_stream.store import WeightStore
store = WeightStore("{path}/store")
written = 0
try:
    while True:
        store.update(np.arange(64) * 1000 + 64_000 * written, loss=np.ones(64))
        written += 1
except StoreError as error:
    print(written, store.stats()["visits"] == 64 * written, "free some space" in str(error))
store.update([0], loss=[1.0]) if written == 0 else print(store.get([0])["visits"][0])
"""


def test_a_full_disk_is_an_error_and_not_the_end(tmp_path: Path) -> None:
    """On a disk of 16 MB, mounted where only the child sees it: it goes with the child."""
    code = FULL_DISK.format(path=tmp_path)
    mount = f'mount -t tmpfs -o size=16m none "{tmp_path}" || exit 77; exec "$@"'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh", sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if done.returncode in (77, 126) or "unshare" in done.stderr:
        pytest.skip("needs the right to mount")
    assert done.returncode == 0, done.stderr
    written, exact, advice, visits = done.stdout.split()
    assert int(written) > 20
    assert (exact, advice, visits) == ("True", "True", "1")


def test_a_file_system_without_room_for_the_hole() -> None:
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    with WeightStore() as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000_000, old[1]))
        try:
            with pytest.raises(StoreError, match="Cannot grow") as caught:
                store.reserve(10**9)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
        assert "sparse" in caught.value.expected
        store.reserve(10**9)


@pytest.mark.parametrize(
    ("ids", "least", "most"),
    [
        (np.arange(300_000), 300_000 * 32, 300_000 * 64),
        (np.arange(300_000) * 1000, 300_000 * 4096, 300_000 * 8192),  # each has a page of its own
        (np.arange(300_000) * 7919 + (1 << 40), 300_000 * 40, 300_000 * 400),  # by key
    ],
    ids=["side by side", "apart", "by key"],
)
def test_many_records_need_the_room_that_they_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: Any, least: int, most: int
) -> None:
    asked: list[int] = []
    room = StoreFile.room

    def told(self: StoreFile, needed: int) -> int:
        asked.append(needed)
        return room(self, needed)

    monkeypatch.setattr(StoreFile, "room", told)
    with WeightStore(tmp_path / "one", journal=False) as one, WeightStore(tmp_path / "two", journal=False) as two:
        one.update(ids, loss=np.ones(ids.size), step=0)
        asked.clear()
        two.load_state_dict(one.state_dict())
        assert least <= max(asked) <= most
        taken = sum(file.stat().st_blocks * 512 for file in (tmp_path / "two").iterdir() if file.is_file())
        assert taken <= max(asked) * 1.01 + (1 << 20)  # the file system's own notes of where the pages lie
