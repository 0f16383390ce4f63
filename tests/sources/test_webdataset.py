"""Ids of WebDataset samples, through real pipelines: each sample carries a marker that tells who it is."""

from __future__ import annotations

import gc
import io
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds
from shards import write_tar, write_tars
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from weighted_stream import Uniform, WeightedStream
from weighted_stream.errors import SampleIdError, SourceError
from weighted_stream.sources.ids import content_id, key_id
from weighted_stream.sources.webdataset import WebDatasetSource

# webdataset leaves the tar files it reads to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

ROWS, SIZE = 10, 35

Stage = Callable[[Iterable[Any]], Iterator[Any]]


@pytest.fixture(scope="module", autouse=True)
def close_files_here() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture
def urls(tmp_path: Path) -> list[str]:
    return write_tars(tmp_path / "train", range(SIZE), ROWS)


def open_tars(urls: Any, **arguments: Any) -> Any:
    return wds.WebDataset(urls, **{"shardshuffle": False, "seed": 7, **arguments})


def expected(names: Iterable[str] | None = None) -> dict[int, int]:
    """The id of each marker, by the documented rule."""
    names = [f"{n:05}.tar" for n in range(4)] if names is None else list(names)
    return {
        n * ROWS + row: key_id(name, f"{row:04}")
        for n, name in enumerate(names)
        for row in range(min(ROWS, SIZE - n * ROWS))
    }


def marker(sample: Any) -> int:
    """Who a sample is, in all the forms that pipelines here give it."""
    if isinstance(sample, dict):
        found = next(sample[key] for key in ("cls", "marker", "label", "json", "document") if key in sample)
    else:
        found = sample[0] if isinstance(sample, (tuple, list)) else sample
    if isinstance(found, bytes):
        found = json.loads(found)
    return int(found["marker"] if isinstance(found, dict) else found)


def pairs(dataset: Any) -> list[tuple[int, int]]:
    """(id, marker) of what a tagged dataset yields one by one."""
    return [(i, marker(sample)) for i, sample in dataset]


def by_marker(dataset: Any) -> dict[int, int]:
    return {who: i for i, who in pairs(dataset)}


def collate(items: list[tuple[int, Any]]) -> tuple[list[int], list[int]]:
    """Ids first, as the stream's own collate function does."""
    return [i for i, _ in items], [marker(sample) for _, sample in items]


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


def fresh_dict(sample: dict[str, Any]) -> dict[str, Any]:
    return {"label": sample["cls"]}


def label(sample: dict[str, Any]) -> int:
    return int(sample["cls"])


def even(sample: dict[str, Any]) -> bool:
    return int(sample["cls"]) % 2 == 0


def none_if_odd(sample: dict[str, Any]) -> dict[str, Any] | None:
    return sample if even(sample) else None


def fails_if_odd(sample: dict[str, Any]) -> int:
    if not even(sample):
        raise ValueError("odd")
    return int(sample["cls"])


def with_uid(key: str) -> dict[str, str]:
    return {"uid": key}


