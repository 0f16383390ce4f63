"""Hugging Face datasets: a row keeps its id through what `datasets` does to a dataset."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from weighted_stream.errors import SampleIdError, SourceError
from weighted_stream.sources.huggingface import HuggingFaceSource
from weighted_stream.sources.ids import content_id, key_id
from weighted_stream.sources.keys import Column

datasets = pytest.importorskip("datasets")

# datasets calls pyarrow's sort in a way that pyarrow 25 and on deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Specifying null_placement:FutureWarning")

ROWS = 40


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def rows(start: int = 0, stop: int = ROWS) -> Any:
    """Row i is marked i."""
    return datasets.Dataset.from_list([{"marker": i, "uid": f"key {i}"} for i in range(start, stop)])


def as_it_is(batch: Any) -> Any:
    return batch


def read_map(data: Any, id_fn: Any = None, **loader: Any) -> tuple[list[int], list[int]]:
    """Ids and markers of an epoch."""
    dataset = HuggingFaceSource(data, id_fn).dataset
    ids, markers = [], []
    for some, samples in DataLoader(dataset, batch_size=7, collate_fn=as_it_is, **loader):
        ids += list(some)
        markers += [int(sample["marker"]) for sample in samples]
    return ids, markers


def read_stream(dataset: Any, **loader: Any) -> list[tuple[int, Any]]:
    return list(chain.from_iterable(DataLoader(dataset, batch_size=4, collate_fn=as_it_is, **loader)))


VIEWS: dict[str, Callable[[Any], Any]] = {
    "itself": lambda data: data,
    "shuffle": lambda data: data.shuffle(seed=1),
    "filter": lambda data: data.filter(lambda row: row["marker"] % 3 == 0),
    "select": lambda data: data.select([5, 3, 17]),
    "sort": lambda data: data.sort("marker", reverse=True),
    "train_test_split": lambda data: data.train_test_split(0.25, seed=1)["test"],
    "shuffle, select a range": lambda data: data.shuffle(seed=1).select(range(10, 20)),
    "shuffle, filter, shuffle": lambda data: data.shuffle(seed=1).filter(lambda row: row["marker"] > 9).shuffle(seed=2),
    "torch format": lambda data: data.shuffle(seed=1).with_format("torch"),
    "numpy format": lambda data: data.with_format("numpy"),
    "subset": lambda data: Subset(data, [4, 1, -2]),
    "subset of a shuffle": lambda data: Subset(Subset(data.shuffle(seed=1), range(5, 25)), [0, 7]),
    "interleave": lambda data: datasets.interleave_datasets([rows(0, 20), rows(20, 40)]),
    "concatenate": lambda data: datasets.concatenate_datasets([rows(0, 15), rows(15, 40).shuffle(seed=1)]),
}


@pytest.mark.parametrize("view", VIEWS)
def test_a_row_keeps_its_id(view: str) -> None:
    data = VIEWS[view](rows())
    ids, markers = read_map(data, shuffle=True)
    assert ids == markers
    assert len(set(ids)) == len(data)
    assert HuggingFaceSource(data).dataset[1][0] == int(data[1]["marker"])
    assert HuggingFaceSource(data).fingerprint() == HuggingFaceSource(rows()).fingerprint()


@pytest.mark.parametrize(("workers", "method"), [(2, "fork"), (1, "spawn")])
def test_in_workers_too(workers: int, method: str) -> None:
    context = multiprocessing.get_context(method)
    ids, markers = read_map(rows().shuffle(seed=1), num_workers=workers, multiprocessing_context=context)
    assert ids == markers
    assert sorted(ids) == list(range(ROWS))


def test_a_dataset_on_disk(tmp_path: Any) -> None:
    rows().shuffle(seed=1).save_to_disk(tmp_path / "saved", num_shards=3)
    saved = datasets.load_from_disk(tmp_path / "saved")
    first = dict(zip(*read_map(saved), strict=True))
    again = dict(zip(*read_map(datasets.load_from_disk(tmp_path / "saved").shuffle(seed=3)), strict=True))
    assert first == again
    assert sorted(first) == list(range(ROWS))


def test_samples_are_those_of_the_dataset() -> None:
    formatted = rows().with_format("torch", columns=["marker"])
    ids, samples = HuggingFaceSource(formatted).dataset.__getitems__([3, 1])  # type: ignore[attr-defined]
    assert list(ids) == [3, 1]
    assert samples == [{"marker": torch.tensor(3)}, {"marker": torch.tensor(1)}]
    assert HuggingFaceSource(formatted).dataset.column_names == ["marker", "uid"]  # type: ignore[attr-defined]
    HuggingFaceSource(formatted).set_shuffle(1)
    HuggingFaceSource(formatted).set_epoch(1)


def test_a_batch_costs_one_read() -> None:
    reads = []

    def count(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        reads.append(len(batch["marker"]))
        return batch

    read_map(rows().with_transform(count))
    assert reads == [7, 7, 7, 7, 7, 5]


@pytest.mark.parametrize(
    "other",
    [
        lambda: rows().select(range(20)),
        lambda: rows(40, 80),
        lambda: rows().add_column("more", list(range(ROWS))),
    ],
)
def test_other_tables_are_told_apart(other: Callable[[], Any]) -> None:
    """A contiguous part above all: its rows count from 0."""
    assert HuggingFaceSource(rows()).fingerprint().conflict(HuggingFaceSource(other()).fingerprint())
    halves = [HuggingFaceSource(rows().select(part)).fingerprint() for part in (range(20), range(20, 40))]
    assert halves[0].conflict(halves[1])


def test_ids_by_key_hold_for_parts_too() -> None:
    part = rows().select(range(10, 20))
    assert read_map(part, Column("uid"))[0] == [key_id(f"key {i}") for i in range(10, 20)]
    assert read_map(part.with_format("torch"), Column("marker"))[0] == list(range(10, 20))
    whole, some = (HuggingFaceSource(data, Column("uid")).fingerprint() for data in (rows(), part))
    assert whole == some
    assert whole.conflict(HuggingFaceSource(rows()).fingerprint())
    with pytest.raises(SampleIdError, match=r"columns \['marker', 'uid'\], in sample 0"):
        read_map(rows(), Column("id"))


def test_several_datasets_are_refused() -> None:
    splits = datasets.DatasetDict({"train": rows(), "test": rows()})
    with pytest.raises(SourceError, match=r"splits \['train', 'test'\][\s\S]*data\['train'\]"):
        HuggingFaceSource(splits)
    streams = datasets.IterableDatasetDict({"train": rows().to_iterable_dataset()})
    with pytest.raises(SourceError, match="IterableDatasetDict is several"):
        HuggingFaceSource(streams)


def test_an_empty_dataset_is_refused() -> None:
    for data in (rows(0, 0), rows().filter(lambda row: False), Subset(rows(), [])):
        with pytest.raises(SourceError, match="is empty"):
            HuggingFaceSource(data)


def test_what_is_of_hugging_face() -> None:
    assert all(map(HuggingFaceSource.matches, [rows(), rows().to_iterable_dataset(), Subset(rows(), [1])]))
    assert HuggingFaceSource.matches(datasets.DatasetDict())
    assert not any(map(HuggingFaceSource.matches, [[1], {}, None, TensorDataset(torch.zeros(1))]))
    code = "import sys, weighted_stream.sources.huggingface as h; h.HuggingFaceSource.matches([1]); "
    subprocess.run([sys.executable, "-c", code + "assert 'datasets' not in sys.modules"], check=True)


def test_a_stream_needs_a_key() -> None:
    with pytest.raises(SampleIdError, match=r"datasets\.IterableDataset have no id"):
        HuggingFaceSource(rows().to_iterable_dataset())
    with pytest.raises(SourceError, match="cannot reorder"):
        HuggingFaceSource(rows().to_iterable_dataset(), content_id).set_shuffle(1)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("view", ["plain", "shuffle", "map", "torch"])
def test_ids_of_a_stream(view: str, workers: int) -> None:
    stream = rows().to_iterable_dataset(num_shards=4)
    if view == "shuffle":
        stream = stream.shuffle(seed=1, buffer_size=10)
    elif view == "map":
        stream = stream.map(lambda row: {"text": row["uid"].upper()})
    elif view == "torch":
        stream = stream.with_format("torch")
    source = HuggingFaceSource(stream, Column("uid"))
    assert source.iterable
    for epoch in range(2):
        source.set_epoch(epoch)
        pairs = read_stream(source.dataset, num_workers=workers)
        assert all(number == key_id(f"key {int(row['marker'])}") for number, row in pairs)
        assert len({number for number, _ in pairs}) == len(pairs) == ROWS


def test_a_new_epoch_reaches_running_workers() -> None:
    stream = rows().to_iterable_dataset(num_shards=4).shuffle(seed=1, buffer_size=20)
    source = HuggingFaceSource(stream, Column("marker"))
    loader: Any = DataLoader(source.dataset, batch_size=None, num_workers=2, persistent_workers=True)
    orders = []
    for epoch in (0, 1, 0):
        source.set_epoch(epoch)
        orders.append([number for number, _ in loader])
    assert orders[0] == orders[2] != orders[1]


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
def test_a_stateful_loader_resumes_a_stream() -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader

    def make() -> Any:
        stream = rows().to_iterable_dataset(num_shards=4)
        dataset = HuggingFaceSource(stream, Column("marker")).dataset
        return stateful(dataset, batch_size=4, num_workers=2, collate_fn=as_it_is)

    whole = [[number for number, _ in batch] for batch in make()]
    loader = make()
    batches = iter(loader)
    begun = [[number for number, _ in next(batches)] for _ in range(3)]
    again = make()
    again.load_state_dict(loader.state_dict())
    assert begun + [[number for number, _ in batch] for batch in again] == whole
