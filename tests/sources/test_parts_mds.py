"""Parts of MDS datasets, read beside a trainer that uses the same cache."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from part_readers import marker_of, pairs_of, read_elsewhere, read_parts
from ports import free_port
from shards import read_index, shared_memory_here, streaming_here, write_mds
from torch.utils.data import DataLoader

from weighted_stream.errors import SourceError
from weighted_stream.sources.keys import Column
from weighted_stream.sources.mds import MDSSource

streaming = pytest.importorskip("streaming")

# streaming's, when it decompresses
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

ROWS, SIZE = 10, 57


class Doubled(streaming.StreamingDataset):
    """A user's dataset that changes what it reads."""

    def __getitem__(self, at: Any) -> Any:
        sample = super().__getitem__(at)
        return {"marker": sample["marker"], "key": f"key {sample['marker']}"}


class Next(streaming.StreamingDataset):
    """A user's dataset that gives the sample behind the one it is asked for."""

    def __getitem__(self, at: Any) -> Any:
        return super().__getitem__((int(at) + 1) % SIZE)


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    with streaming_here():
        yield


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_mds(tmp_path / "c4", range(SIZE), ROWS)


def open_mds(root: Path, kind: Any = streaming.StreamingDataset, **arguments: Any) -> Any:
    return kind(**{"local": str(root), "batch_size": 4, "num_canonical_nodes": 1, **arguments})


def collate(items: list[tuple[int, Any]]) -> list[tuple[int, int]]:
    return [(number, sample["marker"]) for number, sample in items]


def delivered(source: MDSSource, workers: int = 0) -> list[tuple[int, int]]:
    """(id, marker) of one epoch."""
    loader: Any = DataLoader(source.dataset, batch_size=4, num_workers=workers, collate_fn=collate)
    return [pair for batch in loader for pair in batch]


