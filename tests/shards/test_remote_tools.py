"""The shard tools on shards in S3."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import BUCKET, S3, SECRET, s3_server

from weighted_stream import ParquetDataset, SourceError, Uniform, WeightedStream, load_scores
from weighted_stream.cli import main
from weighted_stream.shards.convert import convert
from weighted_stream.shards.folder import open_shards
from weighted_stream.sources import s3 as s3_module

# webdataset closes no file that it has not read to its end.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning", "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with s3_server() as s3:
        yield s3


@pytest.fixture
def s3(server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    monkeypatch.setattr(s3_module, "FIRST_WAIT", 0.01)
    return server


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, server: S3) -> Path:
    """Parquet files here, and in S3 below ``c4``; a target."""
    root = tmp_path_factory.mktemp("tools")
    for number in range(2):
        path = root / "c4" / f"part{number}" / f"{number}.parquet"
        path.parent.mkdir(parents=True)
        rows = [{"uid": 10 * number + n, "text": f"sample {n} of {number}"} for n in range(10)]
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=4)
    (root / "target.jsonl").write_text('{"text": "sample 3 of 1"}\n')
    server.put_folder(root / "c4", "c4")
    return root


def rows_of(where: Any) -> list[Any]:
    return [row for shard in open_shards(where).shards for row in shard.read()]


@pytest.mark.parametrize("where", ["", "/", "/part*/*.parquet", "/**/1.parquet", "/part0/0.parquet"])
def test_same_rows_and_ids_as_from_local_files(s3: S3, local: Path, where: str) -> None:
    assert rows_of(f"s3://{BUCKET}/c4{where}") == rows_of(f"{local}/c4{where}")


def test_scores_of_shards_in_s3(s3: S3, local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    where, target = f"s3://{BUCKET}/c4", str(local / "target.jsonl")
    assert main(["score", where, "--target", target, "--out", str(tmp_path / "scores")]) == 0
    assert main(["score", str(local / "c4"), "--target", target, "--out", str(tmp_path / "here")]) == 0
    there, here = (
        {file.name: pq.read_table(file).to_pylist() for file in sorted((tmp_path / name).iterdir())}
        for name in ("scores", "here")
    )
    assert there == here
    assert len(there) == 2
    with WeightedStream(ParquetDataset(where), Uniform()) as stream:
        assert load_scores(stream, tmp_path / "scores") == 20
    assert main(["score", where, "--target", target]) != 0
    assert "--out DIR" in capsys.readouterr().err
    assert not any(SECRET.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_inspecting_shards_in_s3(s3: S3, local: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", f"s3://{BUCKET}/c4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["facts"]["samples"] == 20


def test_converting_parquet_in_s3(s3: S3, local: Path, tmp_path: Path) -> None:
    url = f"s3://{BUCKET}/c4"
    assert main(["convert", url, str(tmp_path / "shards"), "--format", "parquet", "--id", "uid"]) == 0
    assert [row["uid"] for row in ParquetDataset(tmp_path / "shards")] == list(range(20))
    assert json.loads((tmp_path / "shards" / "_converted.json").read_text())["source"] == url


def test_tar_files_in_s3(s3: S3, local: Path, tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    shards = tmp_path / "tars"
    assert main(["convert", str(local / "c4"), str(shards), "--format", "webdataset", "--id", "uid"]) == 0
    url = s3.put_folder(shards, "tars")
    assert [row for _, row in rows_of(url)] == [row for _, row in rows_of(shards)]
    assert main(["inspect", url]) == 0


def test_what_is_not_read(s3: S3, local: Path, tmp_path: Path) -> None:
    s3.put("mds/index.json", b"{}")
    with pytest.raises(SourceError, match="do not read MosaicML shards in S3"):
        open_shards(f"s3://{BUCKET}/mds")
    with pytest.raises(SourceError, match="no shards of one kind"):
        open_shards(f"s3://{BUCKET}/nothing")
    with pytest.raises(SourceError, match="no Parquet files"):
        convert(f"s3://{BUCKET}/mds", tmp_path / "out", "parquet")
