"""A pipeline with a cache, and a server that does not always answer: a shard is bad once it is given up, not before."""

from __future__ import annotations

import gc
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds
from shards import write_tars

from weighted_stream import SourceError, Uniform, WeightedStream
from weighted_stream.sources.webdataset_reading import TRIES

# webdataset leaves the tar files it reads to the garbage collector.
pytestmark = [pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"), pytest.mark.timeout(60)]


@pytest.fixture(autouse=True)
def close_files_here() -> Iterator[None]:
    yield
    gc.collect()


class Server:
    """What opens ``flaky://`` urls: a folder, and how often each of its files will not be there."""

    def __init__(self, folder: Path, **failures: int) -> None:
        self.folder, self.failures = folder, Counter(failures)
        self.asked: Counter[str] = Counter()

    def __call__(self, url: str, *arguments: Any, **options: Any) -> Any:
        path = self.folder / url.rpartition("/")[2]
        self.asked[path.stem] += 1
        if self.failures[path.stem] > 0:
            self.failures[path.stem] -= 1
            raise OSError("no answer")
        return path.open("rb")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tars(tmp_path / "train", range(30))
    (tmp_path / "cache").mkdir()
    return tmp_path / "train"


def epoch(server: Server, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[list[int], list[str]]:
    """The markers, and what was said."""
    monkeypatch.setitem(wds.gopen_schemes, "flaky", server)
    urls, cache = "flaky://host/{00000..00002}.tar", str(server.folder.with_name("cache"))
    data = wds.WebDataset(urls, shardshuffle=False, cache_dir=cache).decode()
    stream = WeightedStream(data, Uniform(), **options)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RuntimeWarning)
        markers = [sample["json"]["marker"] for sample, _ in stream.loader(batch_size=None)]
    return markers, [str(one.message) for one in said if issubclass(one.category, RuntimeWarning)]


def test_a_shard_that_comes_at_the_second_try_is_not_bad(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(folder, **{"00001": 1})
    assert epoch(server, monkeypatch, on_bad_shard=1) == (list(range(30)), [])
    assert server.asked == {"00000": 1, "00001": 2, "00002": 1}


def test_a_shard_that_does_not_come_is_given_up_soon(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(folder, **{"00001": 99})
    markers, said = epoch(server, monkeypatch, on_bad_shard="skip")
    assert markers == [*range(10), *range(20, 30)]
    assert ["flaky://host/00001.tar" in one and "no answer" in one for one in said] == [True]
    assert server.asked == {"00000": 1, "00001": TRIES, "00002": 1}


def test_where_none_may_be_bad_the_first_failure_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match=r"Cannot read flaky://host/00001\.tar"):
        epoch(Server(folder, **{"00001": 1}), monkeypatch)


def test_a_local_shard_that_is_missing_is_given_up_at_once(folder: Path) -> None:
    urls = [str(folder / f"{number:05}.tar") for number in range(3)]
    data = wds.WebDataset(urls, shardshuffle=False, cache_dir=str(folder.with_name("cache"))).decode()
    (folder / "00000.tar").unlink()
    stream = WeightedStream(data, Uniform(), on_bad_shard="skip")
    with pytest.warns(RuntimeWarning, match=r"00000\.tar cannot be read"):
        assert len(list(stream.loader(batch_size=None))) == 20
