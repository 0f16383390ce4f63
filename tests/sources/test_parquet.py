"""Parquet: every row once, by whom and in what order ever, under an id that matches its marker."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.data import DataLoader

from weighted_stream.errors import SampleIdError, SourceError
from weighted_stream.sources.ids import key_id, shard_id
from weighted_stream.sources.keys import Column
from weighted_stream.sources.parquet import ParquetDataset, ParquetSource, row_ids

# Rows per file, in row groups of 16: uneven, and one file smaller than a group.
SIZES = {"a.parquet": 100, "b.parquet": 7, "c.parquet": 53}
ROWS = sum(SIZES.values())
SCHEMA = pa.schema({"marker": pa.string(), "uid": pa.int64(), "tokens": pa.list_(pa.int64())})


def write(path: Path, rows: int, **options: Any) -> None:
    """A file whose rows are marked ``name:row``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "marker": [f"{path.name}:{row}" for row in range(rows)],
            "uid": [key_id(path.name) + row for row in range(rows)],
            "tokens": [[row, row + 1] for row in range(rows)],
        },
        schema=SCHEMA,
    )
    pq.write_table(table, path, row_group_size=16, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, rows in SIZES.items():
        write(tmp_path / "data" / name, rows)
    return tmp_path / "data"


def as_it_is(batch: Any) -> Any:
    return batch


def read(dataset: Any, workers: int = 0, method: str | None = None) -> dict[str, int]:
    """Id per marker of an epoch, in order; a row that comes twice is an error."""
    context = None if method is None else multiprocessing.get_context(method)
    loader: Any = DataLoader(
        dataset, batch_size=8, collate_fn=as_it_is, num_workers=workers, multiprocessing_context=context
    )
    found: dict[str, int] = {}
    for number, row in chain.from_iterable(loader):
        assert row["marker"] not in found
        found[row["marker"]] = number
    return found


def expected(sizes: dict[str, int] = SIZES, below: str = "") -> dict[str, int]:
    return {f"{name}:{row}": shard_id(below + name, row) for name, rows in sizes.items() for row in range(rows)}


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("workers", "method"), [(0, None), (2, "fork")])
@pytest.mark.parametrize("world", [1, 3, 20])
def test_every_row_once_with_its_id(folder: Path, world: int, workers: int, method: str | None, shuffle: bool) -> None:
    found: dict[str, int] = {}
    for rank in range(world if workers == 0 or world < 20 else 2):
        data = ParquetDataset(folder, shuffle=shuffle, seed=1, buffer_size=20, batch_rows=5, replica=(rank, world))
        some = read(ParquetSource(data).dataset, workers, method)
        assert len(some) == len(data)
        assert not found.keys() & some.keys()
        found |= some
    if len(found) == ROWS:
        assert found == expected()
    else:
        assert found.items() <= expected().items()


def test_the_order_without_shuffling_is_that_of_the_files(folder: Path) -> None:
    assert list(read(ParquetSource(ParquetDataset(folder)).dataset)) == list(expected())
    rows = list(ParquetDataset(folder, batch_rows=3))
    assert [row["marker"] for row in rows] == list(expected())
    assert rows[101] == {"marker": "b.parquet:1", "uid": key_id("b.parquet") + 1, "tokens": [1, 2]}


