"""Groups: from the samples, through workers and loaders of all kinds, to the store and the strategy."""

from __future__ import annotations

import multiprocessing
import pickle
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset

from weighted_stream import (
    InfoBatch,
    ParquetDataset,
    SampleIdError,
    Signals,
    SourceError,
    StoreError,
    Strategy,
    Uniform,
    WeightedStream,
    WeightStore,
)
from weighted_stream.groups import GroupColumn, SampleGroups, group_name, groups_of
from weighted_stream.sample_ids import HASHED

NAMES = ["code", "text", "web"]
ROWS = [{"uid": n, "domain": NAMES[n % 3], "x": float(n)} for n in range(60)]


class Named(Strategy):
    """Weights of 1, and the names it saw at hand-over and at step time."""

    def __init__(self) -> None:
        self.seen: list[dict[int, str]] = []

    def weights(self, signals: Signals) -> torch.Tensor:
        numbers, names = signals.known("group"), signals.group_names()
        assert signals.history("group").tolist() == numbers.tolist()
        self.seen.append({i: names[n] for i, n in zip(signals.ids.tolist(), numbers.tolist(), strict=True)})
        return torch.ones(len(signals))


class Lines(IterableDataset[Any]):
    """Rows, shared out over workers."""

    def __iter__(self) -> Any:
        info = torch.utils.data.get_worker_info()
        return iter(ROWS if info is None else ROWS[info.id :: info.num_workers])


class Rows(Dataset[Any]):
    """Rows by index."""

    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, index: int) -> Any:
        return ROWS[index]


def first_words(sample: dict[str, Any]) -> str:
    return sample["domain"][:1]


def follow(stream: WeightedStream, loader: Any, look: bool = True) -> dict[int, str]:
    """One epoch: the names of all samples, checked to be the same for strategy and store, early and late."""
    found: dict[int, str] = {}
    strategy: Any = stream.strategy
    for batch, weight in loader:
        x = batch["x"] if isinstance(batch, dict) else batch
        if look:
            weight.tensor()
        weight.resolve(torch.as_tensor(x, dtype=torch.float32).reshape(-1) + 1)
        told = [strategy.seen.pop() for _ in range(1 + look)]
        assert all(told[0] == other for other in told)
        known = stream.store.get(weight.ids)["group"]
        assert told[0] == dict(zip(weight.ids.tolist(), [stream.store.groups[n] for n in known], strict=True))
        found |= told[0]
    return found


EXPECTED = {n: NAMES[n % 3] for n in range(60)}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["list", "map", "iterable", "DataLoader", "DataLoader of iterable", "one by one"])
def test_every_kind_of_dataset_and_loader(kind: str, workers: int) -> None:
    data: Any = {
        "list": ROWS,
        "map": Rows(),
        "iterable": Lines(),
        "DataLoader": DataLoader(Rows(), batch_size=7, num_workers=workers, shuffle=True),
        "DataLoader of iterable": DataLoader(Lines(), batch_size=7, num_workers=workers),
        "one by one": Rows(),
    }[kind]
    stream = WeightedStream(data, Named(), id_fn="uid", group_fn="domain")
    arguments: dict[str, Any] = {"batch_size": None if kind == "one by one" else 7, "num_workers": workers}
    loader = stream if "DataLoader" in kind else stream.loader(**arguments)
    for _ in range(2):
        assert follow(stream, loader) == EXPECTED
    assert sorted(stream.store.groups) == NAMES


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_of_ones_own(workers: int) -> None:
    stream = WeightedStream(Rows(), Named(), group_fn=first_words)
    assert follow(stream, DataLoader(stream, batch_size=7, num_workers=workers)) == {  # type: ignore[arg-type]
        n: name[0] for n, name in EXPECTED.items()
    }


