"""A folder of shards: which files are found, and which samples belong to which shard."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weighted_stream import ParquetDataset
from weighted_stream.shards.folder import open_shards
from weighted_stream.shards.webdataset import as_row
from weighted_stream.sources import source_for
from weighted_stream.sources.files_below import files_below

pytestmark = [
    # webdataset leaves closing its tar files to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def write(path: Path, *texts: str, group: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": texts}), path, row_group_size=group)
    return path


def texts(folder: Path) -> dict[str, list[str]]:
    return {shard.name: [row["text"] for _, row in shard.read()] for shard in open_shards(folder).shards}


def test_files_below_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = ["b/x.parquet", "b-a.parquet", "a/z.txt", "a/_scores/x.parquet", ".git/x.parquet", "_x", "b/c/d", "B"]
    for name in names:
        write(tmp_path / name, "text")
    kept = [path.relative_to(tmp_path) for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert files_below(tmp_path) == [path for path in kept if not any(part[0] in "._" for part in path.parts)]
    assert len(files_below(tmp_path)) == 5


def test_links_are_followed_but_not_for_ever(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    write(one / "a.parquet", "first")
    write(other / "b.parquet", "linked")
    (one / "other").symlink_to(other)
    (one / "file.parquet").symlink_to(other / "b.parquet")
    assert list(texts(one)) == list(source_for(ParquetDataset(one)).fingerprint().shards)
    (one / "self").symlink_to("self")
    (one / "gone").symlink_to("nowhere")
    (one / "again").symlink_to(one)
    (other / "back").symlink_to(one)
    write(one / "v1" / "c.parquet", "once")
    (one / "latest").symlink_to("v1")
    expected = {"a.parquet": ["first"], "file.parquet": ["linked"], "other/b.parquet": ["linked"]}
    expected["v1/c.parquet"] = ["once"]
    assert texts(one) == expected


def test_endings_in_capitals(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", "small")
    write(tmp_path / "B.PARQUET", "large")
    assert texts(tmp_path) == {"B.PARQUET": ["large"], "a.parquet": ["small"]}
    assert texts(tmp_path / "B.PARQUET") == {"B.PARQUET": ["large"]}
    assert texts(tmp_path / "*.PARQUET") == {"B.PARQUET": ["large"]}


def test_tars_behind_links_and_in_capitals(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    for name in ("one/a.tar", "other/B.TAR"):
        (tmp_path / name).parent.mkdir()
        with webdataset.TarWriter(str(tmp_path / name)) as writer:
            writer.write({"__key__": "0", "json": {"text": name}})
    (tmp_path / "one" / "link").symlink_to(tmp_path / "other")
    found = [as_row(row)["text"] for shard in open_shards(tmp_path / "one").shards for _, row in shard.read()]
    assert found == ["one/a.tar", "other/B.TAR"]


def test_a_name_like_that_of_a_row_group(tmp_path: Path) -> None:
    expected = {}
    for number in (1, 2):
        name = f"x (row group {number}).parquet"
        expected[name] = [f"{number} {row}" for row in range(4)]
        write(tmp_path / name, *expected[name], group=2)
    assert texts(tmp_path) == expected
