"""Parts of map-style and Hugging Face datasets: what a loader delivers, in the order in which it does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from part_readers import pairs_of, read_elsewhere, read_parts
from torch.utils.data import Dataset, IterableDataset, Subset

from weighted_stream import Uniform, WeightedStream
from weighted_stream.errors import SampleIdError, SourceError
from weighted_stream.order import epoch_seed
from weighted_stream.sources import source_for
from weighted_stream.sources.base import Source
from weighted_stream.sources.keys import Column
from weighted_stream.sources.map_parts import BLOCK, blocks, loader_order
from weighted_stream.sources.torch import MapSource

SIZE = BLOCK + 904


class Records(Dataset[Any]):
    """Its samples are dicts; one of them cannot be read."""

    def __init__(self, size: int, bad: int = -1) -> None:
        self.size, self.bad = size, bad

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        if index == self.bad:
            raise OSError("no access to https://me:secret@host/x?token=abc")
        return {"marker": index, "uid": f"key {index}"}


class Endless(Dataset[Any]):
    """A map-style dataset without a length."""

    def __getitem__(self, index: int) -> Any:
        return index


class Stream(IterableDataset[Any]):
    """An iterable dataset."""

    def __iter__(self) -> Iterator[Any]:
        return iter([{"uid": 1}])


def delivered(stream: WeightedStream, workers: int, epochs: int) -> list[list[tuple[int, int]]]:
    """(id, marker) of each epoch, as a shuffling loader delivers them."""
    loader = stream.loader(batch_size=64, shuffle=True, seed=3, num_workers=workers)
    return [
        [pair for batch, weight in loader for pair in zip(weight.ids.tolist(), batch.tolist(), strict=True)]
        for _ in range(epochs)
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_parts_come_in_the_order_of_the_loader(workers: int) -> None:
    stream = WeightedStream(list(range(SIZE)), Uniform())
    source = MapSource(list(range(SIZE)))
    epochs = delivered(stream, workers, 2)
    assert epochs[0] != epochs[1]
    for epoch, pairs in enumerate(epochs):
        assert pairs_of(read_parts(source, epoch_seed(3, epoch))) == pairs


@given(size=st.integers(1, 3 * BLOCK), seed=st.integers(0, 2**63 - 1))
@settings(max_examples=30, deadline=None)
def test_blocks_are_the_order_in_pieces(size: int, seed: int) -> None:
    for shuffle_seed, order in ((None, np.arange(size)), (seed, loader_order(size, seed))):
        pieces = list(blocks(size, shuffle_seed))
        assert np.concatenate([indices for _, indices in pieces]).tolist() == order.tolist()
        assert sorted(order.tolist()) == list(range(size))
        assert all(len(indices) == BLOCK for _, indices in pieces[:-1])
        assert len({name for name, _ in pieces}) == len(pieces)


def test_parts_are_read_in_another_process_while_a_loader_reads() -> None:
    stream = WeightedStream(list(range(SIZE)), Uniform())
    source = MapSource(list(range(SIZE)))
    parts, (pairs,) = read_elsewhere(source, 0, epoch_seed(3, 0), lambda: delivered(stream, 2, 1))
    assert pairs_of(parts) == pairs
    assert [name for name, _ in parts] == ["shuffled rows 0 to 4095", "shuffled rows 4096 to 4999"]


@pytest.mark.parametrize("id_fn", [None, Column("uid")])
def test_ids_are_those_of_the_dataset(id_fn: Any) -> None:
    for data in (Records(50), Subset(Subset(Records(50), range(5, 45)), [3, -1, 7])):
        source = MapSource(data, id_fn)
        there = [(int(source.dataset[i][0]), source.dataset[i][1]["marker"]) for i in range(len(data))]
        (part,) = source.parts()
        assert (part.ids() is None) is (id_fn is not None)
        assert pairs_of(read_parts(source)) == there


def test_only_what_is_wanted_is_read() -> None:
    part = next(MapSource(Records(50, bad=7)).parts())
    wanted = np.zeros(50, bool)
    wanted[[3, 40]] = True
    assert [(number, sample["marker"]) for number, sample in part.read(wanted)] == [(3, 3), (40, 40)]
    assert list(part.read(np.zeros(50, bool))) == []


def test_a_sample_that_cannot_be_read_is_named_without_credentials() -> None:
    reading = next(MapSource(Records(50, bad=2)).parts()).read()
    assert [next(reading)[0], next(reading)[0]] == [0, 1]
    with pytest.raises(SourceError, match=r"sample 2 of this dataset \(rows 0 to 49\)") as caught:
        next(reading)
    assert "secret" not in str(caught.value)
    assert "token" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_id_fn_without_its_key_keeps_its_own_error() -> None:
    with pytest.raises(SampleIdError, match="no column 'id'"):
        list(next(MapSource(Records(5), Column("id")).parts()).read())


def test_parts_need_no_sample_before_they_are_read() -> None:
    assert [part.name for part in MapSource(Records(5, bad=0)).parts()] == ["rows 0 to 4"]


@pytest.mark.parametrize("source", [MapSource(Endless()), source_for(Stream(), "uid")])
def test_what_has_no_parts_says_so(source: Source) -> None:
    with pytest.raises(SourceError, match="ahead of the trainer"):
        source.parts()


datasets = pytest.importorskip("datasets")


def table(size: int = 600) -> Any:
    return datasets.Dataset.from_dict({"marker": list(range(size)), "uid": [f"key {i}" for i in range(size)]})


def variants(data: Any) -> dict[str, Any]:
    """What `datasets` and torch make of a dataset."""
    return {
        "as it is": data,
        "shuffled": data.shuffle(seed=1),
        "formatted": data.with_format("torch", columns=["marker"]),
        "transformed": data.with_transform(lambda batch: {"length": [len(x) for x in batch["uid"]]}),
        "subset": Subset(data.shuffle(seed=1), [5, 1, 300]),
    }


@pytest.mark.filterwarnings("ignore:Specifying null_placement:FutureWarning")
@pytest.mark.parametrize("variant", ["as it is", "shuffled", "formatted", "transformed", "subset"])
def test_hugging_face_rows_are_read_as_stored(variant: str) -> None:
    data = variants(table())[variant]
    source = source_for(data)
    ids = source.dataset.__getitems__(list(range(len(data))))[0]
    (part,) = source.parts()
    found = list(part.read())
    assert [number for number, _ in found] == list(ids)
    assert all(row == {"marker": number, "uid": f"key {number}"} for number, row in found)
    assert [number for number, _ in part.read(part.ids() % 7 == 3)] == [number for number in ids if number % 7 == 3]
    shuffled = pairs_of(read_parts(source, 5))
    assert shuffled == [(int(ids[i]), int(ids[i])) for i in loader_order(len(data), 5).tolist()]


def test_hugging_face_ids_by_function_are_those_of_the_samples_delivered() -> None:
    data = table(300).with_transform(lengthen)
    source = source_for(data, "long")
    (part,) = source.parts()
    assert part.ids() is None
    assert [number for number, _ in part.read()] == [source.dataset[i][0] for i in range(300)]
    assert next(part.read())[1] == {"marker": 0, "uid": "key 0"}


def lengthen(batch: Any) -> Any:
    return {"long": [f"{uid}!" for uid in batch["uid"]]}


def test_hugging_face_parts_are_read_in_another_process_while_a_loader_reads() -> None:
    data = table(5000)
    stream = WeightedStream(data.with_format("torch", columns=["marker"]), Uniform())
    loader = stream.loader(batch_size=64, shuffle=True, seed=3, num_workers=2)

    def here() -> list[tuple[int, int]]:
        return [
            pair for batch, weight in loader for pair in zip(weight.ids.tolist(), batch["marker"].tolist(), strict=True)
        ]

    parts, pairs = read_elsewhere(source_for(data), 0, epoch_seed(3, 0), here)
    assert pairs_of(parts) == pairs
    assert len(parts) == 2


def test_a_streamed_hugging_face_dataset_has_no_parts() -> None:
    with pytest.raises(SourceError, match="ahead of the trainer"):
        source_for(table().to_iterable_dataset(), "uid").parts()
