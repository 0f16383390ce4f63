"""MosaicML shards in S3: streaming downloads them itself; ids and guard are ours, and nobody is told of credentials."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import BUCKET, KEY_ID, S3, SECRET, s3_server
from shards import streaming_here, write_mds

from weighted_stream import SourceError, Uniform, WeightedStream
from weighted_stream.sources import source_for

streaming = pytest.importorskip("streaming")

SHARDS = 4


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with s3_server() as s3:
        yield s3


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, server: S3) -> Path:
    """Shards here, and the same in S3 at two places."""
    root = write_mds(tmp_path_factory.mktemp("mds") / "c4", range(40))
    server.put_folder(root, "here/c4")
    server.put_folder(root, "elsewhere/deep/c4")
    return root


@pytest.fixture
def s3(server: S3, local: Path, tmp_path: Path) -> Iterator[S3]:
    server.faults.__init__()  # type: ignore[misc]
    with streaming_here():
        yield server


def opened(folder: str, cache: Path, **options: Any) -> Any:
    return streaming.StreamingDataset(
        remote=f"s3://{BUCKET}/{folder}", local=str(cache), batch_size=4, **{"download_retry": 4, **options}
    )


def delivered(data: Any, workers: int = 0) -> list[tuple[int, int]]:
    """(marker, id) of an epoch, sorted."""
    loader = WeightedStream(data, Uniform()).loader(batch_size=4, num_workers=workers, timeout=30 if workers else 0)
    pairs = [(batch["marker"].tolist(), weight.ids.tolist()) for batch, weight in loader]
    return sorted((marker, number) for markers, ids in pairs for marker, number in zip(markers, ids, strict=True))


def from_disk(local: Path) -> list[tuple[int, int]]:
    return delivered(streaming.StreamingDataset(local=str(local), batch_size=4))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("folder", ["here/c4", "elsewhere/deep/c4"])
def test_same_samples_and_ids_as_from_local_files(
    s3: S3, local: Path, tmp_path: Path, folder: str, workers: int
) -> None:
    expected = from_disk(local)
    assert [marker for marker, _ in expected] == list(range(40))
    data = opened(folder, tmp_path / "cache")
    assert delivered(data, workers) == expected
    assert source_for(data).fingerprint().shards == {f"c4/shard.{n:05}.mds": 10 for n in range(SHARDS)}


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_is_busy_for_a_while(s3: S3, local: Path, tmp_path: Path, status: int) -> None:
    data = opened("here/c4", tmp_path / "cache")
    s3.faults.refuse, s3.faults.status = 3, status
    assert delivered(data) == from_disk(local)
    assert s3.faults.refuse == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_connections_that_drop_in_the_middle(s3: S3, local: Path, tmp_path: Path, workers: int) -> None:
    data = opened("here/c4", tmp_path / "cache")
    s3.faults.cut = 2
    assert delivered(data, workers) == from_disk(local)
    assert s3.faults.cut == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_missing_object(s3: S3, local: Path, tmp_path: Path, workers: int) -> None:
    s3.put_folder(local, f"lacking{workers}/c4")
    s3.delete(f"lacking{workers}/c4/shard.00002.mds")
    data = opened(f"lacking{workers}/c4", tmp_path / "cache", download_retry=1)
    with pytest.raises(SourceError, match=r"shard\.00002\.mds") as error:
        delivered(data, workers)
    told_nothing(error.value)


def test_an_object_that_was_cut(s3: S3, local: Path, tmp_path: Path) -> None:
    s3.put_folder(local, "cut/c4")
    s3.put("cut/c4/shard.00001.mds", (local / "shard.00001.mds").read_bytes()[:-40])
    with pytest.raises(SourceError, match=r"shard\.00001\.mds"):
        delivered(opened("cut/c4", tmp_path / "cache", download_retry=1))


def test_parts_are_read_from_the_remote(s3: S3, local: Path, tmp_path: Path) -> None:
    source = source_for(opened("here/c4", tmp_path / "cache"))
    read = sorted((sample["marker"], number) for part in source.parts() for number, sample in part.read())
    assert read == from_disk(local)


def test_credentials_that_are_refused(s3: S3, local: Path, tmp_path: Path) -> None:
    """Moto checks no signatures, so the proxy says what Amazon says: 403."""
    data = opened("here/c4", tmp_path / "cache", download_retry=1)
    s3.faults.refuse, s3.faults.status = 10**6, 403
    with pytest.raises(SourceError, match=r"shard\.0000\d\.mds") as error:
        delivered(data)
    told_nothing(error.value)


def test_nothing_tells_the_credentials(s3: S3, tmp_path: Path) -> None:
    data = opened("here/c4", tmp_path / "cache")
    stream = WeightedStream(data, Uniform(), store=tmp_path / "store")
    for batch, weight in stream.loader(batch_size=4):
        weight.resolve(batch["marker"].float())
    state = pickle.dumps(stream.state_dict())
    said = "".join(map(repr, (stream, stream.state_dict(), stream.stats(), source_for(data).fingerprint())))
    stream.close()
    seen = b"".join([*(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()), state, said.encode()])
    assert b"c4/shard.00000.mds" in seen
    assert SECRET.encode() not in seen
    assert KEY_ID.encode() not in seen


def told_nothing(error: BaseException) -> None:
    """Neither an error nor what it is chained to tells of credentials."""
    chain: BaseException | None = error
    while chain is not None:
        for text in (str(chain), repr(chain), repr(vars(chain))):
            assert SECRET not in text
            assert KEY_ID not in text
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
