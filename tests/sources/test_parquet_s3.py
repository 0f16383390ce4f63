"""Parquet files in S3: the same rows and ids as on a local disk, whatever the connection does."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from s3_server import BUCKET, KEY_ID, S3, SECRET, s3_server

from weighted_stream import ParquetDataset, SourceError, Uniform, WeightedStream
from weighted_stream.sources import s3 as s3_module


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with s3_server() as s3:
        yield s3


@pytest.fixture
def s3(server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    monkeypatch.setattr(s3_module, "FIRST_WAIT", 0.01)
    server.faults.__init__()  # type: ignore[misc]
    return server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, server: S3) -> Path:
    """Files in a folder, and the same in S3 below ``c4``."""
    root = tmp_path_factory.mktemp("parquet") / "c4"
    for number, name in enumerate(
        ("train/0.parquet", "train/1.parquet", "more/deep/2.parquet", "train/_hidden.parquet")
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        uids = range(100 * number, 100 * number + 40)
        table = pa.table({"uid": uids, "text": [f"text {n} " * 50 for n in uids]})
        pq.write_table(table, path, row_group_size=16, compression="none")
    server.put_folder(root, "c4")
    return root


def delivered(data: Any, workers: int = 0, **options: Any) -> list[tuple[int, int]]:
    """(id, uid) of an epoch, sorted."""
    loader = WeightedStream(data, Uniform()).loader(batch_size=8, num_workers=workers, **options)
    found = []
    for batch, weight in loader:
        found += zip(weight.ids.tolist(), batch["uid"].tolist(), strict=True)
    return sorted(found)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_same_rows_and_ids_as_from_local_files(s3: S3, folder: Path, workers: int, shuffle: bool) -> None:
    local = delivered(ParquetDataset(folder, shuffle=shuffle), workers)
    assert len(local) == 120
    assert delivered(ParquetDataset(f"s3://{BUCKET}/c4", shuffle=shuffle), workers) == local


def test_workers_that_are_spawned(s3: S3, folder: Path) -> None:
    remote = ParquetDataset(f"s3://{BUCKET}/c4")
    assert delivered(remote, 2, multiprocessing_context="spawn") == delivered(ParquetDataset(folder))


@pytest.mark.parametrize("pattern", ["train/*.parquet", "**/*.parquet", "*/[01].parquet", "more/**/2.parquet"])
def test_patterns(s3: S3, folder: Path, pattern: str) -> None:
    local, remote = ParquetDataset(folder / pattern), ParquetDataset(f"s3://{BUCKET}/c4/{pattern}")
    assert remote.files.keys == local.files.keys
    assert list(remote) == list(local)


def test_a_list_of_files_and_columns(s3: S3, folder: Path) -> None:
    names = ["train/1.parquet", "more/deep/2.parquet"]
    remote = ParquetDataset([f"s3://{BUCKET}/c4/{name}" for name in names], columns=["uid"])
    assert list(remote) == list(ParquetDataset([folder / name for name in names], columns=["uid"]))


def test_only_the_columns_asked_for_are_read(s3: S3, folder: Path) -> None:
    table = pa.table({"uid": range(40), "noise": [random.Random(n).randbytes(20_000) for n in range(40)]})
    pq.write_table(table, buffer := pa.BufferOutputStream(), row_group_size=10)
    url = s3.put("wide.parquet", buffer.getvalue().to_pybytes())
    assert [row["uid"] for row in ParquetDataset(url, columns=["uid"])] == list(range(40))
    assert s3.faults.sent < 200_000, "of 800,000 and more"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_system_of_the_users(
    s3: S3, folder: Path, workers: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL", "S3_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    filesystem = pyarrow.fs.S3FileSystem(
        access_key=KEY_ID, secret_key=SECRET, region="us-east-1", endpoint_override=s3.endpoint
    )
    local = delivered(ParquetDataset(folder))
    data = ParquetDataset(f"{BUCKET}/c4", filesystem=filesystem)
    context = "spawn" if workers else None
    assert delivered(data, workers, multiprocessing_context=context) == local
    assert delivered(ParquetDataset(f"s3://{BUCKET}/c4", filesystem=filesystem)) == local
    here = ParquetDataset(str(folder), filesystem=pyarrow.fs.LocalFileSystem())
    assert delivered(here) == local
    assert SECRET not in repr(data) + repr(data.files) + repr(vars(data))


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_is_busy_for_a_while(s3: S3, folder: Path, status: int) -> None:
    s3.faults.refuse, s3.faults.status = 7, status
    assert delivered(ParquetDataset(f"s3://{BUCKET}/c4")) == delivered(ParquetDataset(folder))
    assert s3.faults.refuse == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_connections_that_drop_in_the_middle(s3: S3, folder: Path, workers: int) -> None:
    data = ParquetDataset(f"s3://{BUCKET}/c4")
    s3.faults.cut = 9
    assert delivered(data, workers) == delivered(ParquetDataset(folder))
    assert s3.faults.cut == 0


def test_a_server_that_stays_broken(s3: S3, folder: Path) -> None:
    data = ParquetDataset(f"s3://{BUCKET}/c4")
    s3.faults.refuse = 10**6
    with pytest.raises(SourceError, match=r"Cannot read s3://data/c4/more/deep/2.parquet") as error:
        list(data)
    assert f"after {s3_module.ATTEMPTS} attempts" in error.value.found
    told_nothing(error.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_missing_object(s3: S3, folder: Path, workers: int) -> None:
    key = "gone/0.parquet"
    s3.put(key, (folder / "train/0.parquet").read_bytes())
    data = ParquetDataset(f"s3://{BUCKET}/{key}")
    s3.delete(key)
    with pytest.raises(SourceError, match=r"There is no s3://data/gone/0\.parquet"):
        delivered(data, workers)
    for where in ("gone/0.parquet", "nothing", "nothing/*.parquet"):
        with pytest.raises(SourceError, match="no Parquet files") as error:
            ParquetDataset(f"s3://{BUCKET}/{where}")
        assert where in error.value.found


def test_an_object_that_changes(s3: S3, folder: Path) -> None:
    key = "changing/0.parquet"
    s3.put(key, (folder / "train/0.parquet").read_bytes())
    data = ParquetDataset(f"s3://{BUCKET}/{key}")
    pq.write_table(pa.table({"uid": [1], "text": [""]}), buffer := pa.BufferOutputStream())
    s3.put(key, buffer.getvalue().to_pybytes())
    with pytest.raises(SourceError, match="has changed while it was in use"):
        list(data)


def test_credentials_that_are_refused(s3: S3, folder: Path) -> None:
    """Moto checks no signatures, so the proxy says what Amazon says: 403."""
    data = ParquetDataset(f"s3://{BUCKET}/c4")
    s3.faults.refuse, s3.faults.status = 10**6, 403
    s3.faults.asked.clear()
    with pytest.raises(SourceError, match="Cannot read s3://data/c4") as error:
        list(data)
    assert len(s3.faults.asked) == 1, "asked again in vain"
    told_nothing(error.value)


@pytest.mark.parametrize("url", [f"s3://{KEY_ID}:{SECRET}@{BUCKET}/c4", f"s3://{BUCKET}/c4?secret={SECRET}"])
def test_credentials_in_a_url_are_refused(s3: S3, url: str) -> None:
    with pytest.raises(SourceError, match="more in the url") as error:
        ParquetDataset(url)
    told_nothing(error.value)


def test_nothing_tells_the_credentials(s3: S3, folder: Path, tmp_path: Path) -> None:
    data = ParquetDataset(f"s3://{BUCKET}/c4")
    stream = WeightedStream(data, Uniform(), store=tmp_path / "store")
    for batch, weight in stream.loader(batch_size=8):
        weight.resolve(batch["uid"].float())
    state = pickle.dumps(stream.state_dict())
    stream.close()
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert written
    for text in (*written, state, pickle.dumps(data), repr(data).encode(), repr(data.files).encode()):
        assert SECRET.encode() not in text
        assert KEY_ID.encode() not in text


def told_nothing(error: BaseException) -> None:
    """Neither an error nor what it is chained to tells of credentials."""
    texts = []
    chain: BaseException | None = error
    while chain is not None:
        texts += [str(chain), repr(chain), repr(vars(chain))]
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    assert not any(secret in text for text in texts for secret in (SECRET, KEY_ID))