def shards_of(pairs: Iterable[tuple[int, int]]) -> list[int]:
    """The shards in the order in which they first come."""
    return list(dict.fromkeys(marker // ROWS for _, marker in pairs))


def usage(root: Path) -> int:
    """Bytes of the files of a cache; there may be nothing else in it."""
    files = list(root.iterdir())
    assert {file.suffix for file in files} <= {".mds", ".json", ".zstd"}
    return sum(file.stat().st_size for file in files)


def test_parts_are_read_in_another_process_while_a_loader_reads(tmp_path: Path) -> None:
    remote, local = write_mds(tmp_path / "c4", range(SIZE), ROWS, "zstd"), tmp_path / "cache"
    source = MDSSource(open_mds(local, remote=str(remote), shuffle=True))
    source.set_epoch(1)
    parts, pairs = read_elsewhere(source, 1, meanwhile=lambda: delivered(source, 2))
    assert sorted(pairs_of(parts)) == sorted(pairs)
    assert len(pairs) == SIZE
    assert shards_of(pairs_of(parts)) == shards_of(pairs)
    assert usage(local) == source.dataset.cache_usage  # type: ignore[attr-defined]


def open_files() -> list[str]:
    """What this process has open."""
    links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return [os.readlink(link) for link in links if link.is_symlink()]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_parts_come_in_the_order_of_the_epoch(root: Path, shuffle: bool, workers: int) -> None:
    source = MDSSource(open_mds(root, shuffle=shuffle, shuffle_block_size=20, num_canonical_nodes=2))
    orders = []
    for epoch in range(2):
        source.set_epoch(epoch)
        before = read_parts(source)
        pairs = delivered(source, workers)
        assert before == read_parts(source)
        assert shards_of(pairs_of(before)) == shards_of(pairs)
        assert sorted(pairs_of(before)) == sorted(set(pairs))
        assert [name for name, _ in before] == [f"c4/shard.{n:05}.mds" for n in shards_of(pairs)]
        orders.append(shards_of(pairs))
    assert (orders[0] != orders[1]) is shuffle


@pytest.mark.parametrize("batching", ["random", "stratified", "per_stream", "device_per_stream"])
def test_parts_have_what_the_epoch_has_of_several_streams(tmp_path: Path, batching: str) -> None:
    streams = [
        streaming.Stream(local=str(write_mds(tmp_path / name, range(first, first + 40))), proportion=share)
        for name, first, share in (("a", 0, 0.25), ("b", 100, 0.75))
    ]
    source = MDSSource(open_mds(tmp_path, local=None, streams=streams, shuffle=True, batching_method=batching))
    pairs = delivered(source)
    parts = read_parts(source)
    assert sorted(pairs_of(parts)) == sorted(set(pairs))
    assert len(set(pairs)) < 80
    assert shards_of(pairs_of(parts)) == shards_of(pairs)


def test_what_is_fetched_ahead_is_not_downloaded_again(tmp_path: Path) -> None:
    remote, local = write_mds(tmp_path / "c4", range(SIZE), ROWS), tmp_path / "cache"
    source = MDSSource(open_mds(local, remote=str(remote)))
    parts = read_parts(source)
    assert usage(local) == source.dataset.cache_usage  # type: ignore[attr-defined]
    shutil.rmtree(remote)
    assert pairs_of(parts) == delivered(source)


@pytest.mark.parametrize("options", [{}, {"keep_zip": True}, {"compression": "zstd", "keep_zip": True}])
def test_a_full_cache_stays_as_it_is(tmp_path: Path, options: Any) -> None:
    compression = options.get("compression")
    options = {name: value for name, value in options.items() if name != "compression"}
    remote, local = write_mds(tmp_path / "c4", range(SIZE), ROWS, compression), tmp_path / "cache"
    sizes = [shard["raw_data"]["bytes"] + (shard["zip_data"] or {"bytes": 0})["bytes"] for shard in read_index(remote)]  # type: ignore[index]
    limit = (remote / "index.json").stat().st_size + 4 * max(sizes) + 1  # the least that streaming takes: 4 of 6
    source = MDSSource(open_mds(local, remote=str(remote), cache_limit=limit, **options))
    parts = read_parts(source)
    assert not any(file.startswith(str(local)) for file in open_files())
    assert usage(local) == source.dataset.cache_usage <= limit  # type: ignore[attr-defined]
    assert len(list(local.glob("*.mds"))) == (0 if compression else 4)
    assert pairs_of(parts) == delivered(source)
    # Of two shards that streaming fetches at a time it counts neither before it has it, so it may pass its own limit.
    assert usage(local) == source.dataset.cache_usage  # type: ignore[attr-defined]


def test_a_local_dataset_that_is_compressed_is_read(tmp_path: Path) -> None:
    root = write_mds(tmp_path / "c4", range(SIZE), ROWS, "zstd")
    source = MDSSource(open_mds(root))
    parts = read_parts(source)
    assert not list(root.glob("*.mds"))
    assert usage(root) == source.dataset.cache_usage  # type: ignore[attr-defined]
    assert pairs_of(parts) == delivered(source)


def test_a_shard_that_is_evicted_while_it_is_read_is_fetched_again(tmp_path: Path) -> None:
    remote, local = write_mds(tmp_path / "c4", range(SIZE), ROWS), tmp_path / "cache"
    source = MDSSource(open_mds(local, remote=str(remote)))
    dataset: Any = source.dataset
    reading = next(source.parts()).read()
    first = next(reading)
    assert first[1]["marker"] == 0
    dataset.evict_shard(0)
    assert [sample["marker"] for _, sample in reading] == list(range(1, 10))
    assert len(delivered(source)) == SIZE
    assert usage(local) == dataset.cache_usage


def die_while_reading(source: MDSSource, place: str) -> None:
    """Be killed in the middle of a download, or of reading a shard that has no place in the cache."""
    if place == "download":
        shutil.copy = lambda remote, local: os.kill(os.getpid(), signal.SIGKILL) or ""
    reading = next(source.parts()).read()
    next(reading)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("place", ["download", "reading"])
def test_the_trainer_goes_on_when_a_reader_is_killed(tmp_path: Path, place: str) -> None:
    remote, local = write_mds(tmp_path / "c4", range(SIZE), ROWS, "zstd"), tmp_path / "cache"
    source = MDSSource(open_mds(local, remote=str(remote), keep_zip=place == "reading"))
    pickle.dumps(source)  # as for any other process
    process = multiprocessing.get_context("fork").Process(target=die_while_reading, args=(source, place))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert [marker for _, marker in delivered(source, 2)] == list(range(SIZE))
    assert bool(list(local.glob(".weighted-stream-*"))) is (place == "download")
    dataset = source.dataset
    del source
    assert usage(local) == dataset.cache_usage  # type: ignore[attr-defined]


def test_a_fork_of_the_trainer_removes_nothing(tmp_path: Path) -> None:
    source = MDSSource(open_mds(write_mds(tmp_path / "c4", range(SIZE), ROWS)))
    pickle.dumps(source)
    [folder] = source._sweep.peek()[2][0]  # type: ignore[union-attr, index]
    os.mkdir(folder)
    process = multiprocessing.get_context("fork").Process(target=source._sweep)
    process.start()
    process.join(60)
    assert os.path.isdir(folder)
    del source
    assert not os.path.isdir(folder)


def test_records_are_as_they_are_stored(root: Path) -> None:
    source = MDSSource(open_mds(root, Doubled))
    assert next(next(source.parts()).read())[1] == {"marker": 0, "text": "text 0"}
    assert sorted(pairs_of(read_parts(source))) == sorted(delivered(source))


def test_ids_by_function_are_those_of_the_samples_delivered(root: Path) -> None:
    source = MDSSource(open_mds(root, Doubled), Column("key"))
    parts = list(source.parts())
    assert all(part.ids() is None for part in parts)
    assert pairs_of(read_parts(source)) == delivered(source)
    assert set(next(parts[0].read())[1]) == {"marker", "text"}
    moved = MDSSource(open_mds(root, Next, shuffle=True), Column("marker"))
    pairs = pairs_of(read_parts(moved))
    assert sorted(number for number, _ in pairs) == sorted(number for number, _ in delivered(moved))
    assert all(number == (marker + 1) % SIZE for number, marker in pairs)
    plain = MDSSource(open_mds(root), Column("marker"))
    assert pairs_of(read_parts(plain)) == delivered(plain)


def test_only_what_is_wanted_is_read(root: Path) -> None:
    part = list(MDSSource(open_mds(root)).parts())[2]
    wanted = np.zeros(ROWS, bool)
    wanted[[1, 7]] = True
    assert [sample["marker"] for _, sample in part.read(wanted)] == [21, 27]
    assert list(part.read(np.zeros(ROWS, bool))) == []


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("damage", ["short", "gone"])
def test_a_shard_that_cannot_be_read_is_named(tmp_path: Path, damage: str, compression: str | None) -> None:
    root = write_mds(tmp_path / "c4", range(SIZE), ROWS, compression)
    source = MDSSource(open_mds(root, download_retry=1))
    path = root / ("shard.00001.mds" + (".zstd" if compression else ""))
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-3])
    parts = list(source.parts())
    with pytest.raises(SourceError, match=r"shard\.00001\.mds"):
        list(parts[1].read())
    assert len(list(parts[2].read())) == ROWS
    assert all(not file.name.startswith(".") for file in root.iterdir())