def test_parts_and_slices_of_a_loader_of_ones_own() -> None:
    stream = WeightedStream(Rows(), Named(), group_fn="domain")
    ((_, weight),) = [next(iter(DataLoader(stream, batch_size=6)))]  # type: ignore[arg-type]
    again = pickle.loads(pickle.dumps(weight[2:5]))
    again.resolve(torch.ones(3))
    assert [stream.store.groups[n] for n in stream.store.get([2, 3, 4])["group"]] == ["web", "code", "text"]
    assert stream.store.get([0])["group"].tolist() == [-1]
    weight[:2].resolve(torch.ones(2))
    assert (stream.store.get(range(6))["group"] >= 0).all()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_parquet_also_in_whole_batches(tmp_path: Path, shuffle: bool, workers: int) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet", row_group_size=16)
    data = ParquetDataset(tmp_path, columns=["domain", "x"], shuffle=shuffle)
    stream = WeightedStream(data, Named(), group_fn="domain")
    names = follow(stream, stream.loader(batch_size=7, num_workers=workers))
    assert sorted(names.values()) == sorted(EXPECTED.values())
    missing = WeightedStream(ParquetDataset(tmp_path, columns=["x"]), Uniform(), group_fn="domain")
    with pytest.raises(SourceError, match=r"no column 'domain'[^\n]*\n[^\n]*\['x'\]"):
        next(iter(missing.loader(batch_size=7)))


@pytest.mark.parametrize("workers", [0, 2])
def test_hugging_face(workers: int) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(ROWS)
    stream = WeightedStream(data, Named(), group_fn="domain")
    assert follow(stream, stream.loader(batch_size=7, num_workers=workers, shuffle=True)) == EXPECTED
    streamed = WeightedStream(data.to_iterable_dataset(4), Named(), id_fn="uid", group_fn="domain")
    assert follow(streamed, streamed.loader(batch_size=7, num_workers=workers)) == EXPECTED


@pytest.mark.parametrize("workers", [0, 2])
def test_mosaicml_shards(tmp_path: Path, workers: int) -> None:
    streaming = pytest.importorskip("streaming")
    columns = {"uid": "int", "domain": "str", "x": "float64"}
    with streaming.MDSWriter(out=str(tmp_path), columns=columns, size_limit=1 << 9) as writer:
        for row in ROWS:
            writer.write(row)
    data = streaming.StreamingDataset(local=str(tmp_path), batch_size=7)
    stream = WeightedStream(data, Named(), id_fn="uid", group_fn="domain")
    loader = streaming.StreamingDataLoader(data, batch_size=7, num_workers=workers)
    assert follow(stream, stream.loader(batch_size=7, num_workers=workers)) == EXPECTED
    wrapped = WeightedStream(loader, Named(), id_fn="uid", group_fn="domain")
    assert follow(wrapped, wrapped.loader()) == EXPECTED


# webdataset leaves the tar files it reads to the garbage collector
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["samples", "batches", "WebLoader"])
def test_webdataset(tmp_path: Path, kind: str, workers: int) -> None:
    wds = pytest.importorskip("webdataset")
    for shard in range(2):
        with wds.TarWriter(str(tmp_path / f"{shard}.tar")) as writer:
            for row in ROWS[shard * 30 : shard * 30 + 30]:
                writer.write({"__key__": f"{row['uid']:03d}", "json": row})
    urls = [str(tmp_path / f"{shard}.tar") for shard in range(2)]
    samples = wds.WebDataset(urls, shardshuffle=False).decode().map(_json)
    names: dict[int, str] = {}
    if kind == "samples":
        stream = WeightedStream(samples, Named(), id_fn="uid", group_fn="domain")
        names = follow(stream, stream.loader(batch_size=7, num_workers=workers))
    elif kind == "batches":
        pipeline = samples.batched(7, collation_fn=_columns)
        stream = WeightedStream(pipeline, Named(), id_fn="uid", group_fn="domain")
        names = follow(stream, stream.loader(batch_size=None, num_workers=workers))
    else:
        rows = samples.map(_row).batched(5)
        loader = wds.WebLoader(rows, batch_size=None, num_workers=workers)
        loader = loader.unbatched().shuffle(20).batched(7)
        stream = WeightedStream(loader, Named(), id_fn=itemgetter(2), group_fn=itemgetter(1))
        names = follow(stream, ((batch[0], weight) for batch, weight in stream))
    assert names == EXPECTED


