"""WebDataset shards in S3, and behind presigned urls: the same samples, and ids without what is secret."""

from __future__ import annotations

import functools
import io
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
import torch
from s3_server import BUCKET, KEY_ID, S3, SECRET, s3_server
from shards import write_tars

from weighted_stream import SourceError, Uniform, WeightedStream, open_s3
from weighted_stream.sources import s3 as s3_module
from weighted_stream.sources import source_for, webdataset_s3

wds = pytest.importorskip("webdataset")

# webdataset closes no file that it has not read to its end.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning", "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)

URLS = f"s3://{BUCKET}/train/{{00000..00003}}.tar"


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with s3_server() as s3:
        yield s3


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, server: S3) -> list[str]:
    """Shards here, and the same in S3 below ``train``."""
    root = tmp_path_factory.mktemp("tars")
    urls = write_tars(root, range(40))
    server.put_folder(root, "train")
    return urls


@pytest.fixture
def s3(server: S3, local: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    monkeypatch.setattr(s3_module, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(webdataset_s3, "BLOCK", 4096)  # several requests for each of these small shards
    monkeypatch.delitem(wds.gopen_schemes, "s3", raising=False)
    server.faults.__init__()  # type: ignore[misc]
    yield server
    wds.gopen_schemes.pop("s3", None)


def pipeline(urls: Any) -> Any:
    return wds.WebDataset(urls, shardshuffle=False).decode()


def stages(urls: Any) -> Any:
    shards = wds.SimpleShardList(urls)
    return wds.DataPipeline(shards, wds.split_by_worker, wds.tarfile_to_samples(), wds.decode())


def delivered(data: Any, workers: int = 0, **options: Any) -> list[tuple[int, int]]:
    """(marker, id) of an epoch, sorted."""
    loader = WeightedStream(data, Uniform()).loader(batch_size=None, num_workers=workers, **options)
    return sorted((sample["json"]["marker"], int(weight.ids)) for sample, weight in loader)


@pytest.mark.parametrize("make", [pipeline, stages])
@pytest.mark.parametrize("workers", [0, 2])
def test_same_samples_as_from_local_files(s3: S3, local: list[str], workers: int, make: Any) -> None:
    here, there = delivered(make(local)), delivered(make(URLS), workers)
    assert [marker for marker, _ in there] == [marker for marker, _ in here] == list(range(40))
    assert len({number for _, number in there}) == 40
    assert there == delivered(make([f"s3://{BUCKET}/train/{n:05}.tar" for n in range(4)]))


def test_workers_that_are_spawned(s3: S3) -> None:
    assert delivered(pipeline(URLS), 2, multiprocessing_context="spawn") == delivered(pipeline(URLS))


def test_with_a_cache(s3: S3, tmp_path: Path) -> None:
    cached = wds.WebDataset(URLS, shardshuffle=False, cache_dir=str(tmp_path)).decode()
    assert delivered(cached) == delivered(pipeline(URLS))


def test_a_folder_of_parts(s3: S3) -> None:
    parts = {part.name: list(part.read()) for part in source_for(pipeline(URLS)).parts()}
    assert list(parts) == [f"s3://{BUCKET}/train/{n:05}.tar" for n in range(4)]
    assert sorted(number for some in parts.values() for number, _ in some) == sorted(
        number for _, number in delivered(pipeline(URLS))
    )


def test_a_handler_of_the_users_stays(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = delivered(pipeline(URLS))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL", "S3_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    filesystem = pyarrow.fs.S3FileSystem(
        access_key=KEY_ID, secret_key=SECRET, region="us-east-1", endpoint_override=s3.endpoint
    )
    handler = wds.gopen_schemes["s3"] = functools.partial(open_s3, filesystem=filesystem)
    assert delivered(pipeline(URLS), 2) == expected
    assert wds.gopen_schemes["s3"] is handler


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_is_busy_for_a_while(s3: S3, status: int) -> None:
    s3.faults.refuse, s3.faults.status = 7, status
    assert [marker for marker, _ in delivered(pipeline(URLS))] == list(range(40))
    assert s3.faults.refuse == 0


@pytest.mark.parametrize("make", [pipeline, stages])
@pytest.mark.parametrize("workers", [0, 2])
def test_connections_that_drop_in_the_middle(s3: S3, workers: int, make: Any) -> None:
    s3.faults.cut = 11
    assert [marker for marker, _ in delivered(make(URLS), workers)] == list(range(40))
    assert s3.faults.cut == 0


@pytest.mark.parametrize("make", [pipeline, stages])
def test_a_connection_that_drops_always(s3: S3, make: Any) -> None:
    """Not the end of the tar file."""
    loader = iter(WeightedStream(make(URLS), Uniform()).loader(batch_size=None))
    next(loader)
    s3.faults.cut = 10**6
    with pytest.raises(SourceError, match=r"Cannot read s3://data/train/0000\d\.tar") as error:
        list(loader)
    assert "attempts" in str(error.value)
    told_nothing(error.value)


@pytest.mark.parametrize("make", [pipeline, stages])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_missing_object(s3: S3, workers: int, make: Any) -> None:
    urls = [f"s3://{BUCKET}/train/{name}.tar" for name in ("00000", "nothing")]
    with pytest.raises(SourceError, match=r"s3://data/train/nothing\.tar") as error:
        delivered(make(urls), workers)
    assert workers or str(error.value).startswith("There is no s3://data/train/nothing.tar.\n  found:")
    told_nothing(error.value)


def test_a_handler_that_goes_on(s3: S3) -> None:
    urls = [f"s3://{BUCKET}/train/{name}.tar" for name in ("00000", "nothing", "00001")]
    data = wds.WebDataset(urls, shardshuffle=False, handler=wds.ignore_and_continue).decode()
    assert [marker for marker, _ in delivered(data)] == list(range(20))


def test_nothing_is_written(s3: S3) -> None:
    with pytest.raises(SourceError, match="reads only"):
        open_s3(f"s3://{BUCKET}/x.tar", "wb")


def test_reading_like_a_file(s3: S3, local: list[str]) -> None:
    data = Path(local[0]).read_bytes()
    file = open_s3(f"s3://{BUCKET}/train/00000.tar")
    assert file.size() == len(data)
    assert file.read(10) + file.read(5000) + file.read() == data
    assert file.read(1) == b""
    assert file.seek(-700, io.SEEK_END) == len(data) - 700
    assert io.BufferedReader(file).read(9000) == data[-700:]
    assert "train/00000.tar" in repr(file)
    file.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset reads http by curl")
@pytest.mark.parametrize("workers", [0, 2])
def test_presigned_urls(s3: S3, workers: int, tmp_path: Path) -> None:
    """Signatures change; ids do not, and nobody is told of them."""
    urls = [s3.presigned(f"train/{n:05}.tar") for n in range(4)]
    later = [url.replace("Expires=", "Expires=1") + "&more=x" for url in urls]
    assert urls[0] != later[0]
    assert all("Signature=" in url for url in urls)
    first, second = pipeline(urls), pipeline(later)
    found = delivered(first, workers)
    assert found == delivered(second)
    assert [marker for marker, _ in found] == list(range(40))
    assert source_for(first).fingerprint() == source_for(second).fingerprint()
    signature = urls[0].partition("Signature=")[2].partition("&")[0]
    seen = written_and_said(pipeline(urls), tmp_path)
    assert signature.encode() not in seen
    assert b"Signature" not in seen


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset reads http by curl")
@pytest.mark.parametrize("make", [pipeline, stages])
@pytest.mark.parametrize("workers", [0, 2])
def test_presigned_urls_of_nothing(s3: S3, workers: int, make: Any) -> None:
    urls = [s3.presigned(f"train/{name}.tar") for name in ("00000", "nothing")]
    with pytest.raises(SourceError, match=r"train/nothing\.tar") as error:
        delivered(make(urls), workers)
    told_nothing(error.value, "Signature", urls[1].partition("Signature=")[2][:12])


def test_nothing_tells_the_credentials(s3: S3, tmp_path: Path) -> None:
    seen = written_and_said(pipeline(URLS), tmp_path)
    assert f"s3://{BUCKET}/train/00000.tar".encode() in seen
    assert SECRET.encode() not in seen
    assert KEY_ID.encode() not in seen


def written_and_said(data: Any, folder: Path) -> bytes:
    """All that a run with a store leaves: files, state, reprs."""
    stream = WeightedStream(data, Uniform(), store=folder / "store")
    for sample, weight in stream.loader(batch_size=None):
        weight.resolve(torch.tensor([float(sample["json"]["marker"])]))
    state = pickle.dumps(stream.state_dict())
    said = "".join(map(repr, (stream, stream.state_dict(), stream.stats(), source_for(data).fingerprint())))
    stream.close()
    files = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
    assert files
    return b"".join([*files, state, said.encode()])


def told_nothing(error: BaseException, *secrets: str) -> None:
    """Neither an error nor what it is chained to tells of credentials."""
    chain: BaseException | None = error
    while chain is not None:
        for text in (str(chain), repr(chain), repr(vars(chain))):
            assert not any(secret in text for secret in (SECRET, KEY_ID, *secrets))
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
