"""A store as a whole: in chunks, and as a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow.parquet as pq
import pytest
from store_model import DENSE, OTHERS, Model, assert_same

from weighted_stream import WeightStore
from weighted_stream.errors import StoreError

Filled: TypeAlias = tuple[WeightStore, Model]


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    model = Model()
    with WeightStore(tmp_path / "store") as store:
        for target in (store, model):
            target.update(DENSE + OTHERS, loss=[float(k) for k in range(16)], step=3)
            target.update(DENSE[:2], similarity=[0.25, 0.5])
            target.update(OTHERS[:2], weight=[1.5, 0.5], group=[4, 0])
            target.update([12345], loss=[float("nan")])
        yield store, model


def test_iteration_gives_every_sample_once(filled: Filled) -> None:
    store, model = filled
    pieces = list(store)
    ids = np.concatenate([piece for piece, _ in pieces])
    assert sorted(ids.tolist()) == sorted(model.samples)
    assert len(store) == ids.size
    assert_same(pieces[0][1], model.get(pieces[0][0].tolist()))


def test_dense_ids_come_first_and_ascend(filled: Filled) -> None:
    store, _ = filled
    ids = np.concatenate(list(store.ids()))[: len(DENSE) + 1]
    assert ids.tolist() == sorted([*DENSE, 12345])


@pytest.mark.parametrize("size", [1, 5, 17, 10**6])
def test_chunks_are_as_large_as_asked(filled: Filled, size: int) -> None:
    store, _ = filled
    sizes = [len(ids) for ids in store.ids(size)]
    assert sum(sizes) == 17
    assert all(n == size for n in sizes[:-1])


def test_no_chunks_of_nothing(filled: Filled) -> None:
    store, _ = filled
    with pytest.raises(StoreError, match="size=0"):
        store.ids(0)
    with WeightStore() as empty:
        assert list(empty) == []


def test_parquet_round_trip(filled: Filled, tmp_path: Path) -> None:
    store, model = filled
    file = tmp_path / "weights.parquet"
    assert store.to_parquet(file) == 17
    table = pq.read_table(file)
    assert table.column_names == [
        *("id", "loss", "last_loss", "weight", "similarity"),
        *("visits", "last_step", "group", "nonfinite"),
    ]
    rows = {row.pop("id"): row for row in table.to_pylist()}
    assert rows.keys() == model.samples.keys()
    assert rows[12345] == {
        "loss": None,
        "last_loss": None,
        "weight": None,
        "similarity": None,
        "visits": 0,
        "last_step": None,
        "group": None,
        "nonfinite": 1,
    }
    for sample_id, row in rows.items():
        expected = {name: column[0] for name, column in model.get([sample_id]).items()}
        for name, value in row.items():
            assert (
                (value == expected[name]) if value is not None else (np.isnan(expected[name]) or expected[name] == -1)
            )
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["weights.parquet"]


def test_parquet_of_an_empty_store(tmp_path: Path) -> None:
    with WeightStore() as store:
        assert store.to_parquet(tmp_path / "none.parquet") == 0
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0


def test_parquet_where_nothing_can_be_written(filled: Filled, tmp_path: Path) -> None:
    store, _ = filled
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="Cannot write"):
        store.to_parquet(tmp_path / "file" / "weights.parquet")
