"""Parts of Parquet files: the row groups of this rank, in the order in which its readers take them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from part_readers import pairs_of, read_elsewhere, read_parts
from torch.utils.data import DataLoader

from weighted_stream.errors import SourceError
from weighted_stream.sources.ids import ROW_BITS, shard_id, shard_ids
from weighted_stream.sources.keys import Column
from weighted_stream.sources.parquet import ParquetDataset, ParquetSource

SIZES = {"a.parquet": 100, "b.parquet": 7, "c.parquet": 53}
ROWS = sum(SIZES.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Markers count through all files, in row groups of 16."""
    root, first = tmp_path_factory.mktemp("data"), 0
    for name, rows in SIZES.items():
        markers = list(range(first, first + rows))
        table = pa.table({"marker": markers, "uid": [f"key {m}" for m in markers], "other": markers})
        pq.write_table(table, root / name, row_group_size=16)
        first += rows
    return root


def as_it_is(batch: Any) -> Any:
    return batch


def delivered(source: ParquetSource, workers: int = 0) -> list[tuple[int, int]]:
    loader: Any = DataLoader(source.dataset, batch_size=8, num_workers=workers, collate_fn=as_it_is)
    return [(number, row["marker"]) for batch in loader for number, row in batch]


def test_parts_are_read_in_another_process_while_a_loader_reads(folder: Path) -> None:
    source = ParquetSource(ParquetDataset(folder, columns=["marker"], shuffle=True))
    source.set_epoch(1)
    parts, pairs = read_elsewhere(source, 0, meanwhile=lambda: delivered(source, 2))
    assert sorted(pairs_of(parts)) == sorted(pairs)
    assert len(pairs) == ROWS
    assert source.dataset.epoch == 1  # in memory that the processes share
    assert parts != read_parts(source)
    source.set_epoch(0)
    assert parts == read_parts(source)


@given(
    world=st.integers(1, 3),
    workers=st.integers(0, 4),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
    keyed=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_the_ranks_have_all_rows_between_them(
    folder: Path, world: int, workers: int, epoch: int, shuffle: bool, keyed: bool
) -> None:
    everything: list[tuple[int, int]] = []
    for rank in range(world):
        data = ParquetDataset(folder, shuffle=shuffle, batch_rows=5, replica=(rank, world))
        source = ParquetSource(data, Column("uid") if keyed else None)
        source.workers = workers
        source.set_epoch(epoch)
        pairs = pairs_of(read_parts(source))
        assert sorted(pairs) == sorted(delivered(source))
        everything += pairs
    assert sorted(marker for _, marker in everything) == list(range(ROWS))


def test_without_a_buffer_the_parts_are_in_the_order_of_the_reader(folder: Path) -> None:
    source = ParquetSource(ParquetDataset(folder, shuffle=True, buffer_size=1))
    for epoch in range(3):
        source.set_epoch(epoch)
        assert pairs_of(read_parts(source)) == delivered(source)


def test_parts_are_taken_from_the_runs_of_all_workers(folder: Path) -> None:
    source = ParquetSource(ParquetDataset(folder))
    source.workers = 2
    firsts = [pairs[0][1] for _, pairs in read_parts(source)]
    assert firsts[:5] == [0, 80, 16, 96, 100]  # a run begins at 0, the other at 80 of 160


def test_a_part_is_named_by_its_file_and_row_group(folder: Path) -> None:
    names = [part.name for part in ParquetSource(ParquetDataset(folder, replica=(1, 2))).parts()]
    assert names[:2] == ["a.parquet (row group 5)", "a.parquet (row group 6)"]
    names = [part.name for part in ParquetSource(ParquetDataset(folder, replica=(0, 3))).parts()]
    assert names[-1] == "a.parquet (row group 3, rows 0 to 4)"


@given(mask=st.lists(st.booleans(), min_size=16, max_size=16), batch_rows=st.sampled_from([1, 3, 16, 100]))
@settings(max_examples=30, deadline=None)
def test_only_what_is_wanted_is_read(folder: Path, mask: list[bool], batch_rows: int) -> None:
    part = list(ParquetSource(ParquetDataset(folder, batch_rows=batch_rows)).parts())[1]
    wanted = [(number, row["marker"]) for number, row in part.read(np.array(mask))]
    everything = [(number, row["marker"]) for number, row in part.read()]
    assert wanted == [pair for pair, want in zip(everything, mask, strict=True) if want]


def test_rows_have_the_columns_of_the_dataset(folder: Path) -> None:
    part = next(ParquetSource(ParquetDataset(folder, columns=["other", "marker"])).parts())
    assert next(part.read())[1] == {"other": 0, "marker": 0}


def test_a_damaged_row_group_is_named_and_what_was_read_stands(tmp_path: Path) -> None:
    table = pa.table({"text": [f"{i:02}" * 50 for i in range(64)]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=32, compression="none", use_dictionary=False, write_page_checksum=True)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"40" * 50)] ^= 1
    path.write_bytes(raw)
    good, bad = ParquetSource(ParquetDataset(path)).parts()
    assert len(list(good.read())) == 32
    with pytest.raises(SourceError, match=r"a\.parquet \(row group 1\)"):
        list(bad.read())
    path.unlink()
    with pytest.raises(SourceError, match=r"a\.parquet"):
        list(good.read())


def test_a_copy_leaves_the_epoch_of_the_trainer_alone(folder: Path) -> None:
    source = ParquetSource(ParquetDataset(folder, shuffle=True))
    source.set_epoch(3)
    copy = pickle.loads(pickle.dumps(source))
    before = read_parts(copy)
    assert before == read_parts(source)
    copy.set_epoch(0)
    assert source.dataset.epoch == 3
    assert read_parts(copy) != before


def test_a_copy_knows_its_rank(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    pickled = pickle.dumps(ParquetSource(ParquetDataset(folder)))
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert min(marker for _, marker in pairs_of(read_parts(pickle.loads(pickled)))) == ROWS // 2


@given(start=st.integers(0, 3 << ROW_BITS), count=st.integers(0, 50))
def test_ids_in_bulk_are_those_of_single_rows(start: int, count: int) -> None:
    rows = np.arange(start, start + count)
    assert shard_ids("x", rows).tolist() == [shard_id("x", row) for row in rows.tolist()]


def test_no_file_stays_open(folder: Path) -> None:
    reading = next(ParquetSource(ParquetDataset(folder)).parts()).read()
    next(reading)
    before = len(os.listdir("/proc/self/fd"))
    reading.close()
    del reading
    assert len(os.listdir("/proc/self/fd")) < before


def test_the_corpus_is_what_all_ranks_read(folder: Path) -> None:
    source = pickle.loads(pickle.dumps(ParquetSource(ParquetDataset(folder, replica=(1, 3)))))
    everything = ParquetSource(ParquetDataset(folder))
    found = [pair for part in source.corpus() for pair in part.read()]
    assert found == [pair for part in everything.parts() for pair in part.read()]
    assert len(found) > sum(len(list(part.read())) for part in source.parts())
