"""Ids of MDS samples, read by real loaders: each sample carries a marker that tells who it is."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import random
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from shards import read_index, shared_memory_here, streaming_here, write_index, write_mds
from torch.utils.data import DataLoader

from weighted_stream.errors import SampleIdError, SourceError
from weighted_stream.sources.ids import content_id, shard_id
from weighted_stream.sources.mds import MDSSource
from weighted_stream.sources.mds_reading import row_ids

streaming = pytest.importorskip("streaming")

ROWS, SIZE = 10, 57


class Doubled(streaming.StreamingDataset):
    """A user's dataset: changes what it reads."""

    def __init__(self, *, factor: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def __getitem__(self, at: Any) -> Any:
        sample = super().__getitem__(at)
        return {"marker": sample["marker"], "text": sample["text"] * self.factor}


class Forgiving(streaming.StreamingDataset):
    """A user's dataset: another sample in place of each seventh."""

    def __getitem__(self, at: Any) -> Any:
        sample = super().__getitem__(at)
        return self.__getitem__(int(at) + 1) if sample["marker"] % 7 == 3 else sample


class Packed(streaming.StreamingDataset):
    """A user's dataset that works on the order of delivery."""

    def __iter__(self) -> Iterator[Any]:
        for sample in super().__iter__():
            yield sample["text"]


class OwnCounted(streaming.StreamingDataset):
    """A user's dataset that hears of each time a shard is asked for."""

    asked = 0

    def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
        type(self).asked += 1
        super().prepare_shard(shard_id, blocking)


class Counted(OwnCounted):
    """The same, taken for streaming's."""

    def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
        super().prepare_shard(shard_id, blocking)

    prepare_shard.__module__ = streaming.StreamingDataset.prepare_shard.__module__


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    with streaming_here():
        yield


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_mds(tmp_path / "c4", range(SIZE), ROWS)


def open_mds(root: Path, kind: Any = streaming.StreamingDataset, **arguments: Any) -> Any:
    return kind(local=str(root), **{"batch_size": 4, "num_canonical_nodes": 1, **arguments})


def collate(items: list[tuple[int, Any]]) -> tuple[list[int], list[int]]:
    """Ids first, as the stream's own collate function does."""
    return [i for i, _ in items], [sample["marker"] for _, sample in items]


def read(dataset: Any, workers: int = 0, context: str | None = None) -> list[tuple[int, int]]:
    """(id, marker) of all that a loader delivers."""
    loader: Any = DataLoader(
        dataset,
        batch_size=4,
        num_workers=workers,
        collate_fn=collate,
        multiprocessing_context=context,
        timeout=60 if workers else 0,
    )
    return [pair for batch in loader for pair in zip(*batch, strict=True)]


def expected(name: str = "c4", markers: Iterable[int] = range(SIZE), rows: int = ROWS) -> dict[int, int]:
    """The id of each marker, by the documented rule."""
    return {marker: shard_id(f"{name}/shard.{n // rows:05}.mds", n % rows) for n, marker in enumerate(markers)}


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_each_sample_has_its_own_id_in_every_epoch(root: Path, workers: int, shuffle: bool) -> None:
    dataset = MDSSource(open_mds(root, shuffle=shuffle)).dataset
    epochs = [read(dataset, workers, "fork" if workers else None) for _ in range(2)]
    assert all({marker: i for i, marker in pairs} == expected() for pairs in epochs)
    assert all(len(pairs) == SIZE for pairs in epochs)
    assert (epochs[0] != epochs[1]) is shuffle


def test_ids_are_the_same_in_spawned_workers_and_of_a_user_subclass(root: Path) -> None:
    dataset = MDSSource(open_mds(root, Doubled, factor=2)).dataset
    assert {marker: i for i, marker in read(dataset, 1, "spawn")} == expected()


def test_an_id_is_the_same_in_every_process_and_version() -> None:
    assert expected()[0] == 5803365388424052736


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
        results.put(read(MDSSource(open_mds(root, shuffle=True)).dataset))


def test_ids_are_the_same_on_every_rank(root: Path) -> None:
    port = free_port()
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    ranks = [fork.Process(target=of_rank, args=(rank, port, root, results), daemon=True) for rank in range(2)]
    for rank in ranks:
        rank.start()
    pairs = [results.get(timeout=60) for _ in ranks]
    for rank in ranks:
        rank.join(60)
    assert {marker: i for part in pairs for i, marker in part} == expected()
    assert len(pairs[0]) == len(pairs[1]) == 29  # padded: one sample comes twice, with one id
    assert len({i for part in pairs for i, _ in part}) == SIZE


def test_ids_stay_when_shards_come_in_another_order(root: Path) -> None:
    infos = read_index(root)
    random.Random(0).shuffle(infos)
    write_index(root, infos)
    pairs = read(MDSSource(open_mds(root)).dataset)
    assert [marker for _, marker in pairs] != list(range(SIZE))
    assert {marker: i for i, marker in pairs} == expected()


def test_ids_stay_when_a_shard_is_added(tmp_path: Path) -> None:
    before = MDSSource(open_mds(write_mds(tmp_path / "c4", range(50))))
    grown = write_mds(tmp_path / "new" / "c4", range(SIZE))
    infos = read_index(grown)
    write_index(grown, [infos[-1], *infos[:-1]])
    after = MDSSource(open_mds(grown))
    old = {marker: i for i, marker in read(before.dataset)}
    new = {marker: i for i, marker in read(after.dataset)}
    assert new == expected()
    assert old == {marker: new[marker] for marker in range(50)}
    assert before.fingerprint().conflict(after.fingerprint()) is None


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # streaming's, when it decompresses
def test_ids_stay_when_the_dataset_moves_and_when_it_is_compressed(tmp_path: Path, root: Path) -> None:
    shutil.copytree(root, tmp_path / "elsewhere" / "c4")
    packed = write_mds(tmp_path / "packed" / "c4", range(SIZE), compression="gz")
    assert not list(packed.glob("*.mds"))
    for place in (tmp_path / "elsewhere" / "c4", packed):
        assert {marker: i for i, marker in read(MDSSource(open_mds(place)).dataset)} == expected()


def test_a_remote_names_the_shards_whatever_the_local_cache(tmp_path: Path, root: Path) -> None:
    data = streaming.StreamingDataset(remote=str(root), local=str(tmp_path / "cache"), batch_size=4)
    assert {marker: i for i, marker in read(MDSSource(data).dataset)} == expected()


def test_streams_keep_their_ids_in_any_order_and_any_share(tmp_path: Path) -> None:
    write_mds(tmp_path / "c4" / "train", range(20))
    write_mds(tmp_path / "wiki" / "train", range(100, 130))

    def of(*names: str, **share: float) -> dict[int, int]:
        streams = [streaming.Stream(local=str(tmp_path / name), split="train", **share) for name in names]
        return {
            marker: i
            for i, marker in read(MDSSource(streaming.StreamingDataset(streams=streams, batch_size=4)).dataset)
        }

    both = expected("c4/train", range(20)) | expected("wiki/train", range(100, 130))
    assert of("c4", "wiki") == of("wiki", "c4") == of("wiki", "c4", repeat=2.5) == both
    assert of("c4") == expected("c4/train", range(20))


def test_streams_of_one_last_name_are_told_apart_by_more_of_it(tmp_path: Path) -> None:
    streams = []
    for name, markers in (("c4", range(20)), ("wiki", range(100, 130))):
        streams.append(streaming.Stream(local=str(write_mds(tmp_path / name / "mds", markers))))
    source = MDSSource(streaming.StreamingDataset(streams=streams, batch_size=4))
    assert {marker: i for i, marker in read(source.dataset)} == expected("c4/mds", range(20)) | expected(
        "wiki/mds", range(100, 130)
    )
    alone = MDSSource(open_mds(tmp_path / "c4" / "mds")).fingerprint()
    assert "no shard in common" in alone.conflict(source.fingerprint())


def test_one_dataset_streamed_twice_has_one_set_of_ids(tmp_path: Path, root: Path) -> None:
    streams = [streaming.Stream(remote=str(root), local=str(tmp_path / name)) for name in "ab"]
    pairs = read(MDSSource(streaming.StreamingDataset(streams=streams, batch_size=4)).dataset)
    assert len(pairs) == 2 * SIZE
    assert {marker: i for i, marker in pairs} == expected()
    assert len({i for i, _ in pairs}) == SIZE


def test_two_shards_of_one_name_are_refused(root: Path) -> None:
    first, *others = read_index(root)
    write_index(root, [first, {**first, "samples": 3}, *others])
    with pytest.raises(SourceError, match=r"Two shards are named 'c4/shard.00000.mds'"):
        MDSSource(open_mds(root))


def test_shards_whose_hashes_meet_are_refused(tmp_path: Path) -> None:
    # These two meet: found among 3.5 million names.
    root = write_mds(tmp_path / "d", range(20))
    infos = read_index(root)
    for info, number in zip(infos, (648178, 3530708), strict=True):
        name = f"shard.{number}.mds"
        (root / info["raw_data"]["basename"]).rename(root / name)
        info["raw_data"]["basename"] = name
    write_index(root, infos)
    with pytest.raises(SampleIdError, match="meet") as caught:
        MDSSource(open_mds(root))
    assert "648178" in caught.value.found


def test_rows_of_huge_shards_have_the_documented_ids() -> None:
    sizes = [("a", 3), ("empty", 0), ("b", (1 << 20) + 5), ("c", 2)]
    starts, bases = row_ids(sizes)
    assert starts == [0, 3, 3 + (1 << 20), 8 + (1 << 20)]
    assert bases == [shard_id("a", 0), shard_id("b", 0), shard_id("b", 1 << 20), shard_id("c", 0)]


def test_fingerprint_names_columns_and_shards(root: Path) -> None:
    fingerprint = MDSSource(open_mds(root)).fingerprint()
    assert (fingerprint.kind, fingerprint.name, fingerprint.size) == ("mds", "marker,text", None)
    assert fingerprint.shards == {f"c4/shard.{n:05}.mds": min(ROWS, SIZE - n * ROWS) for n in range(6)}


def test_the_users_own_object_is_left_alone(root: Path) -> None:
    data, other = open_mds(root, shuffle=True), open_mds(root, shuffle=True)
    source = MDSSource(data)
    assert isinstance(source.dataset, streaming.StreamingDataset)
    assert "__getitem__" not in vars(data)
    assert list(data) == list(other)
    assert data[3] == source.dataset[3] == {"marker": 3, "text": "text 3"}
    assert data[-1] == source.dataset[-1]
    assert len(data) == len(source.dataset) == SIZE
    read(source.dataset)
    registered = data._locals_shm.buf[:4].tobytes()
    del source
    gc.collect()
    assert data._locals_shm.buf[:4].tobytes() == registered != bytes(4)
    assert len(list(data)) == SIZE


def test_reading_leaves_the_users_object_fit_for_spawn(root: Path) -> None:
    data = open_mds(root)
    read(MDSSource(data).dataset)
    assert len(pickle.loads(pickle.dumps(data))) == SIZE


def test_a_dataset_that_was_read_before_can_be_wrapped(root: Path) -> None:
    data = open_mds(root)
    next(iter(data))
    source = MDSSource(data)
    assert {marker: i for i, marker in read(source.dataset)} == expected()
    fresh = pickle.loads(pickle.dumps(MDSSource(data)))
    assert {marker: i for i, marker in read(fresh.dataset)} == expected()


def test_the_users_getitem_may_call_itself(root: Path) -> None:
    pairs = read(MDSSource(open_mds(root, Forgiving)).dataset)
    by_position = {i: (m + 1 if m % 7 == 3 else m) for m, i in expected().items()}
    assert dict(pairs) == by_position


def test_an_own_iter_is_refused(root: Path) -> None:
    with pytest.raises(SourceError, match="Packed has an __iter__ of its own"):
        MDSSource(open_mds(root, Packed))


def test_id_fn_names_the_samples_instead(root: Path) -> None:
    source = MDSSource(open_mds(root), lambda sample: sample["marker"] + 1000)
    assert all(i == marker + 1000 for i, marker in read(source.dataset))
    assert source.fingerprint().shards == {}
    assert source.fingerprint().conflict(MDSSource(open_mds(root)).fingerprint()) is not None
    by_content = MDSSource(open_mds(root), content_id)
    assert len({i for i, _ in read(by_content.dataset)}) == SIZE


def test_an_id_fn_that_fails_says_where(root: Path) -> None:
    source = MDSSource(open_mds(root), lambda sample: -1 if sample["marker"] == 5 else sample["marker"])
    with pytest.raises(SampleIdError, match="in sample 5"):
        list(source.dataset)


def test_streaming_dataloader_counts_and_resumes(root: Path) -> None:
    def loader(data: Any) -> Any:
        return streaming.StreamingDataLoader(MDSSource(data).dataset, batch_size=4, collate_fn=collate)

    whole = list(loader(open_mds(root, shuffle=True)))
    first = loader(open_mds(root, shuffle=True))
    batches = iter(first)
    begun = [next(batches) for _ in range(5)]
    state = first.state_dict()
    assert state["sample_in_epoch"] == 20
    batches.close()
    second = loader(open_mds(root, shuffle=True))
    second.load_state_dict(state)
    assert begun + list(second) == whole


def test_set_epoch_continues_where_a_new_process_begins(root: Path) -> None:
    source = MDSSource(open_mds(root, shuffle=True))
    epochs = [read(source.dataset) for _ in range(3)]
    again = MDSSource(open_mds(root, shuffle=True))
    again.set_epoch(1)
    assert read(again.dataset) == epochs[1]
    again.set_epoch(0)
    assert read(again.dataset) == epochs[2]


@pytest.mark.parametrize("case", ["streaming's own", "cache_limit", "the user's own"])
def test_streaming_is_asked_once_for_a_shard_that_is_there(tmp_path: Path, case: str) -> None:
    remote = write_mds(tmp_path / "c4", range(400), 200)
    limit = "1gb" if case == "cache_limit" else None
    kind = OwnCounted if case == "the user's own" else Counted
    source = MDSSource(open_mds(tmp_path / "cache", kind, remote=str(remote), predownload=8, cache_limit=limit))
    kind.asked, markers = 0, []
    for _, sample in source.dataset:
        markers.append(sample["marker"])
        time.sleep(0.001)  # so that the threads which look ahead can
    assert markers == list(range(400))
    if case == "streaming's own":
        assert 2 <= kind.asked < 50  # while another thread fetches it, for each sample that is looked ahead
    else:
        assert kind.asked > 200


def test_a_shard_that_is_evicted_within_an_epoch_is_fetched_again(tmp_path: Path) -> None:
    rows = 2000  # more than are read ahead
    remote = write_mds(tmp_path / "c4", range(2 * rows), rows)
    dataset: Any = MDSSource(open_mds(tmp_path / "cache", remote=str(remote), predownload=8)).dataset
    markers = []
    for _, sample in dataset:
        markers.append(sample["marker"])
        if len(markers) in (rows // 2, rows + rows // 2):
            dataset.evict_shard(len(markers) // rows)
    assert markers == list(range(2 * rows))


def test_matches(root: Path) -> None:
    assert MDSSource.matches(open_mds(root))
    assert MDSSource.matches(open_mds(root, Doubled, factor=2))
    assert not MDSSource.matches([1, 2])
    assert not MDSSource.matches(DataLoader([1]))