def test_ids_stay_when_the_data_moves_grows_or_is_named_otherwise(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "deep"
    shutil.copytree(folder, moved)
    scattered: list[Any] = [moved / "c.parquet", str(moved / "a.parquet"), moved / "b.parquet"]
    for paths in ([str(folder)], folder / "*.parquet", scattered):
        source = ParquetSource(ParquetDataset(paths))
        assert read(source.dataset) == expected()
        assert source.fingerprint() == ParquetSource(ParquetDataset(folder)).fingerprint()
    before = ParquetSource(ParquetDataset(folder)).fingerprint()
    write(moved / "aa.parquet", 30)
    source = ParquetSource(ParquetDataset(moved, shuffle=True))
    assert read(source.dataset) == expected(SIZES | {"aa.parquet": 30})
    assert before.conflict(source.fingerprint()) is None
    write(moved / "a.parquet", 90)
    conflict = before.conflict(ParquetSource(ParquetDataset(moved)).fingerprint())
    assert conflict is not None
    assert "'a.parquet' has size 90 instead of 100" in conflict


def test_files_below_a_folder_are_named_by_their_path(tmp_path: Path) -> None:
    for name in (
        "en/0.parquet",
        "de/0.parquet",
        "_tmp/0.parquet",
        ".old/0.parquet",
        "de/_0.parquet",
        "de/0.txt",
    ):
        write(tmp_path / name, 3)
    for paths in (tmp_path, tmp_path / "*" / "0.parquet", tmp_path / "**" / "*.parquet"):
        data = ParquetDataset(paths)
        assert data.files.keys == ("de/0.parquet", "en/0.parquet")
        ids = [number for number, _ in ParquetSource(data).dataset]
        assert ids == [shard_id(name, row) for name in data.files.keys for row in range(3)]
    with pytest.raises(SourceError, match=r"named '0\.parquet'"):
        ParquetDataset([tmp_path / "en" / "0.parquet", tmp_path / "de" / "0.parquet"])
    with pytest.raises(SourceError, match="each file once"):
        ParquetDataset([tmp_path / "en", tmp_path / "en" / "0.parquet"])


def test_a_path_relative_to_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for paths in (".", "*.parquet", "./*.parquet", "../data/*.parquet"):
        assert ParquetDataset(paths).files.keys == tuple(SIZES)
    assert ParquetDataset(["b.parquet", "./a.parquet", "c.parquet"]).files.keys == tuple(SIZES)


def test_the_shuffle_is_made_of_seed_epoch_and_reader(folder: Path) -> None:
    def order(seed: int, epoch: int, replica: tuple[int, int] = (0, 1), buffer_size: int = 50) -> list[str]:
        data = ParquetDataset(folder, shuffle=True, seed=seed, replica=replica, buffer_size=buffer_size)
        data.set_epoch(epoch)
        return [row["marker"] for row in data]

    assert order(1, 0) == order(1, 0)
    orders = [order(1, 0), order(1, 1), order(2, 0), order(2, 1), order(1, 0, buffer_size=1)]
    assert all(sorted(one) == sorted(expected()) for one in orders)
    assert len({tuple(one) for one in orders}) == 5
    halves = [set(order(1, 0, (rank, 2))) for rank in range(2)]
    assert halves[0] | halves[1] == set(expected())
    assert halves[0] != set(order(1, 1, (0, 2)))


def test_shuffling_spreads_rows(folder: Path) -> None:
    source = ParquetSource(data := ParquetDataset(folder))
    source.set_shuffle(4)
    shuffled = list(read(source.dataset))
    assert abs(np.corrcoef([list(expected()).index(marker) for marker in shuffled], range(ROWS))[0, 1]) < 0.5
    assert [row["marker"] for row in data] == list(expected()), "the user's dataset is as it was"
    direct = ParquetDataset(folder, shuffle=True, seed=4)
    assert [row["marker"] for row in direct] == shuffled


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_new_epoch_reaches_running_workers(folder: Path, method: str) -> None:
    source = ParquetSource(pickle.loads(pickle.dumps(ParquetDataset(folder, shuffle=True))))
    loader: Any = DataLoader(
        source.dataset,
        batch_size=None,
        num_workers=2 if method == "fork" else 1,
        persistent_workers=True,
        multiprocessing_context=multiprocessing.get_context(method),
    )
    orders = []
    for epoch in (0, 1, 0):
        source.set_epoch(epoch)
        pairs = list(loader)
        assert {row["marker"]: number for number, row in pairs} == expected()
        orders.append([number for number, _ in pairs])
    assert orders[0] == orders[2] != orders[1]


def test_the_length_is_that_of_the_rank(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ParquetDataset(folder)
    assert len(data) == len(ParquetSource(data).dataset) == ROWS
    monkeypatch.setenv("WORLD_SIZE", "3")
    lengths = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        # torch warns, here an error, if a loader yields more than the length it was told.
        loader: Any = DataLoader(data, batch_size=None, num_workers=2)
        assert len(list(loader)) == len(loader) == len(data)
        lengths.append(len(data))
    assert sum(lengths) == ROWS
    assert max(lengths) - min(lengths) <= 1
    assert ParquetDataset(folder, replica=(0, 1)).replica == (0, 1)


def test_spawned_workers_know_the_rank_of_their_parent(folder: Path) -> None:
    dist.init_process_group("fake", rank=1, world_size=3, store=FakeStore())
    try:
        data = ParquetDataset(folder)
        context = multiprocessing.get_context("spawn")
        loader: Any = DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context=context)
        assert [row["marker"] for row in loader] == list(expected())[ROWS // 3 : ROWS * 2 // 3]
    finally:
        dist.destroy_process_group()
    assert data.replica == (0, 1)


def test_columns(folder: Path) -> None:
    rows = list(ParquetDataset(folder, columns=["tokens", "marker"]))
    assert [list(row) for row in rows] == [["tokens", "marker"]] * ROWS
    assert list(ParquetDataset(folder, columns="uid"))[3] == {"uid": key_id("a.parquet") + 3}
    narrow, wide = (ParquetSource(ParquetDataset(folder, columns=c)) for c in (["marker"], None))
    assert read(narrow.dataset) == read(wide.dataset)
    assert narrow.fingerprint() == wide.fingerprint()


def test_only_chosen_columns_must_agree(folder: Path) -> None:
    pq.write_table(pa.table({"marker": ["d.parquet:0"], "uid": ["text"]}), folder / "d.parquet")
    assert len(list(ParquetDataset(folder, columns=["marker"]))) == ROWS + 1
    with pytest.raises(
        SourceError, match=r"uid: string in .*d\.parquet\n  expected: .*uid: int64.* as in .*a\.parquet"
    ):
        ParquetDataset(folder)
    with pytest.raises(SourceError, match=r"columns of .*d\.parquet.\n.*no \['tokens'\], but \['marker', 'uid'\]"):
        ParquetDataset(folder, columns=["marker", "tokens"])


def test_columns_in_another_order_agree(folder: Path) -> None:
    table = pq.read_table(folder / "b.parquet").select(["tokens", "uid", "marker"])
    pq.write_table(table, folder / "b.parquet")
    assert read(ParquetSource(ParquetDataset(folder)).dataset) == expected()


def test_ids_by_column(folder: Path) -> None:
    source = ParquetSource(ParquetDataset(folder, shuffle=True), Column("uid"))
    for number, row in source.dataset:
        assert number == row["uid"]
    fingerprint = source.fingerprint()
    assert (fingerprint.name, fingerprint.shards) == ("marker,tokens,uid by column 'uid'", {})
    by_text = ParquetSource(ParquetDataset(folder), Column("marker")).dataset
    assert all(number == key_id(row["marker"]) for number, row in by_text)
    with pytest.raises(SampleIdError, match=r"columns \['marker'\], in sample a\.parquet:0"):
        next(iter(ParquetSource(ParquetDataset(folder, columns=["marker"]), Column("uid")).dataset))


@given(st.integers(0, 5 << 20), st.integers(0, 5))
def test_ids_in_bulk_are_the_ids(start: int, rows: int) -> None:
    for first in (start, ((start >> 20) << 20) + (1 << 20) - 2):
        assert list(row_ids("a", first, first + rows)) == [shard_id("a", row) for row in range(first, first + rows)]


def test_values_of_all_kinds(tmp_path: Path) -> None:
    rows = [
        {
            "text": "ä\0",
            "raw": b"\xff",
            "real": 0.5,
            "flag": True,
            "tags": ["a", None],
            "meta": {"n": 1},
            "none": None,
        },
        {"text": None, "raw": None, "real": None, "flag": None, "tags": None, "meta": None, "none": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "0.parquet")
    assert list(ParquetDataset(tmp_path)) == rows


@pytest.mark.parametrize("where", ["nothing", "nothing.parquet", "empty", "empty/*.parquet", []])
def test_no_files(where: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match="no Parquet files"):
        ParquetDataset(where)


def test_no_rows(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", 0)
    with pytest.raises(SourceError, match="hold no rows"):
        ParquetDataset(tmp_path)
    write(tmp_path / "1.parquet", 2)
    assert len(list(ParquetDataset(tmp_path))) == 2


def test_a_url_is_refused() -> None:
    with pytest.raises(SourceError, match="local files, and those in S3") as error:
        ParquetDataset("https://me:secret@host/0.parquet?token=secret")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [{"seed": -1}, {"buffer_size": 0}, {"batch_rows": 0}, {"columns": []}, {"columns": ["uid", "uid"]}],
)
def test_options_that_cannot_be(folder: Path, options: Any) -> None:
    with pytest.raises(SourceError):
        ParquetDataset(folder, **options)


def test_a_replica_that_cannot_be(folder: Path) -> None:
    with pytest.raises(SourceError, match="rank 2 of 2"):
        ParquetDataset(folder, replica=(2, 2))


@pytest.mark.parametrize("kept", [0, 3, 500, -1])
def test_a_truncated_file_is_named_at_once(folder: Path, kept: int) -> None:
    path = folder / "b.parquet"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(SourceError, match=r"Cannot read the Parquet file .*b\.parquet"):
        ParquetDataset(folder)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_page_is_named_when_it_is_read(folder: Path, workers: int) -> None:
    path = folder / "b.parquet"
    write(path, 7, write_page_checksum=True, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[data.index(b"b.parquet:3")] ^= 1
    path.write_bytes(data)
    rows: Iterator[Any] = iter(DataLoader(ParquetDataset(folder), batch_size=None, num_workers=workers))
    for _ in range(100):
        next(rows)
    with pytest.raises(SourceError, match=r"Cannot read .*b\.parquet \(row group 0\)"):
        next(rows)


@pytest.mark.parametrize("summed", [True, False])
def test_a_page_that_is_damaged_into_nulls(tmp_path: Path, summed: bool) -> None:
    """Only a sum over the page can tell; without it they are nulls, as any column may hold that is not `required`."""
    path = tmp_path / "a.parquet"
    table = pa.table({"n": pa.array(range(20), pa.int64())})
    pq.write_table(table, path, write_page_checksum=summed, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    levels = data.index(bytes([2, 0, 0, 0, 20 << 1, 1]))  # the length of a run: 20 rows, all with a value
    data[levels + 5] = 0
    path.write_bytes(data)
    if summed:
        with pytest.raises(SourceError, match=r"Cannot read .*a\.parquet \(row group 0\)"):
            list(ParquetDataset(path))
    else:
        assert list(ParquetDataset(path)) == [{"n": None}] * 20


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
def test_a_stateful_loader_resumes(folder: Path) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader

    def make() -> Any:
        dataset = ParquetSource(ParquetDataset(folder, shuffle=True)).dataset
        return stateful(dataset, batch_size=8, num_workers=2, collate_fn=as_it_is)

    whole = [[number for number, _ in batch] for batch in make()]
    loader = make()
    batches = iter(loader)
    begun = [[number for number, _ in next(batches)] for _ in range(5)]
    again = make()
    again.load_state_dict(loader.state_dict())
    assert begun + [[number for number, _ in batch] for batch in again] == whole


def test_a_file_that_changed_is_named(folder: Path) -> None:
    data = ParquetDataset(folder)
    write(folder / "c.parquet", 60)
    with pytest.raises(SourceError, match=r"c\.parquet has changed"):
        list(data)


def test_what_is_a_parquet_source(folder: Path) -> None:
    class Upper(ParquetDataset):
        def __iter__(self) -> Iterator[Any]:
            return ({"marker": row["marker"].upper()} for row in super().__iter__())

    class Named(ParquetDataset):
        pass

    assert ParquetSource.matches(ParquetDataset(folder))
    assert ParquetSource.matches(Named(folder))
    assert not ParquetSource.matches(Upper(folder)), "its own rows would be lost"
    assert not ParquetSource.matches([1])
    source = ParquetSource(ParquetDataset(folder))
    assert source.iterable
    assert source.dataset.batch_rows == 1024
