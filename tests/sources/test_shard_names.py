"""Names of shards: what counts, and what does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from weighted_stream.sources.shard_names import depth_needed, is_local, location, shard_name, tail


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("/data/a.tar", "/data/a.tar"),
        ("/data/x/../a.tar", "/data/a.tar"),
        ("file:/data/a.tar", "/data/a.tar"),
        ("file:///data/a.tar", "/data/a.tar"),
        ("/data/a.tar._123_", "/data/a.tar"),
        ("https://host:8000/a.tar", "https://host:8000/a.tar"),
        ("https://me:p%40ss@host/a.tar?X-Amz-Signature=1#part", "https://host/a.tar"),
        ("s3://bucket/train/a.tar", "s3://bucket/train/a.tar"),
        ("s3://key:secret@bucket/a.tar", "s3://bucket/a.tar"),
        ("dbfs:/Volumes/a.tar", "dbfs:/Volumes/a.tar"),
        ("pipe:curl -s -H 'Authorization: Bearer x' 'https://host/a.tar?sig=1'", "https://host/a.tar"),
        ("pipe:aws s3 cp s3://bucket/a.tar -", "s3://bucket/a.tar"),
        ("pipe:gsutil cat gs://bucket/a.tar || true", "gs://bucket/a.tar"),
        ("pipe:cat /data/a.tar.gz | gunzip", "/data/a.tar.gz"),
        ("pipe:aws --endpoint-url http://me:pw@minio s3 cp s3://bucket/a.tar -", "s3://bucket/a.tar"),
        ("pipe:fetch number 7 --token secret", "pipe:64934d46861d07dd"),
    ],
)
def test_what_may_change_does_not_count(url: str, where: str) -> None:
    assert location(url) == where


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert location("a.tar") == os.path.join(os.getcwd(), "a.tar")
    assert shard_name("a.tar", 1) == shard_name("./a.tar", 1) == "a.tar"


def test_local_and_remote() -> None:
    assert [is_local(location(url)) for url in ("a.tar", "file:a.tar", "pipe:cat /a.tar")] == [True] * 3
    assert not any(is_local(location(url)) for url in ("s3://b/a.tar", "dbfs:/a.tar", "pipe:fetch 7"))


def test_tails() -> None:
    assert tail("s3://bucket/c4/", 1) == "c4"
    assert tail("s3://bucket/c4", 2) == "bucket/c4"
    assert tail("/a", 3) == "a"


@pytest.mark.parametrize(
    ("locations", "depth"),
    [
        ([], 1),
        (["/a/0.tar", "/a/0.tar"], 1),
        (["/a/0.tar", "/a/1.tar"], 1),
        (["/a/0.tar", "/b/0.tar", "/a/1.tar"], 2),
        (["/x/a/0.tar", "/y/a/0.tar"], 3),
        (["s3://one/mds", "s3://two/mds"], 2),
        (["/a", "//a"], 3),  # never told apart
    ],
)
def test_as_few_components_as_tell_apart(locations: list[str], depth: int) -> None:
    assert depth_needed(locations) == depth
