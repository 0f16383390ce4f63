"""Parts of WebDataset pipelines: shards as the pipeline's own stages read them."""

from __future__ import annotations

import gc
import json
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from part_readers import marker_of, pairs_of, read_elsewhere, read_parts
from shards import write_tar, write_tars
from torch.utils.data import DataLoader

from weighted_stream.errors import SampleIdError, SourceError
from weighted_stream.sources.webdataset import WebDatasetSource

wds = pytest.importorskip("webdataset")

# webdataset leaves the tar files it reads to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

ROWS, SIZE = 10, 65


@pytest.fixture(scope="module", autouse=True)
def close_files_here() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture
def urls(tmp_path: Path) -> list[str]:
    return write_tars(tmp_path / "train", range(SIZE), ROWS)


def open_tars(urls: Any, **arguments: Any) -> Any:
    return wds.WebDataset(urls, **{"shardshuffle": False, "seed": 7, **arguments})


def to_marker(sample: Any) -> int:
    return int(sample["json"]["marker"])


def as_it_is(batch: Any) -> Any:
    return batch


def delivered(source: WebDatasetSource, workers: int = 0) -> list[tuple[int, int]]:
    """(id, marker) of one epoch."""
    loader: Any = DataLoader(source.dataset, batch_size=4, num_workers=workers, collate_fn=as_it_is)
    return [(number, marker_of(sample)) for batch in loader for number, sample in batch]


