"""Torch datasets: the ids match the marker inside each sample, however it is read."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    get_worker_info,
    random_split,
)

from weighted_stream.errors import SampleIdError, SourceError
from weighted_stream.sources.ids import content_id, key_id
from weighted_stream.sources.torch import Column, IterableSource, MapSource

ROWS = 37
WORKERS = [(0, None), (2, "fork"), (1, "spawn")]


class Squares(Dataset[dict[str, Any]]):
    """Sample i is marked i; ``uid`` is a key of its own."""

    colour = "red"

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"marker": index, "uid": 1000 - index, "square": index**2}


class Batched(Squares):
    """Reads batches at once."""

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [{"marker": i, "together": len(indices)} for i in indices]


class Stream(IterableDataset[dict[str, Any]]):
    """Splits itself over workers, remembers where it is, and knows its epoch."""

    def __init__(self) -> None:
        self.position, self.epoch = 0, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return ROWS

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        part, parts = (worker.id, worker.num_workers) if worker else (0, 1)
        for i in range(part, ROWS, parts):
            if i >= self.position:
                self.position = i + 1
                yield {"marker": i, "uid": f"key {i}"}
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


class Endless(IterableDataset[dict[str, Any]]):
    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield {"uid": 1}
        yield {"name": 2}


def as_it_is(batch: Any) -> Any:
    return batch


def read_map(data: Any, id_fn: Any = None, **loader: Any) -> tuple[list[int], list[Any]]:
    """Ids and samples of an epoch."""
    dataset = MapSource(data, id_fn).dataset
    ids, samples = [], []
    for some_ids, some in DataLoader(dataset, batch_size=5, collate_fn=as_it_is, **loader):
        ids += map(int, some_ids)
        samples += some
    return ids, samples


def context(method: str | None) -> Any:
    return None if method is None else multiprocessing.get_context(method)


@pytest.mark.parametrize(("workers", "method"), WORKERS)
def test_the_id_is_the_index_for_every_worker_count(workers: int, method: str | None) -> None:
    ids, samples = read_map(Squares(), shuffle=True, num_workers=workers, multiprocessing_context=context(method))
    assert ids == [sample["marker"] for sample in samples]
    assert sorted(ids) == list(range(ROWS))


@pytest.mark.parametrize(
    "data", [list(range(ROWS)), tuple(range(ROWS)), range(ROWS), np.arange(ROWS), torch.arange(ROWS)]
)
def test_plain_sequences(data: Any) -> None:
    assert MapSource.matches(data)
    ids, samples = read_map(data, shuffle=True)
    assert ids == [int(sample) for sample in samples]


def test_ids_are_the_same_in_each_epoch_and_for_a_fresh_object() -> None:
    marks = [
        {sample["square"]: number for number, sample in zip(*read_map(Squares(), shuffle=True), strict=True)}
        for _ in range(3)
    ]
    assert marks[0] == marks[1] == marks[2]


@pytest.mark.parametrize("world", [1, 3])
def test_ranks_share_the_ids(world: int) -> None:
    ids = []
    for rank in range(world):
        sampler: DistributedSampler[Any] = DistributedSampler(Squares(), world, rank, drop_last=True)
        some, samples = read_map(Squares(), sampler=sampler)
        assert some == [sample["marker"] for sample in samples]
        ids += list(some)
    assert len(set(ids)) == len(ids) == ROWS // world * world


def test_a_part_keeps_the_ids_of_the_whole() -> None:
    whole = Squares()
    parts = random_split(whole, [10, 27], generator=torch.Generator().manual_seed(1))
    ids = []
    for part in [Subset(parts[0], [3, 1, -1]), Subset(parts[0], range(5, 8)), parts[1]]:
        some, samples = read_map(part)
        assert some == [sample["marker"] for sample in samples]
        ids += list(some)
    assert len(set(ids)) == 3 + 3 + 27
    assert MapSource(parts[0]).fingerprint() == MapSource(whole).fingerprint()


@pytest.mark.parametrize("indices", [np.array([5, 2]), torch.tensor([5, 2]), (5, 2), [np.int64(5), torch.tensor(2)]])
def test_a_part_may_name_its_rows_in_any_way(indices: Any) -> None:
    assert read_map(Subset(Squares(), indices))[0] == [5, 2]


def test_a_part_named_by_keys_is_refused() -> None:
    with pytest.raises(SourceError, match="no integers"):
        MapSource(Subset(Squares(), ["a"]))  # type: ignore[list-item]


def test_one_sample() -> None:
    dataset = MapSource(Squares()).dataset
    assert dataset[3] == (3, Squares()[3])
    assert MapSource(list("abc")).dataset[-1] == (2, "c")
    ids, samples = MapSource(list("abc")).dataset.__getitems__([-1, 0])
    assert list(ids) == [2, 0]
    assert samples == ["c", "a"]
    with pytest.raises(IndexError):
        MapSource(list("abc")).dataset[3]


def test_a_sampler_of_batches() -> None:
    dataset = MapSource(TensorDataset(torch.arange(ROWS))).dataset
    sampler = BatchSampler(RandomSampler(range(ROWS)), 8, drop_last=False)
    ids: list[int] = []
    for some, (batch,) in DataLoader(dataset, sampler=sampler, batch_size=None, collate_fn=as_it_is):
        assert list(some) == batch.tolist()
        ids += list(some)
    assert sorted(ids) == list(range(ROWS))


def test_a_sampler_of_batches_with_id_fn_sees_the_batch() -> None:
    class Table(Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: Any) -> dict[str, Any]:
            return {"uid": torch.arange(10, 14)[index]}

    assert MapSource(Table(), Column("uid")).dataset[[2, 0]][0] == [12, 10]
    with pytest.raises(SampleIdError, match="a sequence of 2 ids"):
        MapSource(Table(), lambda batch: 3).dataset[[2, 0]]


def test_batches_come_from_the_datasets_own_getitems() -> None:
    ids, samples = read_map(Batched())
    assert ids == [sample["marker"] for sample in samples]
    assert {sample["together"] for sample in samples} == {5, 2}


@pytest.mark.parametrize("indices", [np.array([4, 2, 7]), list(np.array([4, 2, 7])), list(torch.tensor([4, 2, 7]))])
def test_indices_of_any_integer_type(indices: Any) -> None:
    ids, _ = MapSource(list(range(10))).dataset.__getitems__(indices)
    assert list(ids) == [4, 2, 7]
    assert type(MapSource(list(range(10))).dataset[indices[0]][0]) is int


def test_a_sampler_of_string_keys() -> None:
    class Named(Dataset[str]):
        def __getitem__(self, name: str) -> str:
            return name.upper()

    ids, samples = read_map(Named(), sampler=["a", "b"])
    assert (ids, samples) == ([key_id("a"), key_id("b")], ["A", "B"])
    assert MapSource(Named()).fingerprint().size is None


def test_ids_by_column_and_by_function() -> None:
    ids, samples = read_map(Squares(), Column("uid"), shuffle=True, num_workers=2)
    assert ids == [1000 - sample["marker"] for sample in samples]
    ids, samples = read_map(Squares(), lambda sample: f"key {sample['marker']}")
    assert ids == [key_id(f"key {sample['marker']}") for sample in samples]
    ids, samples = read_map(Squares(), content_id)
    assert ids == [content_id(sample) for sample in samples]


def test_two_samples_of_one_id_are_refused_by_both_indices() -> None:
    data = MapSource(Squares(), lambda sample: sample["marker"] // 2).dataset
    with pytest.raises(SampleIdError, match="id 2 for index 4 and for index 5"):
        data.__getitems__([1, 4, 5])


def test_one_row_may_be_drawn_twice() -> None:
    upsampled = Subset(Squares(), [3, 3, 1])
    assert MapSource(upsampled, Column("uid")).dataset.__getitems__([0, 1, 2])[0] == [997, 997, 999]
    assert list(MapSource(upsampled).dataset.__getitems__([0, 1, 2])[0]) == [3, 3, 1]


@pytest.mark.parametrize(
    ("id_fn", "said"),
    [
        (Column("name"), r"found:    columns \['marker', 'square', 'uid'\], in sample 7"),
        (lambda sample: sample["name"], "no key 'name' in sample 7"),
        (lambda sample: -sample["marker"], "-7 .*in sample 7"),
        (lambda sample: None, "None .*in sample 7"),
    ],
)
def test_a_sample_without_id_is_named(id_fn: Any, said: str) -> None:
    with pytest.raises(SampleIdError, match=said):
        MapSource(Squares(), id_fn).dataset.__getitems__([7, 8])


def test_a_column_of_what_has_none() -> None:
    with pytest.raises(SampleIdError, match="a tuple, which has no columns"):
        Column("uid")((1, 2))
    assert repr(pickle.loads(pickle.dumps(Column("uid")))) == "Column('uid')"


@pytest.mark.parametrize("data", [Squares(), Stream()])
def test_the_wrapper_passes_for_the_dataset(data: Any) -> None:
    source: Any = MapSource(data) if isinstance(data, Squares) else IterableSource(data, Column("marker"))
    data.note = "mine"
    for dataset in (
        source.dataset,
        pickle.loads(pickle.dumps(source.dataset)),
        copy.deepcopy(source.dataset),
    ):
        assert dataset.note == "mine"
        assert len(dataset) == ROWS
        assert next(iter(dataset))[0] == 0
        assert not hasattr(dataset, "nothing")
        with pytest.raises(AttributeError):
            dataset._nothing  # noqa: B018


def test_an_epoch_reaches_the_dataset() -> None:
    class Curriculum(Squares):
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    for data, source in (
        (c := Curriculum(), MapSource(c)),
        (s := Stream(), IterableSource(s, Column("uid"))),
    ):
        source.set_epoch(3)
        assert data.epoch == 3
    MapSource([1]).set_epoch(1)
    MapSource([1]).set_shuffle(1)


@pytest.mark.parametrize("data", [[], (), np.zeros(0), TensorDataset(torch.zeros(0)), Subset(Squares(), [])])
def test_an_empty_dataset_is_refused(data: Any) -> None:
    with pytest.raises(SourceError, match="is empty"):
        MapSource(data)


@pytest.mark.parametrize("data", ["text", b"text", {"a": 1}, {1}, 3, None, Stream(), (i for i in range(3))])
def test_what_is_not_read_by_index(data: Any) -> None:
    assert not MapSource.matches(data)


def test_what_is_read_in_order() -> None:
    assert IterableSource.matches(Stream())
    assert not IterableSource.matches(Squares())
    assert IterableSource(Stream(), Column("uid")).iterable
    assert not MapSource(Squares()).iterable


def test_fingerprints() -> None:
    plain, keyed = MapSource(Squares()).fingerprint(), MapSource(Squares(), Column("uid")).fingerprint()
    assert (plain.kind, plain.name, plain.size) == ("torch-map", "Squares", ROWS)
    assert (keyed.name, keyed.size) == ("Squares by column 'uid'", None)
    assert plain.conflict(keyed)
    assert plain.conflict(MapSource(ConcatDataset([Squares()])).fingerprint())
    stream = IterableSource(Stream(), content_id).fingerprint()
    assert (stream.kind, stream.name) == ("torch-iterable", "Stream by id_fn")


def test_a_stream_needs_a_key() -> None:
    with pytest.raises(SampleIdError, match=r"a column name, a function .*, or content_id"):
        IterableSource(Stream())


@pytest.mark.parametrize(("workers", "method"), WORKERS)
def test_ids_of_a_stream(workers: int, method: str | None) -> None:
    dataset = IterableSource(Stream(), Column("uid")).dataset
    loader: Any = DataLoader(
        dataset,
        batch_size=4,
        collate_fn=as_it_is,
        num_workers=workers,
        multiprocessing_context=context(method),
    )
    for _ in range(1 if method == "spawn" else 2):
        pairs = [pair for batch in loader for pair in batch]
        assert all(number == key_id(f"key {sample['marker']}") for number, sample in pairs)
        assert sorted(sample["marker"] for _, sample in pairs) == list(range(ROWS))


def test_a_stream_sample_without_id_is_named() -> None:
    for id_fn, said in (
        (Column("uid"), r"columns \['name'\], in sample 1"),
        (lambda s: s["uid"], "'uid' in sample 1"),
    ):
        with pytest.raises(SampleIdError, match=said):
            list(iter(IterableSource(Endless(), id_fn).dataset))


def test_a_stream_keeps_its_lack_of_a_length() -> None:
    with pytest.raises(TypeError, match="Endless"):
        len(IterableSource(Endless(), Column("uid")).dataset)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_loader_resumes_a_stream(workers: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader

    def make() -> Any:
        dataset = IterableSource(Stream(), Column("marker")).dataset
        return stateful(dataset, batch_size=4, num_workers=workers, collate_fn=as_it_is)

    whole = [[number for number, _ in batch] for batch in make()]
    loader = make()
    batches = iter(loader)
    begun = [[number for number, _ in next(batches)] for _ in range(3)]
    state = loader.state_dict()
    again = make()
    again.load_state_dict(state)
    assert begun + [[number for number, _ in batch] for batch in again] == whole


def test_an_iterator_with_a_state_keeps_it() -> None:
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        def __iter__(self) -> Counter:
            return self

        def __next__(self) -> dict[str, int]:
            if self.count == 5:
                raise StopIteration
            self.count += 1
            return {"uid": self.count}

        def state_dict(self) -> int:
            return self.count

        def load_state_dict(self, state: int) -> None:
            self.count = state

    class Counting(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return Counter()

    dataset = IterableSource(Counting(), Column("uid")).dataset
    items: Any = iter(dataset)
    assert [next(items)[0], next(items)[0]] == [1, 2]
    again: Any = iter(dataset)
    again.load_state_dict(items.state_dict())
    assert [number for number, _ in again] == [3, 4, 5]
