"""Ids through a WebLoader, whose later stages run in the main process."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from shards import write_tars
from torch.utils.data import DataLoader

from weighted_stream.errors import SourceError
from weighted_stream.sources.webdataset import WebDatasetSource
from weighted_stream.sources.webloader import follow_webloader, torch_loader_of

# webdataset leaves the tar files it reads to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

SIZE = 35


@pytest.fixture(scope="module", autouse=True)
def close_files_here() -> Iterator[None]:
    yield
    gc.collect()


def number(sample: dict[str, Any]) -> tuple[int]:
    return (int(sample["cls"]),)


def as_array(item: tuple[Any, Any]) -> tuple[Any, Any]:
    """What the stream's collate function makes of an item: ids as an array."""
    ids, batch = item
    return np.array([ids] if isinstance(ids, int) else ids, dtype=np.int64), batch


def rebuilt(loader: Any) -> Any:
    """The WebLoader over the same pipeline, with ids."""
    inner = torch_loader_of(loader)
    assert inner is not None
    tagged: Any = DataLoader(
        WebDatasetSource(inner.dataset).dataset,
        batch_size=None,
        num_workers=inner.num_workers,
        collate_fn=as_array,
        timeout=inner.timeout,
    )
    return follow_webloader(loader, tagged)


LATER: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda d: d,
    "unbatched": lambda d: d.unbatched(),
    "unbatched, shuffled, batched": lambda d: d.unbatched().shuffle(20).batched(8),
    "an epoch": lambda d: d.unbatched().batched(8).with_epoch(3),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", LATER)
def test_ids_stay_with_their_samples(name: str, workers: int, tmp_path: Path) -> None:
    data = wds.WebDataset(write_tars(tmp_path, range(SIZE)), shardshuffle=False).map(number)
    known = {sample[0]: i for i, sample in WebDatasetSource(data).dataset}
    data = data.shuffle(10).batched(4)
    loader = LATER[name](wds.WebLoader(data, batch_size=None, num_workers=workers, timeout=60 * bool(workers)))
    found = [
        (int(i), int(who))
        for ids, batch in rebuilt(loader)
        for i, who in zip(np.atleast_1d(ids), np.atleast_1d(batch[0]), strict=True)
    ]
    assert all(isinstance(ids, list) for ids, _ in rebuilt(loader))
    assert all(known[who] == i for i, who in found)
    assert len(found) == (24 if name == "an epoch" else SIZE)
    assert sum(len(np.atleast_1d(batch[0])) for batch in loader) == len(found)  # the user's loader as before


def test_samples_that_the_loader_does_not_batch(tmp_path: Path) -> None:
    data = wds.WebDataset(write_tars(tmp_path, range(SIZE)), shardshuffle=False).map(number)
    known = {sample[0]: i for i, sample in WebDatasetSource(data).dataset}
    loader = wds.WebLoader(data, batch_size=None).shuffle(9).batched(4)
    found = [(i, int(who)) for ids, (batch,) in rebuilt(loader) for i, who in zip(ids, batch, strict=True)]
    assert sorted(who for _, who in found) == list(range(SIZE))
    assert all(known[who] == i for i, who in found)


def test_stages_that_cannot_be_followed_are_named(tmp_path: Path) -> None:
    def halves(batches: Any) -> Any:
        for (batch,) in batches:
            yield (batch[:2],)
            yield (batch[2:],)

    data = wds.WebDataset(write_tars(tmp_path, range(SIZE)), shardshuffle=False).map(number).batched(4)
    with pytest.raises(SourceError, match="halves"):
        list(rebuilt(wds.WebLoader(data, batch_size=None).compose(halves)))


def test_what_is_no_webloader(tmp_path: Path) -> None:
    data = wds.WebDataset(write_tars(tmp_path, range(SIZE)), shardshuffle=False)
    assert torch_loader_of(data) is None
    assert torch_loader_of(wds.DataPipeline()) is None
    assert torch_loader_of(DataLoader([1])) is None
    with pytest.raises(SourceError, match="no WebLoader"):
        follow_webloader(data, [])