def test_a_copy_leaves_the_epoch_of_the_trainer_alone(root: Path) -> None:
    source = MDSSource(open_mds(root, shuffle=True))
    copy = pickle.loads(pickle.dumps(source))
    copy.set_epoch(5)
    assert source.dataset.next_epoch == 0  # type: ignore[attr-defined]
    assert len(delivered(source)) == SIZE
    source.set_epoch(5)
    assert shards_of(pairs_of(read_parts(copy))) == shards_of(delivered(source))


def test_a_source_pickles_while_it_is_iterated(root: Path) -> None:
    source = MDSSource(open_mds(root, shuffle=True))
    iterator = iter(source.dataset)
    next(iterator)
    copy = pickle.loads(pickle.dumps(source))
    assert read_parts(copy) == read_parts(source)
    assert sorted([next(iterator)[0] for _ in range(SIZE - 1)])
    assert sorted(delivered(copy)) == sorted(pairs_of(read_parts(copy)))


def test_parts_follow_a_dataset_that_resumes(root: Path) -> None:
    first = open_mds(root, shuffle=True)
    saved = {"epoch": 3, "sample_in_epoch": 40, "num_canonical_nodes": 1, "shuffle_seed": 9176}
    source = MDSSource(first)
    first.load_state_dict({**saved, "initial_physical_nodes": 1})
    for epoch in range(2):
        source.set_epoch(epoch)
        parts = pairs_of(read_parts(pickle.loads(pickle.dumps(source))))
        pairs = delivered(source)
        assert sorted(parts) == sorted(pairs)
        assert shards_of(parts) == shards_of(pairs)
        assert len(pairs) == (17 if epoch == 0 else SIZE)


def of_rank(rank: int, port: int, root: Path, results: Any) -> None:
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE="2",
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    with shared_memory_here():
        source = MDSSource(open_mds(root, shuffle=True))
        pickled = pickle.dumps(source)
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            del os.environ[name]
        results.put((read_parts(pickle.loads(pickled)), delivered(source)))


def test_a_rank_has_what_it_reads(root: Path) -> None:
    port = free_port()
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    ranks = [fork.Process(target=of_rank, args=(rank, port, root, results), daemon=True) for rank in range(2)]
    for rank in ranks:
        rank.start()
    both = [results.get(timeout=60) for _ in ranks]
    for rank in ranks:
        rank.join(60)
    for parts, pairs in both:
        assert sorted(pairs_of(parts)) == sorted(set(pairs))
        assert shards_of(pairs_of(parts)) == shards_of(pairs)
        assert len(pairs) == 29
    assert {marker for parts, _ in both for _, marker in pairs_of(parts)} == set(range(SIZE))


def test_without_a_batch_size_parts_are_all_shards(root: Path) -> None:
    source = MDSSource(open_mds(root, batch_size=None))
    assert [marker_of(sample) for part in source.parts() for _, sample in part.read()] == list(range(SIZE))


def test_the_corpus_is_all_of_it(tmp_path: Path) -> None:
    root = write_mds(tmp_path / "c4", range(SIZE), ROWS)
    source = MDSSource(open_mds(root, epoch_size=8))
    found = sorted(marker_of(sample) for part in source.corpus() for _, sample in part.read())
    assert found == list(range(SIZE))
    assert sum(len(list(part.read())) for part in source.parts()) < SIZE
