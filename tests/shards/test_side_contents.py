"""What tells a changed shard: its bytes, and what it says of its samples."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from weighted_stream.shards.convert import convert
from weighted_stream.shards.folder import ShardFolder, open_shards
from weighted_stream.shards.side_contents import contents_of
from weighted_stream.shards.writing import FORMATS, ShardSize

pytestmark = [
    # webdataset leaves closing its tar files to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def shards(folder: Path, texts: list[str], kind: str) -> ShardFolder:
    """Shards of two samples."""
    if kind in ("mds", "webdataset"):
        pytest.importorskip({"mds": "streaming", "webdataset": "webdataset"}[kind])
    (folder / "data.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    convert(folder / "data.jsonl", folder / "shards", kind, size=ShardSize(2, None), overwrite=True)
    return open_shards(folder / "shards")


def contents(opened: ShardFolder) -> list[str | None]:
    return [contents_of(opened, shard.name) for shard in opened.shards]


@pytest.mark.parametrize("kind", ["mds", "parquet"])
def test_the_shard_that_has_changed(tmp_path: Path, kind: str) -> None:
    before = contents(shards(tmp_path, ["a", "bbb", "cc", "dd"], kind))
    assert all(before)
    assert contents(shards(tmp_path, ["a", "bbb", "cc", "dd"], kind)) == before  # the same written again
    one, other = contents(shards(tmp_path, ["aaa", "b", "cc", "dd"], kind))  # as many samples and bytes
    assert one != before[0]
    assert other == before[1]


def test_a_shard_below_the_folder_and_one_by_itself(tmp_path: Path) -> None:
    opened = shards(tmp_path, ["a", "b", "c", "d"], "parquet")
    (tmp_path / "shards" / "sub").mkdir()
    os.rename(tmp_path / "shards" / "00001.parquet", tmp_path / "shards" / "sub" / "1.parquet")
    deeper = open_shards(tmp_path / "shards")
    assert [shard.name for shard in deeper.shards] == ["00000.parquet", "sub/1.parquet"]
    assert contents_of(open_shards(tmp_path / "shards" / "sub" / "1.parquet"), "1.parquet") == contents(deeper)[1]
    assert contents(open_shards(f"{tmp_path}/shards/*/*.parquet")) == contents(deeper)[1:]
    assert contents(opened)[1] is None  # it is not there


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_what_cannot_be_known_is_not_guessed(tmp_path: Path, kind: str) -> None:
    opened = shards(tmp_path, ["a", "b"], kind)
    assert contents_of(replace(opened, root=None), opened.shards[0].name) is None  # S3
    if kind == "webdataset":
        assert contents(opened) == [None]
    (file,) = [path for path in (tmp_path / "shards").iterdir() if path.suffix in (".mds", ".parquet", ".tar")]
    for damaged in (b"", b"x", b"\xff" * 9):
        file.write_bytes(damaged)
        assert len(contents(opened)) == 1  # and no error