def shards_of(pairs: list[tuple[int, int]]) -> list[int]:
    """The shards in the order in which they first come."""
    return list(dict.fromkeys(marker // ROWS for _, marker in pairs))


def test_parts_are_read_in_another_process_while_a_loader_reads(urls: list[str]) -> None:
    source = WebDatasetSource(open_tars(urls).shuffle(20).decode().map(to_marker))
    parts, pairs = read_elsewhere(source, meanwhile=lambda: delivered(source, 2))
    assert sorted(pairs_of(parts)) == sorted(pairs)
    assert len(pairs) == SIZE
    assert [name for name, _ in parts] == [f"{n:05}.tar" for n in range(7)]


def pipelines(urls: list[str]) -> dict[str, Any]:
    """Ways to read the same shards."""
    lists = wds.SimpleShardList(urls)
    return {
        "dataset": open_tars(urls),
        "stages": wds.DataPipeline(lists, wds.split_by_worker, wds.tarfile_to_samples(), wds.shuffle(9)),
        "nested": wds.DataPipeline(open_tars(urls), wds.shuffle(9)),
        "mix": wds.RandomMix([open_tars(urls[:3]), open_tars(urls[3:])], longest=True),
        "turns": wds.RoundRobin([open_tars(urls[:3]), open_tars(urls[3:])], longest=True),
        "shuffled": open_tars(urls, shardshuffle=5),
        "dropping": open_tars(urls).select(lambda sample: True).slice(1000),
        "batched": open_tars(urls).batched(4),
        "epoch": open_tars(urls).with_epoch(SIZE),
    }


@pytest.mark.parametrize(
    "name", ["dataset", "stages", "nested", "mix", "turns", "shuffled", "dropping", "batched", "epoch"]
)
def test_parts_have_the_samples_and_ids_of_the_pipeline(urls: list[str], name: str) -> None:
    source = WebDatasetSource(pipelines(urls)[name])
    there = []
    for number, sample in source.dataset:
        numbers, samples = (number, sample) if isinstance(number, list) else ([number], [sample])
        there += zip(numbers, [marker_of(one) for one in unzipped(samples)], strict=True)
    assert sorted(pairs_of(read_parts(source))) == sorted(there)
    assert len(there) == SIZE


def unzipped(samples: Any) -> list[Any]:
    """The samples of a batch, which webdataset makes a dict of lists of."""
    return samples if isinstance(samples, list) else [{"json": value} for value in samples["json"]]


def test_samples_are_as_they_are_stored(urls: list[str]) -> None:
    source = WebDatasetSource(open_tars(urls).decode().map(to_marker))
    _, sample = next(next(source.parts()).read())
    assert sample["__key__"] == "0000"
    assert sample["__url__"] == urls[0]
    assert json.loads(sample["json"]) == {"marker": 0}
    assert sample["cls"] == b"0"


def test_resampled_shards_come_once_each(urls: list[str]) -> None:
    source = WebDatasetSource(open_tars(urls, resampled=True).with_epoch(40))
    assert [marker for _, marker in pairs_of(read_parts(source))] == list(range(SIZE))
    assert set(delivered(source)) <= set(pairs_of(read_parts(source)))


def test_mixed_pipelines_come_in_turns_and_shared_shards_once(urls: list[str]) -> None:
    source = WebDatasetSource(wds.RandomMix([open_tars(urls[:4]), open_tars(urls[3:])]))
    assert [name for name, _ in read_parts(source)] == [f"{n:05}.tar" for n in (0, 3, 1, 4, 2, 5, 6)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_seeded_shuffle_of_shards_is_followed(urls: list[str], workers: int) -> None:
    source = WebDatasetSource(open_tars(urls, shardshuffle=5, detshuffle=True))
    source.workers = workers
    orders = []
    for epoch in range(2):
        source.set_epoch(epoch)
        expected = shards_of(pairs_of(read_parts(source)))
        assert expected == shards_of(pairs_of(read_parts(source)))
        there = shards_of(delivered(source, workers))
        # With workers, each starts one shard, and then the batches of both alternate.
        assert expected[: workers or 7] == there[: workers or 7]
        orders.append(expected)
    assert orders[0] != orders[1]


def test_ranks_have_their_own_shards(urls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        source = WebDatasetSource(open_tars(urls, nodesplitter=wds.split_by_node))
        assert sorted(pairs_of(read_parts(source))) == sorted(delivered(source))
        pickled = pickle.dumps(source)
        monkeypatch.delenv("RANK")
        assert shards_of(pairs_of(read_parts(pickle.loads(pickled)))) == list(range(rank, 7, 2))
    monkeypatch.setenv("RANK", "0")
    resampled = WebDatasetSource(
        wds.DataPipeline(wds.ResampledShards(urls), wds.split_by_node, wds.tarfile_to_samples())
    )
    assert len(read_parts(resampled)) == 7  # any of them may come


def test_a_url_with_credentials_is_read_and_named_without_them(urls: list[str], tmp_path: Path) -> None:
    pipe = f"pipe:cat {urls[0]} # https://me:secret@host/00000.tar?token=abc"
    source = WebDatasetSource(open_tars([pipe]))
    assert sorted(pairs_of(read_parts(source))) == sorted(delivered(source))
    (part,) = source.parts()
    assert part.name == "https://host/00000.tar"
    broken = WebDatasetSource(open_tars([pipe.replace("cat ", "cat /nowhere/")]))
    (part,) = broken.parts()
    with pytest.raises(SourceError, match=r"Cannot read https://host/00000\.tar") as caught:
        list(part.read())
    assert "secret" not in str(caught.value)
    assert "token" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_damaged_shard_is_named_and_what_was_read_stands(urls: list[str]) -> None:
    path = Path(urls[1])
    with tarfile.open(path) as tar:
        sixth = tar.getmembers()[10].offset
    path.write_bytes(path.read_bytes()[: sixth + 700])
    parts = list(WebDatasetSource(open_tars(urls)).parts())
    found = []
    with pytest.raises(SourceError, match=r"Cannot read 00001\.tar"):
        found.extend(parts[1].read())
    assert [marker_of(sample) for _, sample in found] == [10, 11, 12, 13, 14]
    assert len(list(parts[2].read())) == ROWS
    path.unlink()
    with pytest.raises(SourceError, match=r"Cannot read 00001\.tar"):
        list(parts[1].read())


def test_a_handler_that_passes_over_damage_does_so_here(urls: list[str]) -> None:
    Path(urls[0]).unlink()
    source = WebDatasetSource(open_tars(urls, handler=wds.ignore_and_continue))
    assert [len(pairs) for _, pairs in read_parts(source)] == [0, *[ROWS] * 5, 5]


def test_two_samples_of_one_key_keep_their_own_error(tmp_path: Path) -> None:
    url = write_tar(tmp_path / "a.tar", range(5), name="same")
    with pytest.raises((SampleIdError, SourceError)):
        list(next(WebDatasetSource(open_tars([url])).parts()).read())


def test_ids_made_behind_the_pipeline_are_not_known_ahead(urls: list[str]) -> None:
    with pytest.raises(SourceError, match="ahead of the trainer"):
        WebDatasetSource(open_tars(urls), to_marker).parts()


@pytest.mark.parametrize("name", ["dataset", "stages", "nested", "mix"])
def test_stages_that_do_not_pickle_are_left_behind(urls: list[str], name: str) -> None:
    pipeline = pipelines(urls)[name]
    if name == "mix":
        pipeline.datasets = [part.map(lambda sample: sample) for part in pipeline.datasets]
    else:
        pipeline.append(wds.map(lambda sample: sample))
    source = WebDatasetSource(pipeline)
    copy = pickle.loads(pickle.dumps(source))
    assert read_parts(copy) == read_parts(source)
    with pytest.raises(SourceError, match="does not pickle"):
        _ = copy.dataset
    assert sorted(delivered(source)) == sorted(pairs_of(read_parts(copy)))


def listing(source: Any = None) -> Iterator[Any]:
    yield {"url": "a.tar"}


def test_shards_that_are_not_listed_are_not_known_ahead(urls: list[str]) -> None:
    watched = wds.DataPipeline(wds.shardlists.DirectoryShardList("/tmp/"), wds.tarfile_to_samples())
    for pipeline in (watched, wds.DataPipeline(listing, wds.tarfile_to_samples())):
        with pytest.raises(SourceError, match="ahead of the trainer"):
            WebDatasetSource(pipeline).parts()


def test_a_pipeline_without_keys_says_so(urls: list[str]) -> None:
    source = WebDatasetSource(wds.DataPipeline(wds.SimpleShardList(urls)))
    with pytest.raises(SourceError, match="have no id"):
        list(next(source.parts()).read())


def test_the_corpus_is_what_all_ranks_read(urls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {number for part in WebDatasetSource(open_tars(urls)).parts() for number, _ in part.read()}
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    source = WebDatasetSource(open_tars(urls, nodesplitter=wds.split_by_node))
    mine = {number for part in source.parts() for number, _ in part.read()}
    assert mine < whole == {number for part in source.corpus() for number, _ in part.read()}