PIPELINES: dict[str, Callable[[Any], Any]] = {
    "bare": lambda d: d,
    "decode": lambda d: d.decode(),
    "map to a fresh dict": lambda d: d.map(fresh_dict),
    "map to a number": lambda d: d.map(label),
    "map that drops": lambda d: d.map(none_if_odd),
    "map that fails": lambda d: d.map(fails_if_odd, handler=wds.ignore_and_continue),
    "map that stops": lambda d: d.map(fails_if_odd, handler=wds.ignore_and_stop),
    "map_dict": lambda d: d.map_dict(cls=int),
    "to_tuple and map_tuple": lambda d: d.to_tuple("cls", "json").map_tuple(int, json.loads),
    "select": lambda d: d.select(even).to_tuple("cls"),
    "rename": lambda d: d.rename(label="cls", keep=False),
    "rename_keys": lambda d: d.decode().rename_keys(("label", "cls")),
    "extract_keys": lambda d: d.extract_keys("*.cls", "*.json"),
    "xdecode": lambda d: d.xdecode(cls=lambda s: int(s.read()), json=lambda s: json.load(s)),
    "associate and info": lambda d: d.compose(wds.associate(with_uid), wds.info(n=0)).map(fresh_dict),
    "slice": lambda d: d.slice(3, 30, 4).to_tuple("cls"),
    "rsample": lambda d: d.rsample(1.0).to_tuple("cls"),
    "shuffle": lambda d: d.to_tuple("cls").shuffle(12, initial=5, seed=3),
    "shuffle, then change": lambda d: d.shuffle(12, seed=3).map(label).shuffle(7, seed=5),
    "detshuffle": lambda d: d.map(label).compose(wds.detshuffle(9, seed=4)),
    "mcached": lambda d: d.map(label).mcached(),
    "log_keys": lambda d: d.log_keys(os.devnull).map(label),
    "split by worker late": lambda d: d.map(label).compose(wds.split_by_worker, wds.non_empty),
    "batched and unbatched": lambda d: d.to_tuple("cls").map_tuple(int).batched(4).unbatched(),
    "dicts batched and unbatched": lambda d: d.decode().map(fresh_dict).batched(4).unbatched(),
    "listed and unlisted": lambda d: d.map(label).listed(4).shuffle(3, seed=1).unlisted().shuffle(5, seed=1),
    "with_epoch": lambda d: d.map(label).with_epoch(50),
    "repeat": lambda d: d.map(label).repeat(2),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_ids_stay_with_their_samples_through_webdatasets_stages(name: str, urls: list[str]) -> None:
    bare = [marker(sample) for sample in PIPELINES[name](open_tars(urls))]
    data = PIPELINES[name](open_tars(urls))
    before = list(data.pipeline)
    found = pairs(WebDatasetSource(data).dataset)
    assert found == [(expected()[who], who) for who in bare]
    assert data.pipeline == before
    assert [marker(sample) for sample in data] == bare  # and is not spoilt by being read with ids


def pad(samples: list[Any]) -> dict[str, Any]:
    return {"markers": [marker(sample) for sample in samples]}


BATCHES: dict[str, Callable[[Any], Any]] = {
    "tuples": lambda d: d.to_tuple("cls").map_tuple(int).batched(4),
    "own collate, by place": lambda d: d.compose(wds.batched(4, pad)),
    "dropping the last": lambda d: d.shuffle(9, seed=1).batched(4, pad, False),
    "listed": lambda d: d.map(label).listed(4),
    "batches changed": lambda d: d.map(label).listed(4).map(pad),
    "batches shuffled and picked": lambda d: d.listed(4).shuffle(5, seed=2).map(pad).slice(2, 6),
    "batched anew": lambda d: d.map(label).listed(4).unlisted().shuffle(5, seed=1).batched(3, pad),
}


@pytest.mark.parametrize("name", BATCHES)
def test_batches_come_with_the_ids_of_their_samples(name: str, urls: list[str]) -> None:
    def markers(batch: Any) -> list[int]:
        if isinstance(batch, dict):
            return list(batch["markers"])
        return [marker(one) for one in (batch[0] if isinstance(batch, tuple) else batch)]

    bare = [markers(batch) for batch in BATCHES[name](open_tars(urls))]
    found = list(WebDatasetSource(BATCHES[name](open_tars(urls))).dataset)
    assert [markers(batch) for _, batch in found] == bare
    assert [ids for ids, _ in found] == [[expected()[who] for who in batch] for batch in bare]


@pytest.mark.parametrize("workers", [0, 2])
def test_ids_are_the_same_in_every_epoch_and_for_every_worker_count(workers: int, urls: list[str]) -> None:
    source = WebDatasetSource(open_tars(urls, shardshuffle=10, seed=None).shuffle(20).map(label))
    epochs = [read(source.dataset, workers, "fork" if workers else None) for _ in range(2)]
    assert [{who: i for i, who in epoch} for epoch in epochs] == [expected(), expected()]
    assert len(epochs[0]) == len(epochs[1]) == SIZE


def test_ids_are_the_same_in_spawned_workers(urls: list[str]) -> None:
    data = open_tars(urls).shuffle(20).decode().map(label).compose(passes).listed(4)
    loader: Any = DataLoader(
        WebDatasetSource(data).dataset, batch_size=None, num_workers=2, multiprocessing_context="spawn"
    )
    found = {int(who): int(i) for ids, batch in loader for i, who in zip(ids, batch, strict=True)}
    assert found == expected()


def test_ids_are_the_same_on_every_rank(urls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[int, int]] = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        data = open_tars(urls, nodesplitter=wds.split_by_node)
        part = pairs(WebDatasetSource(data).dataset)
        assert len(part) < SIZE
        found += part
    assert len(found) == SIZE
    assert {who: i for i, who in found} == expected()


def test_an_id_is_the_same_in_every_process_and_version() -> None:
    assert expected()[0] == 5904428388421249057


def test_ids_stay_when_shards_come_in_another_order_and_are_added(tmp_path: Path) -> None:
    before = WebDatasetSource(open_tars(write_tars(tmp_path, range(30))))
    old = by_marker(before.dataset)
    added = write_tar(tmp_path / "00003.tar", range(30, SIZE))
    after = WebDatasetSource(open_tars([added, *write_tars(tmp_path, range(30))[::-1]]))
    assert by_marker(after.dataset) == expected()
    assert old == {who: expected()[who] for who in range(30)}
    assert before.fingerprint().conflict(after.fingerprint()) is None


def test_ids_stay_when_the_shards_move_or_are_opened_otherwise(urls: list[str], tmp_path: Path) -> None:
    shutil.move(tmp_path / "train", tmp_path / "elsewhere")
    moved = str(tmp_path / "elsewhere" / "{00000..00003}.tar")
    for form in (moved, f"file:{moved}", f"pipe:cat {moved}", Path(moved).as_posix() + "::" + moved):
        assert by_marker(WebDatasetSource(open_tars(form)).dataset) == expected()


def test_shards_of_one_name_are_told_apart_by_their_directories(tmp_path: Path) -> None:
    one = write_tars(tmp_path / "a", range(SIZE))
    two = write_tars(tmp_path / "b", range(100, 110))
    source = WebDatasetSource(open_tars(one + two))
    found = by_marker(source.dataset)
    assert len(set(found.values())) == SIZE + 10
    assert found[100] == key_id("b/00000.tar", "0000")
    assert {who: i for who, i in found.items() if who < SIZE} == expected(f"a/{n:05}.tar" for n in range(4))
    alone = WebDatasetSource(open_tars(one)).fingerprint()
    assert "no shard in common" in str(alone.conflict(source.fingerprint()))


def test_resampled_shards_and_repeated_urls_repeat_ids(urls: list[str]) -> None:
    resampled = open_tars(urls, resampled=True).map(label).with_epoch(100)
    found = pairs(WebDatasetSource(resampled).dataset)
    assert len(found) == 100
    assert all(expected()[who] == i for i, who in found)
    twice = pairs(WebDatasetSource(open_tars([urls[0], urls[0], urls[1]])).dataset)
    assert len(twice) == 30
    assert len({i for i, _ in twice}) == 20


def test_a_worker_without_shards(urls: list[str]) -> None:
    one = open_tars(urls[:1], empty_check=False).map(label).listed(4)
    loader: Any = DataLoader(WebDatasetSource(one).dataset, batch_size=None, num_workers=2, timeout=60)
    assert sum(len(ids) for ids, _ in loader) == ROWS
    checked = WebDatasetSource(open_tars([urls[0]]).slice(0))
    assert list(checked.dataset) == []
    with pytest.raises(ValueError, match="No samples found"):
        list(WebDatasetSource(open_tars([write_tar(Path(urls[0]).parent / "empty.tar", [])])).dataset)


# ---- stages of the user's own ------------------------------------------------------------------


def passes(samples: Iterable[Any]) -> Iterator[Any]:
    yield from samples


def one_of_each(samples: Iterable[Any]) -> Iterator[Any]:
    for sample in samples:
        yield (int(sample["cls"]), "new")


def drops(samples: Iterable[Any]) -> Iterator[Any]:
    return (sample for sample in samples if even(sample))


def drops_almost_all(samples: Iterable[Any]) -> Iterator[Any]:
    return (sample for sample in samples if int(sample["cls"]) > 30)


def drops_and_renews(samples: Iterable[Any]) -> Iterator[Any]:
    for sample in samples:
        if even(sample):
            yield {"label": sample["cls"], "__key__": sample["__key__"]}


def looks_ahead(samples: Iterable[Any]) -> Iterator[Any]:
    held = None
    for sample in samples:
        if held is not None:
            yield held
        held = sample
    yield held


def reorders(samples: Iterable[Any]) -> Iterator[Any]:
    everything = list(samples)
    random.Random(2).shuffle(everything)
    yield from everything


def replays(samples: Iterable[Any]) -> Iterator[Any]:
    seen, rng = [], random.Random(5)
    for sample in samples:
        seen.append(sample)
        yield rng.choice(seen)


class Reorders(wds.PipelineStage):  # type: ignore[misc]
    """A stage as an object."""

    def run(self, samples: Iterable[Any]) -> Iterator[Any]:
        return reorders(samples)


@wds.pipelinefilter  # type: ignore[untyped-decorator]
def thins(samples: Iterable[Any], step: int) -> Iterator[Any]:
    return islice(samples, 0, None, step)


FOLLOWED: dict[str, Callable[[Any], Any]] = {
    "passes dicts": lambda d: d.compose(passes),
    "passes tuples": lambda d: d.to_tuple("cls", "json").compose(passes),
    "one new of each": lambda d: d.compose(one_of_each),
    "drops": lambda d: d.compose(drops),
    "drops almost all": lambda d: d.compose(drops_almost_all),
    "drops and renews, keeping keys": lambda d: d.compose(drops_and_renews),
    "looks ahead": lambda d: d.compose(looks_ahead),
    "looks ahead on tuples": lambda d: d.to_tuple("cls", "json").compose(looks_ahead),
    "reorders": lambda d: d.compose(reorders).to_tuple("cls"),
    "reorders, as an object": lambda d: d.compose(Reorders()).to_tuple("cls"),
    "repeats and drops": lambda d: d.compose(replays).to_tuple("cls"),
    "with arguments": lambda d: d.compose(thins(3)),
    "on batches": lambda d: d.map(label).listed(4).compose(passes).unlisted(),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_own_stages_that_can_be_followed(name: str, urls: list[str]) -> None:
    bare = [marker(sample) for sample in FOLLOWED[name](open_tars(urls))]
    found = pairs(WebDatasetSource(FOLLOWED[name](open_tars(urls))).dataset)
    assert found == [(expected()[who], who) for who in bare]


def drops_and_makes_new(samples: Iterable[Any]) -> Iterator[Any]:
    return (int(sample["cls"]) for sample in samples if int(sample["cls"]) != 7)


def makes_several(samples: Iterable[Any]) -> Iterator[Any]:
    for sample in samples:
        yield int(sample["cls"])
        yield int(sample["cls"])


def makes_batches(samples: Iterable[Any]) -> Iterator[Any]:
    while batch := [int(sample["cls"]) for sample in islice(samples, 4)]:
        yield batch


def replays_without_url(samples: Iterable[Any]) -> Iterator[Any]:
    for sample in replays(samples):
        yield {"label": sample["cls"], "__key__": sample["__key__"]}


def looks_ahead_and_makes_new(samples: Iterable[Any]) -> Iterator[Any]:
    return (int(sample["cls"]) for sample in looks_ahead(samples))


def unbatches(batches: Iterable[Any]) -> Iterator[Any]:
    for batch in batches:
        yield from batch


LOST: dict[str, Callable[[Any], Any]] = {
    "drops_and_makes_new": lambda d: d.compose(drops_and_makes_new),
    "makes_several": lambda d: d.compose(makes_several),
    "makes_batches": lambda d: d.compose(makes_batches),
    "replays_without_url": lambda d: d.compose(replays_without_url),
    "looks_ahead_and_makes_new": lambda d: d.compose(looks_ahead_and_makes_new),
    "reorders": lambda d: d.map(label).compose(reorders),
    "Reorders": lambda d: d.to_tuple("cls", "json").compose(Reorders()),
    "unbatches": lambda d: d.map(label).listed(4).compose(unbatches),
    "_batched": lambda d: d.map(label).listed(4).listed(2),
    "_unlisted": lambda d: d.map(lambda sample: [label(sample)] * 2).unlisted(),
    "_unbatched": lambda d: d.map(label).batched(4, lambda batch: (batch[:3],)).unbatched(),
}


@pytest.mark.parametrize("name", LOST)
def test_stages_that_cannot_be_followed_are_named(name: str, urls: list[str]) -> None:
    data = LOST[name](open_tars(urls))
    right: list[tuple[int, Any]] = []
    with pytest.raises(SourceError, match=rf"stage \S*\.{name}\.") as caught:
        right.extend(WebDatasetSource(data).dataset)
    assert "id_fn" in caught.value.do or "unbatch" in caught.value.do
    assert all(i == expected()[marker(sample)] for i, sample in right[:-1])  # none was wrong until then


def split_documents(samples: Iterable[Any]) -> Iterator[Any]:
    for sample in samples:
        for part in range(2):
            yield {**sample, "__key__": f"{sample['__key__']}/{part}", "document": sample["cls"]}


def test_parts_that_get_keys_get_ids(urls: list[str]) -> None:
    found = pairs(WebDatasetSource(open_tars(urls).compose(split_documents)).dataset)
    assert len({i for i, _ in found}) == len(found) == 2 * SIZE
    assert (key_id("00002.tar", "0004/1"), 24) in found


def test_id_fn_is_a_way_out(urls: list[str]) -> None:
    source = WebDatasetSource(open_tars(urls).compose(drops_and_makes_new), lambda number: f"n{number}")
    assert pairs(source.dataset) == [(key_id(f"n{who}"), who) for who in range(SIZE) if who != 7]
    batches = WebDatasetSource(open_tars(urls).compose(makes_batches), lambda batch: batch)
    assert all(ids == batch for ids, batch in batches.dataset)
    before = WebDatasetSource(open_tars(urls).map(label).shuffle(5).listed(4).map(pad), lambda number: number)
    assert all(ids == batch["markers"] for ids, batch in before.dataset)
    assert source.fingerprint().conflict(WebDatasetSource(open_tars(urls)).fingerprint()) is not None
    assert len({i for i, _ in WebDatasetSource(open_tars(urls), content_id).dataset}) == SIZE


def test_an_id_fn_that_fails_says_where(urls: list[str]) -> None:
    with pytest.raises(SampleIdError, match="no key 'uid' in sample 0"):
        list(WebDatasetSource(open_tars(urls), lambda sample: sample["uid"]).dataset)
    with pytest.raises(SampleIdError, match="in sample 5"):
        list(WebDatasetSource(open_tars(urls).map(label), lambda n: -1 if n == 5 else n).dataset)


# ---- other ways to begin -----------------------------------------------------------------------


def test_a_pipeline_of_stages(urls: list[str]) -> None:
    data = wds.DataPipeline(
        wds.SimpleShardList(urls),
        wds.split_by_worker,
        wds.shuffle(10),
        wds.tarfile_to_samples(),
        wds.shuffle(10),
        wds.map(label),
    )
    assert {who: i for i, who in read(WebDatasetSource(data).dataset, 2)} == expected()


def own_reader(shards: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        yield from wds.tarfile_samples([{"url": shard["url"]}])


def test_a_reader_of_the_users_own(urls: list[str]) -> None:
    data = wds.DataPipeline(wds.SimpleShardList(urls), own_reader, wds.map(label))
    assert by_marker(WebDatasetSource(data).dataset) == expected()


def test_pipelines_mixed_and_nested(urls: list[str]) -> None:
    parts = [open_tars(urls[:2]).map(label), open_tars(urls[2:]).to_tuple("cls").map_tuple(int).map(marker)]
    for mix in (wds.RoundRobin(parts, longest=True), wds.RandomMix(parts, [1, 2], longest=True)):
        assert by_marker(WebDatasetSource(mix).dataset) == expected()
        data = wds.DataPipeline(mix, wds.shuffle(5), one_number)
        assert by_marker(WebDatasetSource(data).dataset) == expected()
        by_function = WebDatasetSource(mix, lambda number: number + 1)
        assert all(i == who + 1 for i, who in pairs(by_function.dataset))
    nested = wds.FluidWrapper(wds.DataPipeline(*open_tars(urls).map(label).pipeline)).shuffle(5)
    assert by_marker(WebDatasetSource(nested).dataset) == expected()
    assert all(isinstance(number, int) for part in parts for number in part)


def one_number(numbers: Iterable[int]) -> Iterator[tuple[int, str]]:
    return ((number, "new") for number in numbers)


class Rows(IterableDataset[dict[str, Any]]):
    """A dataset of the user's that names its samples."""

    def __init__(self, **names: str) -> None:
        self.names = names

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return ({**self.names, "__key__": str(n), "cls": n} for n in range(3))


def test_a_dataset_of_the_users_own_that_names_its_samples() -> None:
    data = wds.FluidWrapper(Rows(__url__="db")).map(label)
    assert pairs(WebDatasetSource(data).dataset) == [(key_id("db", str(n)), n) for n in range(3)]
    with pytest.raises(SourceError, match="have no id"):
        list(WebDatasetSource(wds.FluidWrapper(Rows()).map(label)).dataset)


def test_lengths_and_epochs_are_kept(urls: list[str]) -> None:
    data = open_tars(urls).map(label).with_length(99, silent=True)
    dataset: Any = WebDatasetSource(data).dataset
    assert isinstance(dataset, wds.WebDataset)
    assert len(dataset) == 99


def test_epochs_of_deterministic_shuffling(urls: list[str]) -> None:
    def make() -> Any:
        return open_tars(urls, shardshuffle=4, detshuffle=True).map(label).compose(wds.detshuffle(9, seed=1))

    data = make()
    source = WebDatasetSource(data)
    epochs = []
    for epoch in range(3):
        source.set_epoch(epoch)
        epochs.append(pairs(source.dataset))
    assert [[who for _, who in found] for found in epochs] == [list(data) for _ in range(3)]  # counts alone
    assert len({tuple(found) for found in epochs}) == 3
    again = WebDatasetSource(make())
    again.set_epoch(2)
    assert pairs(again.dataset) == epochs[2]
    with_workers = []
    for epoch in range(2):
        again = WebDatasetSource(make())
        again.set_epoch(epoch)
        with_workers.append(read(again.dataset, 1))
    assert with_workers == epochs[:2]


def test_epochs_of_several_passes_begin_where_a_resumed_one_does(urls: list[str]) -> None:
    def make() -> Any:
        return WebDatasetSource(open_tars(urls).map(label).compose(wds.detshuffle(9, seed=1)).repeat(2))

    source, again = make(), make()
    epochs = []
    for epoch in range(3):
        source.set_epoch(epoch)
        epochs.append(pairs(source.dataset))
    again.rewind(2)
    assert pairs(again.dataset) == epochs[2]
    source.rewind(1)
    assert pairs(source.dataset) == epochs[1]


def test_a_cache_that_was_filled_without_ids(urls: list[str]) -> None:
    data = open_tars(urls).map(label).mcached()
    list(data)
    source = WebDatasetSource(data)
    assert by_marker(source.dataset) == by_marker(source.dataset) == expected()
    assert list(data) == list(range(SIZE))


# ---- what is refused ---------------------------------------------------------------------------


def test_a_key_that_comes_back_in_a_shard(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("a.cls", "b.cls", "c.cls", "b.cls"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    data = open_tars(str(tmp_path / "a.tar"))
    assert len(list(data)) == 4
    with pytest.raises(SampleIdError, match=r"'b' twice in .*a\.tar"):
        list(WebDatasetSource(data).dataset)


@pytest.mark.parametrize("stage", ["WebDataset", "tarfile_to_samples"])
def test_the_first_key_that_comes_back_in_a_shard(tmp_path: Path, stage: str) -> None:
    """Files sorted by ending: it is no second reading of the shard."""
    path = str(tmp_path / "a.tar")
    with tarfile.open(path, "w") as tar:
        for name in ("0.jpg", "1.jpg", "2.jpg", "0.txt", "1.txt", "2.txt"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    stages = wds.DataPipeline(wds.SimpleShardList([path]), wds.tarfile_to_samples())
    with pytest.raises(SampleIdError, match=r"'0' twice in .*a\.tar"):
        list(WebDatasetSource(open_tars(path) if stage == "WebDataset" else stages).dataset)


def test_a_shard_of_one_sample_that_is_read_again_and_again(tmp_path: Path) -> None:
    one = write_tar(tmp_path / "one.tar", [7])
    for data in (open_tars([one] * 3), wds.DataPipeline(wds.SimpleShardList([one] * 3), wds.tarfile_to_samples())):
        assert [who for _, who in pairs(WebDatasetSource(data).dataset)] == [7, 7, 7]


def own_expander(opened: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for source in opened:
        with tarfile.open(fileobj=source["stream"]) as tar:
            for info in tar:
                file: Any = tar.extractfile(info)
                yield {"fname": info.name, "data": file.read(), "__url__": source["url"]}
        yield {}


def test_an_expander_of_the_users_own_may_read_a_shard_again(urls: list[str]) -> None:
    data = wds.DataPipeline(
        wds.SimpleShardList([urls[0]] * 2),
        wds.cache.StreamingOpen(),
        own_expander,
        wds.pipelinefilter(wds.tariterators.group_by_keys)(),
    )
    assert [who for _, who in pairs(WebDatasetSource(data).dataset)] == [*range(ROWS)] * 2


def test_unlisted_shards_of_one_name(tmp_path: Path) -> None:
    urls = [write_tars(tmp_path / name, range(5))[0] for name in "ab"]

    def found_at_run_time() -> Iterator[dict[str, str]]:
        yield from ({"url": url} for url in urls)

    data = wds.DataPipeline(found_at_run_time, wds.tarfile_to_samples())
    with pytest.raises(SourceError, match="the same name"):
        list(WebDatasetSource(data).dataset)


@pytest.mark.parametrize("same", [False, True])
def test_unlisted_shards_of_one_name_in_two_workers(tmp_path: Path, same: bool) -> None:
    begins = {"a": 0, "b": 0 if same else 50}
    urls = [write_tars(tmp_path / name, range(begin, begin + 5))[0] for name, begin in begins.items()]

    def found_at_run_time() -> Iterator[dict[str, str]]:
        info = get_worker_info()
        assert info is not None
        yield {"url": urls[info.id]}

    data = wds.DataPipeline(found_at_run_time, wds.tarfile_to_samples())
    loader = WeightedStream(data, Uniform()).loader(batch_size=None, num_workers=2)
    if same:  # the same samples elsewhere, which rightly have the same ids
        with pytest.warns(RuntimeWarning, match="looks like a copy"):
            assert len(list(loader)) == 10
    else:
        with pytest.raises(SourceError, match="the same name"):
            list(loader)


def test_remote_shards_that_differ_in_their_query_only() -> None:
    with pytest.raises(SourceError, match="share ids") as caught:
        WebDatasetSource(open_tars(["https://host/get?file=1&key=secret", "https://host/get?file=2&key=secret"]))
    assert "secret" not in str(caught.value)


class Own(wds.WebDataset):  # type: ignore[misc]
    """A user's class that changes the iteration."""

    def __iter__(self) -> Iterator[Any]:
        return (sample["cls"] for sample in super().__iter__())


def test_pipelines_that_are_none(urls: list[str]) -> None:
    with pytest.raises(SourceError, match="Own iterates in its own way"):
        WebDatasetSource(Own(urls, shardshuffle=False))
    with pytest.raises(SourceError, match="no stages"):
        WebDatasetSource(wds.DataPipeline())
    with pytest.raises(SourceError, match="is a loader"):
        WebDatasetSource(wds.WebLoader(open_tars(urls), batch_size=None))


def test_samples_without_a_key(urls: list[str]) -> None:
    def forgets(samples: Iterable[Any]) -> Iterator[Any]:
        for n, sample in enumerate(wds.tarfile_samples(samples)):
            yield sample if n < 3 else {"cls": 1}

    data = wds.DataPipeline(wds.SimpleShardList(urls), forgets)
    with pytest.raises(SampleIdError, match="no __key__"):
        list(WebDatasetSource(data).dataset)


def test_fingerprint(urls: list[str], tmp_path: Path) -> None:
    fingerprint = WebDatasetSource(open_tars(urls).map(label)).fingerprint()
    assert (fingerprint.kind, fingerprint.name, fingerprint.size) == ("webdataset", "", None)
    assert fingerprint.shards == {Path(url).name: Path(url).stat().st_size for url in urls}
    other = WebDatasetSource(open_tars(write_tars(tmp_path / "other", range(500), 100))).fingerprint()
    assert fingerprint.conflict(other) is not None
    part = WebDatasetSource(open_tars(urls[1:])).fingerprint()
    assert fingerprint.conflict(part) is None
    remote = WebDatasetSource(open_tars("https://me:pw@host/{0..1}.tar?key=1")).fingerprint()
    assert remote.shards == {"https://host/0.tar": 0, "https://host/1.tar": 0}


def test_the_size_of_files_is_looked_up_once(urls: list[str]) -> None:
    source = WebDatasetSource(open_tars(urls))
    before = source.fingerprint()
    Path(urls[0]).unlink()
    assert source.fingerprint() == before


def test_what_is_read_pickles(urls: list[str]) -> None:
    source = pickle.loads(pickle.dumps(WebDatasetSource(open_tars(urls).map(label).listed(4).unlisted())))
    assert by_marker(source.dataset) == expected()


def test_matches_without_importing() -> None:
    code = (
        "import sys\n"
        "from weighted_stream.sources.mds import MDSSource\n"
        "from weighted_stream.sources.webdataset import WebDatasetSource\n"
        "assert not MDSSource.matches([]) and not WebDatasetSource.matches([])\n"
        "assert not {'streaming', 'webdataset'} & set(sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


def test_matches(urls: list[str]) -> None:
    data = open_tars(urls)
    assert all(map(WebDatasetSource.matches, (data, wds.DataPipeline(), wds.RandomMix([data]))))
    assert not WebDatasetSource.matches(DataLoader([1]))