def _json(sample: dict[str, Any]) -> dict[str, Any]:
    return sample["json"]


def _row(sample: dict[str, Any]) -> tuple[Any, ...]:
    return sample["x"], sample["domain"], sample["uid"]


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "x": torch.tensor([row["x"] for row in rows]),
        "uid": [row["uid"] for row in rows],
        "domain": [row["domain"] for row in rows],
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_ids_inside_dicts(workers: int) -> None:
    strategy = Named()
    stream = WeightedStream(ROWS, strategy, group_fn="domain", as_dict=True)
    loader = stream.loader(batch_size=6, num_workers=workers, collate_fn=_backwards)
    for batch in loader:
        stream.weight(batch["sample_id"]).resolve(batch["x"])
        assert strategy.seen[-1] == {n: EXPECTED[n] for n in batch["sample_id"].tolist()}
        assert set(batch) == {"x", "sample_id"}
    with pytest.raises(SourceError, match="Groups do not travel"):
        stream[0]


def _backwards(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """A collate function that reorders, and drops the group's column."""
    return {key: torch.tensor([sample[key] for sample in samples[::-1]]) for key in ("x", "sample_id")}


def test_a_collate_function_that_takes_the_column_out() -> None:
    stream = WeightedStream([dict(row) for row in ROWS], Named(), group_fn="domain")
    loader = stream.loader(batch_size=6, collate_fn=lambda rows: [row.pop("domain") and row["x"] for row in rows])
    assert follow(stream, loader) == EXPECTED


def test_strategies_that_choose_know_groups() -> None:
    stream = WeightedStream(ROWS, InfoBatch(prune=True), group_fn="domain")
    for batch, weight in stream.loader(batch_size=10):
        known = stream.store.get(weight.ids)["group"]
        assert [stream.store.groups[n] for n in known] == batch["domain"]


def test_numbers_and_names_survive_a_restart(tmp_path: Path) -> None:
    with WeightedStream(ROWS[::-1], Named(), id_fn="uid", group_fn="domain", store=tmp_path / "s") as stream:
        follow(stream, stream.loader(batch_size=2))
        first, numbers = stream.store.groups, stream.store.get(range(60))["group"]
        reader = WeightStore(tmp_path / "s", mode="r")
        assert reader.groups == first == ("web", "text", "code")
        copy = pickle.loads(pickle.dumps(stream.store))
        assert copy.groups == first
        with pytest.raises(StoreError):
            reader.set_groups([1], ["code"])
    more = [*ROWS, {"uid": 60, "domain": "books", "x": 0.0}]
    with WeightedStream(more, Named(), id_fn="uid", group_fn="domain", store=tmp_path / "s") as stream:
        follow(stream, stream.loader(batch_size=61))
        assert stream.store.groups == (*first, "books")
        assert reader.groups == (*first, "books")
        assert stream.store.get(range(60))["group"].tolist() == numbers.tolist()


@pytest.mark.parametrize("journal", [False, True])
def test_names_are_part_of_a_stores_state(tmp_path: Path, journal: bool) -> None:
    path = tmp_path / "s" if journal else None
    store = WeightStore(path)
    store.set_groups([1, 2], ["b", "a"])
    state = store.state_dict()
    store.set_groups([1, 3], ["c", "a"])
    other = store if journal else WeightStore()
    if not journal:
        other.set_groups([9], ["z"])
    other.load_state_dict(state)
    assert [other.groups[n] for n in other.get([1, 2])["group"]] == ["b", "a"]
    assert other.get([3])["group"].tolist() == [-1]
    other.set_groups([3], ["new"])
    assert [other.groups[n] for n in other.get([2, 3])["group"]] == ["a", "new"]


def test_written_once_and_only_what_is_news(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = WeightedStream(ROWS, Named(), group_fn="domain")
    written: list[int] = []
    update = stream.store.update
    monkeypatch.setattr(stream.store, "update", lambda ids, **fields: (written.append(len(ids)), update(ids, **fields)))
    for _ in range(3):
        follow(stream, stream.loader(batch_size=10))
    assert written == [10] * 6


def test_without_group_fn_the_stores_own_groups_are_seen() -> None:
    store = WeightStore()
    store.set_groups(range(60), [row["domain"] for row in ROWS])
    stream = WeightedStream(ROWS, Named(), store=store)
    assert follow(stream, stream.loader(batch_size=10)) == EXPECTED


def test_too_many_groups() -> None:
    stream = WeightedStream(list(range(5000)), Uniform(), group_fn=str)
    with pytest.raises(StoreError, match="more than 4,096"):
        list(stream.loader(batch_size=1000))
    assert len(stream.store.groups) == 4000


@pytest.mark.parametrize(
    ("group_fn", "problem"),
    [
        ("nothing", r"no column 'nothing'[^\n]*\n[^\n]*\['domain', 'uid', 'x'\]"),
        (lambda sample: sample["nothing"], r"looked for a key[^\n]*\n[^\n]*'nothing'"),
        (lambda sample: None, "gave no group"),
        (lambda sample: sample["x"], "gave no group"),
        (lambda sample: True, "gave no group"),
    ],
)
def test_samples_without_a_group(group_fn: Any, problem: str) -> None:
    stream = WeightedStream(ROWS, Uniform(), group_fn=group_fn)
    with pytest.raises(SourceError, match=problem):
        list(stream.loader(batch_size=5))


def test_a_worker_says_what_is_missing() -> None:
    stream = WeightedStream(ROWS, Uniform(), group_fn="nothing")
    with pytest.raises(SourceError, match=r"no column 'nothing'[^\n]*\n[^\n]*\['domain', 'uid', 'x'\]"):
        list(stream.loader(batch_size=5, num_workers=1))


def test_what_group_fn_may_be() -> None:
    with pytest.raises(SourceError, match="does not say which group"):
        WeightedStream(ROWS, Uniform(), group_fn=3)  # type: ignore[arg-type]
    with pytest.raises(SourceError, match="a float, which has no columns"):
        next(iter(WeightedStream([1.0, 2.0], Uniform(), group_fn="domain").loader(batch_size=2)))
    with pytest.raises(SourceError, match="one group per sample"):
        groups_of(lambda batch: "code", [1, 2], {"x": 1}, own_batches=True)
    with pytest.raises(SourceError, match="one group per sample"):
        groups_of(lambda batch: ["code"], [1, 2], {"x": 1}, own_batches=True)


@given(st.lists(st.text() | st.integers(-(2**70), 2**70), min_size=1, max_size=8))
def test_numbers_are_small_and_equal_for_equal_names(values: list[str | int]) -> None:
    names = [group_name(value) for value in values]
    assert names == [str(value) for value in values]
    with WeightStore() as store:
        store.set_groups(range(len(names)), names)
        numbers = store.get(range(len(names)))["group"].tolist()
        assert [store.groups[n] for n in numbers] == names
        assert sorted(set(numbers)) == list(range(len(set(names))))
        store.set_groups([HASHED + n for n in range(len(names))], names[::-1])
        assert store.get([HASHED + n for n in range(len(names))])["group"].tolist() == numbers[::-1]


def test_groups_of_ids_that_are_none() -> None:
    with WeightStore() as store:
        store.set_groups([], [])
        with pytest.raises(StoreError, match="one per id"):
            store.set_groups([1, 2], ["a"])
        with pytest.raises(SampleIdError):
            store.set_groups([-1], ["a"])
        store.set_groups([4, 4, 5], ["a", "b", "b"])
        assert [store.groups[n] for n in store.get([4, 5])["group"]] == ["b", "b"]


def test_a_batch_sends_each_name_once() -> None:
    many = groups_of(GroupColumn("domain"), np.arange(600), [{"domain": "a" * 1000 + str(n % 2)} for n in range(600)])
    assert isinstance(many, SampleGroups)
    assert len(pickle.dumps(many)) < 600 * 12 + 4000


def test_spawned_workers_agree() -> None:
    stream = WeightedStream(Rows(), Named(), group_fn="domain")
    loader = stream.loader(batch_size=7, num_workers=2, multiprocessing_context=multiprocessing.get_context("spawn"))
    assert follow(stream, loader) == EXPECTED
