"""The three shard formats: every sample once per epoch, in an order that the seed decides."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from weighted_stream.demo.shards import FORMATS, read_shards, write_shards
from weighted_stream.demo.texts import Sample
from weighted_stream.errors import SourceError

pytestmark = [
    # webdataset leaves closing its tar files to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SAMPLES = [Sample(f"text {i} ä\n" * (1 + i % 5), ("source", "licence")[i % 2], "p") for i in range(150)]


@pytest.fixture(params=sorted(FORMATS))
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "mds":
        pytest.importorskip("streaming")
    if request.param == "webdataset":
        pytest.importorskip("webdataset")
    return str(request.param)


def read(folder: Path, kind: str, seed: int) -> list[dict]:  # type: ignore[type-arg]
    loader = DataLoader(read_shards(folder, kind, seed, 16), batch_size=16)
    rows = []
    for batch in loader:
        columns = (batch["text"], batch["kind"], batch["row"].tolist())
        rows += [dict(zip(("text", "kind", "row"), row, strict=True)) for row in zip(*columns, strict=True)]
    return rows


def test_what_is_written_is_read(tmp_path: Path, kind: str) -> None:
    shards = write_shards(SAMPLES, tmp_path / "shards", kind, shards=4)
    assert 4 <= len(shards) <= 5
    rows = read(tmp_path / "shards", kind, seed=0)
    assert [r["row"] for r in rows] != list(range(150))
    rows.sort(key=lambda row: row["row"])
    assert rows == [{"text": s.text, "kind": s.kind, "row": i} for i, s in enumerate(SAMPLES)]


def test_the_seed_decides_the_order(tmp_path: Path, kind: str) -> None:
    write_shards(SAMPLES, tmp_path / "a", kind)
    write_shards(SAMPLES, tmp_path / "b", kind)
    orders = {}
    for name, folder, seed in (("first", "a", 0), ("again", "b", 0), ("other", "a", 1)):
        orders[name] = [row["row"] for row in read(tmp_path / folder, kind, seed)]
    assert orders["first"] == orders["again"] != orders["other"]


def test_writing_again_replaces(tmp_path: Path, kind: str) -> None:
    write_shards(SAMPLES, tmp_path, kind)
    write_shards(SAMPLES[:20], tmp_path, kind, shards=2)
    assert len(read(tmp_path, kind, seed=0)) == 20


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="'csv'"):
        write_shards(SAMPLES, tmp_path, "csv")
    with pytest.raises(SourceError, match="'tar'"):
        read_shards(tmp_path, "tar", 0, 1)
    with pytest.raises(SourceError, match="no samples"):
        write_shards([], tmp_path, "parquet")
