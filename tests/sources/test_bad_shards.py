"""on_bad_shard: the rest of the epoch is whole, what is left out is named once, and an epoch goes on as it would."""

from __future__ import annotations

import gc
import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shards import streaming_here, write_mds, write_tars

from weighted_stream import ParquetDataset, SourceError, Uniform, WeightedStream
from weighted_stream.sources.bad_shards import Policy
from weighted_stream.sources.board import SLOT, Board, Desk
from weighted_stream.sources.board import here as listening
from weighted_stream.worker_deaths import boards

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:streaming"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*num_workers.*:UserWarning:webdataset"),
    pytest.mark.timeout(60),
]

ROWS, SHARDS = 10, 8


def mds(folder: Path) -> Any:
    pytest.importorskip("streaming")
    from streaming import StreamingDataset

    if not (folder / "index.json").exists():
        write_mds(folder, range(ROWS * SHARDS))
    return StreamingDataset(local=str(folder), batch_size=4, shuffle=True, shuffle_seed=3)


def tars(folder: Path) -> Any:
    wds = pytest.importorskip("webdataset")
    if not list(folder.glob("*.tar")):
        write_tars(folder, range(ROWS * SHARDS))
    urls = [str(folder / f"{number:05}.tar") for number in range(SHARDS)]
    return wds.WebDataset(urls, shardshuffle=False).decode().map(marker)


def marker(sample: dict[str, Any]) -> dict[str, Any]:
    return {"marker": sample["cls"], "text": sample["json"]["marker"]}


def parquet(folder: Path) -> Any:
    for number in range(SHARDS):
        path = folder / f"{number}.parquet"
        if not path.exists():
            table = pa.table({"marker": range(number * ROWS, number * ROWS + ROWS)})
            pq.write_table(table, path, write_page_checksum=True)
    return ParquetDataset(folder)


FORMATS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "mds": (mds, "shard.{:05}.mds"),
    "webdataset": (tars, "{:05}.tar"),
    "parquet": (parquet, "{}.parquet"),
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path) -> Iterator[None]:
    try:
        import streaming  # noqa: F401
    except ImportError:
        yield
    else:
        with streaming_here():
            yield
    gc.collect()  # the files that webdataset leaves open, here where it is known of


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "flipped":  # in the first header of the middle of a tar, in the data of the others
        place = data.index(b"0005.") if path.suffix == ".tar" else 6
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :])


def epoch(stream: WeightedStream, workers: int) -> tuple[list[int], list[str]]:
    markers: list[int] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RuntimeWarning)
        for batch, weight in stream.loader(batch_size=4, num_workers=workers, **({"timeout": 40} if workers else {})):
            weight.resolve(batch["marker"].float())
            markers += batch["marker"].tolist()
    return markers, [str(one.message) for one in said if issubclass(one.category, RuntimeWarning)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ["missing", "cut", "flipped"])
