"""Whole batches of Parquet rows are the batches a bare loader makes, with the ids that single rows have."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader

from weighted_stream import ParquetDataset, Uniform, WeightedStream
from weighted_stream.sources.parquet import ParquetSource

ROWS = (130, 1, 64, 77)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    first = 0
    for number, rows in enumerate(ROWS):
        table = pa.table({"row": range(first, first + rows), "text": [f"{i}" for i in range(first, first + rows)]})
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=50)
        first += rows
    return tmp_path


def as_it_is(batch: Any) -> Any:
    return batch


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("size", [1, 7, 64, 500])
def test_batches_are_those_of_a_bare_loader(folder: Path, workers: int, drop_last: bool, size: int) -> None:
    options: dict[str, Any] = {"batch_size": size, "drop_last": drop_last, "collate_fn": as_it_is}
    options["num_workers"] = workers
    bare = DataLoader(ParquetDataset(folder, batch_rows=40), **options)
    ids = {row["row"]: number for number, row in ParquetSource(ParquetDataset(folder)).dataset}
    loader = WeightedStream(ParquetDataset(folder, batch_rows=40), Uniform()).loader(**options)
    batches = [(batch, weight.ids.tolist()) for batch, weight in loader]
    assert [batch for batch, _ in batches] == list(bare)
    assert [numbers for _, numbers in batches] == [[ids[row["row"]] for row in batch] for batch, _ in batches]
    assert len(loader) == len(bare)
    assert (loader.batch_size, loader.drop_last) == (size, drop_last)


def test_dict_samples_take_their_id_along(folder: Path) -> None:
    stream = WeightedStream(ParquetDataset(folder), Uniform(), as_dict=True)
    ids = {row["row"]: number for number, row in ParquetSource(ParquetDataset(folder)).dataset}
    for batch in stream.loader(batch_size=50):
        assert batch["sample_id"].tolist() == [ids[row] for row in batch["row"].tolist()]


@pytest.mark.parametrize("options", [{"id_fn": "row"}, {}])
def test_where_rows_come_one_by_one_nothing_else_changes(folder: Path, options: dict[str, Any]) -> None:
    stream = WeightedStream(ParquetDataset(folder), Uniform(), **options)
    loader = stream.loader(batch_size=50, shuffle=not options, collate_fn=as_it_is)
    assert loader.batch_size == 50
    assert sorted(row["row"] for batch, _ in loader for row in batch) == list(range(sum(ROWS)))


def test_a_batch_of_several_blocks_keeps_its_size(folder: Path) -> None:
    """An epoch taken twice: nothing is left over from the first."""
    loader = WeightedStream(ParquetDataset(folder, batch_rows=3), Uniform()).loader(batch_size=100)
    sizes = [len(weight) for _, weight in loader]
    assert sizes == [100, 100, 72]
    assert [len(weight) for _, weight in loader] == sizes


@pytest.mark.parametrize("size", [7, 50, 100])
def test_rows_are_kept_by_nobody_but_who_got_them(folder: Path, size: int) -> None:
    """So that what a batch leaves behind is memory for the next ones."""
    batches = ParquetSource(ParquetDataset(folder, batch_rows=40)).batches(size, drop_last=False)
    assert batches is not None
    sole: list[dict[str, Any]] = [{}]
    only_there = sys.getrefcount(sole[0])
    assert all(sys.getrefcount(rows[place]) == only_there for _, rows in batches for place in range(len(rows)))
