"""What is known of the epochs of a pipeline before it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds
from torch.utils.data import DataLoader

from weighted_stream.sources.webdataset import WebDatasetSource
from weighted_stream.sources.webdataset_epochs import recurs, samples_of_epoch

URLS = ["a.tar", "b.tar"]


def tars(urls: Any = URLS, **options: Any) -> Any:
    return wds.WebDataset(urls, **{"shardshuffle": False, **options})


def mixed(*parts: Any) -> Any:
    return wds.DataPipeline(wds.RandomMix(list(parts)), wds.shuffle(5))


RECUR: dict[str, tuple[Callable[[], Any], str | None]] = {
    "once": (tars, None),
    "once, in batches": (lambda: tars().decode().batched(4).unbatched().shuffle(9), None),
    "repeated": (lambda: tars().repeat(2), "again"),
    "for ever": (lambda: tars().repeat(), "again"),
    "so many": (lambda: tars().with_epoch(9), "again"),
    "repeated inside": (lambda: mixed(tars(), tars().repeat(2)), "again"),
    "listed twice": (lambda: tars([*URLS, "a.tar"]), "again"),
    "listed in two": (lambda: mixed(tars(), tars(["a.tar"])), "again"),
    "resampled": (lambda: tars(resampled=True).with_epoch(9), "drawn"),
    "resampled by a stage": (lambda: wds.DataPipeline(wds.SimpleShardList(URLS), wds.resampled(9)), "drawn"),
    "resampled inside": (lambda: mixed(tars().repeat(2), tars(resampled=True)), "drawn"),
}


@pytest.mark.parametrize("name", RECUR)
def test_whether_samples_come_again(name: str) -> None:
    make, expected = RECUR[name]
    assert WebDatasetSource(make()).recurs() == expected


def test_a_directory_that_is_watched(tmp_path: Path) -> None:
    for mode, expected in (("resample", "drawn"), ("unlink", None), ("keep", None)):
        data = wds.DataPipeline(wds.shardlists.DirectoryShardList(f"{tmp_path}/", mode=mode), wds.tarfile_to_samples())
        assert recurs(data) == expected


def makes_batches(samples: Iterable[Any]) -> Iterator[Any]:
    yield list(samples)


def own_id(sample: Any) -> int:
    return int(sample["n"])


@pytest.mark.parametrize(
    ("make", "id_fn", "expected"),
    [
        (tars, None, None),
        (lambda: tars().repeat(), None, None),
        (lambda: tars().repeat(2), None, None),
        (lambda: tars().with_epoch(9), None, 9),
        (lambda: tars().batched(4).with_epoch(nbatches=9), None, 36),
        (lambda: tars().batched(4).unbatched().with_epoch(9), None, 9),
        (lambda: tars().listed(4).unlisted().batched(3).map(dict).with_epoch(9), None, 27),
        (lambda: wds.FluidWrapper(tars().with_epoch(9)).shuffle(5), None, 9),
        (lambda: wds.FluidWrapper(tars().batched(4)).shuffle(5).with_epoch(9), None, 36),
        (lambda: mixed(tars(), tars()).with_epoch(9), None, 9),
        (lambda: mixed(tars().with_epoch(9), tars().with_epoch(9)), None, None),
        (lambda: tars().with_epoch(9), own_id, 9),
        (lambda: tars().compose(makes_batches).with_epoch(9), own_id, None),
    ],
)
def test_how_many_samples_a_reader_gives(make: Callable[[], Any], id_fn: Any, expected: int | None) -> None:
    assert WebDatasetSource(make(), id_fn).draws() == expected


def test_of_a_webloader() -> None:
    loader = wds.WebLoader(tars().batched(4), batch_size=None)
    assert samples_of_epoch(loader) is None
    assert samples_of_epoch(loader.compose().with_epoch(9)) == 36
    assert samples_of_epoch(loader.unbatched().batched(3).with_epoch(9)) == 27
    assert samples_of_epoch(wds.WebLoader(tars(), batch_size=5).with_epoch(9)) == 45
    assert recurs(loader.compose().with_epoch(9)) == "again"
    assert samples_of_epoch(DataLoader([1, 2])) is None