@pytest.mark.parametrize("kind", FORMATS)
def test_skip(kind: str, how: str, workers: int, tmp_path: Path) -> None:
    make, file = FORMATS[kind]
    data = make(tmp_path)
    for number in (2, 5):
        damage(tmp_path / file.format(number), how)
    stream = WeightedStream(data, Uniform(), on_bad_shard="skip")
    for round in range(2):
        markers, said = epoch(stream, workers)
        others = {row for row in range(ROWS * SHARDS) if row // ROWS not in (2, 5)}
        assert others <= set(markers)
        assert len(markers) == len(set(markers))
        half = set(markers) - others  # of a tar file what came before the break
        assert not half or kind == "webdataset"
        if round == 0:
            for number in (2, 5):
                assert sum(file.format(number) in text and "left out" in text for text in said) == 1, said
            assert len(said) == 2
        else:
            assert not said
    figures = stream.stats()
    assert figures["bad_shards"] == 2
    assert figures["samples_lacking"] == (0 if kind == "webdataset" else 2 * 2 * ROWS)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_limit_names_all(kind: str, workers: int, tmp_path: Path) -> None:
    make, file = FORMATS[kind]
    data = make(tmp_path)
    bad = [file.format(number) for number in (1, 4, 6)]
    for name in bad[:2]:
        damage(tmp_path / name, "cut")
    assert len(epoch(WeightedStream(data, Uniform(), on_bad_shard=2), workers)[1]) == 2
    damage(tmp_path / bad[2], "cut")
    stream = WeightedStream(make(tmp_path) if kind != "parquet" else data, Uniform(), on_bad_shard=2)
    with pytest.raises(SourceError, match="More shards cannot be read than on_bad_shard=2") as error:
        epoch(stream, workers)
    assert all(name in str(error.value) for name in bad)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", FORMATS)
def test_going_on_behind_a_skipped_shard(kind: str, workers: int, tmp_path: Path) -> None:
    make, file = FORMATS[kind]
    data = make(tmp_path)
    damage(tmp_path / file.format(3), "cut")

    def run(stream: WeightedStream, most: int) -> list[list[int]]:
        batches = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            for batch, weight in stream.loader(batch_size=4, num_workers=workers):
                weight.resolve(batch["marker"].float())
                batches.append(batch["marker"].tolist())
                if len(batches) == most:
                    break
        return batches

    def made() -> WeightedStream:
        return WeightedStream(data if kind == "parquet" else make(tmp_path), Uniform(), on_bad_shard="skip")

    whole = run(made(), 1000)
    for step in (3, 11, 16):
        first = made()
        begun = run(first, step)
        again = made()
        again.load_state_dict(first.state_dict())
        assert begun + run(again, 1000) == whole
        assert again.stats()["bad_shards"] == 1


def test_files_that_are_bad_when_the_dataset_is_made(tmp_path: Path) -> None:
    parquet(tmp_path)
    damage(tmp_path / "3.parquet", "cut")
    pq.write_table(pa.table({"other": [1]}), tmp_path / "4.parquet")
    with pytest.raises(SourceError, match=r"3\.parquet"):
        ParquetDataset(tmp_path)
    with pytest.warns(RuntimeWarning, match="left out"):
        data = ParquetDataset(tmp_path, on_bad_file="skip")
    assert set(data.left_out) == {"3.parquet", "4.parquet"}
    assert len(data) == 60
    stream = WeightedStream(data, Uniform())
    assert len(epoch(stream, 0)[0]) == 60
    assert stream.stats()["bad_shards"] == 2
    with pytest.raises(SourceError, match="More shards cannot be read"), pytest.warns(RuntimeWarning):
        ParquetDataset(tmp_path, on_bad_file=1)


def test_a_loader_of_ones_own_skips_too(tmp_path: Path) -> None:
    from torch.utils.data import DataLoader

    data = parquet(tmp_path)
    damage(tmp_path / "3.parquet", "cut")
    stream: Any = WeightedStream(data, Uniform(), on_bad_shard="skip")
    with pytest.warns(RuntimeWarning, match=r"3\.parquet.* is left out"):
        assert sum(len(weight) for _, weight in DataLoader(stream, batch_size=None)) == 70


@pytest.mark.parametrize("workers", [0, 2])
def test_a_compressed_tar_file_that_was_cut_between_two_members(workers: int, tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    tars(tmp_path)
    urls = []
    for number in range(SHARDS):
        path = tmp_path / f"{number:05}.tar"
        packer = zlib.compressobj(wbits=31)
        if number == 2:  # in the fourth sample
            packed = packer.compress(path.read_bytes()[: 3 * 2048 + 1024]) + packer.flush(zlib.Z_FULL_FLUSH)
        else:
            packed = packer.compress(path.read_bytes()) + packer.flush()
        urls.append(f"{path}.gz")
        Path(urls[-1]).write_bytes(packed)
    data = wds.WebDataset(urls, shardshuffle=False).decode().map(marker)
    with pytest.raises(SourceError, match=r"00002\.tar\.gz is broken"):
        epoch(WeightedStream(data, Uniform()), workers)
    markers, said = epoch(WeightedStream(data, Uniform(), on_bad_shard="skip"), workers)
    assert sorted(markers) == [row for row in range(ROWS * SHARDS) if row // ROWS != 2 or row < 2 * ROWS + 3]
    assert len(said) == 1
    assert "00002.tar.gz cannot be read, and is left out" in said[0]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.mosaicml
def test_a_shard_that_comes_back_is_read_in_the_next_epoch(workers: int, tmp_path: Path) -> None:
    """Also by workers that stay."""
    streaming = pytest.importorskip("streaming")
    remote = write_mds(tmp_path / "c4", range(ROWS * SHARDS))
    data = streaming.StreamingDataset(remote=str(remote), local=str(tmp_path / "cache"), batch_size=4, download_retry=1)
    (remote / "shard.00002.mds").rename(tmp_path / "away")
    stream = WeightedStream(data, Uniform(), on_bad_shard="skip")
    loader = stream.loader(batch_size=4, num_workers=workers, persistent_workers=bool(workers))
    with pytest.warns(RuntimeWarning, match=r"shard\.00002\.mds cannot be read"):
        assert sum(len(weight) for _, weight in loader) == ROWS * (SHARDS - 1)
    (tmp_path / "away").rename(remote / "shard.00002.mds")
    assert sum(len(weight) for _, weight in loader) == ROWS * SHARDS


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_told_of_shards_does_not_grow_with_epochs(kind: str, workers: int, tmp_path: Path) -> None:
    before = set(boards)
    loader = WeightedStream(FORMATS[kind][0](tmp_path), Uniform()).loader(batch_size=4, num_workers=workers)
    (board,) = set(boards) - before
    sizes = []
    for _ in range(4):
        assert sum(len(weight) for _, weight in loader) == ROWS * SHARDS
        sizes.append(os.fstat(board._file).st_size)
    assert sizes == [sizes[0]] * 4
    assert sizes[0] > board.readers * SLOT + 1


def test_the_end_of_a_shard_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    board, policy = Board(1), Policy()
    policy.tell_end("a.tar", "1-2-3")  # nobody listens
    monkeypatch.setattr(listening, "desk", Desk(board, 0))
    for ends in ("1-2-3", "1-2-3", "4-5-6"):
        policy.tell_end("a.tar", ends)
    assert [note["ends"] for note in board.notes()] == ["1-2-3", "4-5-6"]
