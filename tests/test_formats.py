"""The whole way round for every format: ids match the marker inside the sample, weights are exact, losses come back.

Each format is opened twice as a fresh object (a restart) and read with and without workers; all four must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from shards import write_mds, write_tars
from torch.utils.data import DataLoader

from weighted_stream import LinUpper, ParquetDataset, SourceError, Uniform, WeightedStream
from weighted_stream.strategies.lin_upper import lin_upper

pytestmark = [
    pytest.mark.filterwarnings("ignore:A weight of .* passes the 2:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:streaming"),
    # webdataset leaves closing its files to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SIZE = 60


@pytest.fixture
def no_stale_shared_memory() -> None:
    streaming = pytest.importorskip("streaming")
    streaming.base.util.clean_stale_shared_memory()


def parquet(folder: Path) -> Callable[[], Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for part in range(4):
        rows = list(range(part * 15, part * 15 + 15))
        pq.write_table(pa.table({"marker": rows, "text": [f"text {r}" for r in rows]}), folder / f"{part}.parquet")
    return lambda: ParquetDataset(folder)


def mds(folder: Path) -> Callable[[], Any]:
    streaming = pytest.importorskip("streaming")
    streaming.base.util.clean_stale_shared_memory()
    write_mds(folder, range(SIZE))
    return lambda: streaming.StreamingDataset(local=str(folder), batch_size=8, shuffle=True)


def webdataset(folder: Path) -> Callable[[], Any]:
    wds = pytest.importorskip("webdataset")
    urls = write_tars(folder, range(SIZE))

    def made() -> Any:
        return wds.WebDataset(urls, shardshuffle=False).shuffle(20).decode().map(lambda s: {"marker": s["cls"]})

    return made


def hugging_face(folder: Path) -> Callable[[], Any]:
    datasets = pytest.importorskip("datasets")
    return lambda: datasets.Dataset.from_dict({"marker": list(range(SIZE))}).shuffle(seed=3)


def hugging_face_iterable(folder: Path) -> Callable[[], Any]:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"marker": list(range(SIZE))})
    return lambda: table.to_iterable_dataset(num_shards=2).shuffle(seed=3, buffer_size=10)


FORMATS = {
    "parquet": (parquet, None),
    "mds": (mds, None),
    "webdataset": (webdataset, None),
    "hugging face": (hugging_face, None),
    "hugging face iterable": (hugging_face_iterable, "marker"),
}


def loss_of(marker: Any) -> torch.Tensor:
    return 1 + torch.sin(torch.as_tensor(marker).float() * 12.9) ** 2


def epoch(loader: Any) -> dict[int, int]:
    """Train on one epoch; which id each marker had."""
    known: dict[int, int] = {}
    for batch, weight in loader:
        losses = loss_of(batch["marker"])
        torch.testing.assert_close(weight.resolve(losses), lin_upper(losses, 0.4), rtol=0, atol=1e-6)
        known |= dict(zip(batch["marker"].tolist(), weight.ids.tolist(), strict=True))
    return known


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.filterwarnings("ignore:.*num_workers.*:UserWarning:webdataset")
def test_the_whole_way_round(name: str, tmp_path: Path) -> None:
    write, id_fn = FORMATS[name]
    folder = tmp_path / "shards"
    folder.mkdir()
    make = write(folder)
    ids: list[dict[int, int]] = []
    for workers in (0, 2):
        with WeightedStream(make(), LinUpper(r=0.4), store=tmp_path / "store", id_fn=id_fn) as stream:
            loader = stream.loader(batch_size=8, num_workers=workers)
            ids += [epoch(loader), epoch(loader)]
            known = ids[-1]
            assert sorted(known) == list(range(SIZE))
            assert len(set(known.values())) == SIZE
            records = stream.store.get([known[marker] for marker in range(SIZE)])
            torch.testing.assert_close(torch.from_numpy(records["last_loss"]), loss_of(range(SIZE)))
            assert (records["visits"] >= len(ids)).all()  # streaming pads an epoch with repeats
            own = DataLoader(stream, batch_size=8, num_workers=workers)
            assert epoch(own) == known
    assert all(known == ids[0] for known in ids)


@pytest.mark.usefixtures("no_stale_shared_memory")
@pytest.mark.mosaicml
def test_streaming_dataloader_counts_samples_right(tmp_path: Path) -> None:
    """Its count of delivered samples, which its checkpoint holds, goes by ``len(batch[0])``."""
    from streaming import StreamingDataLoader, StreamingDataset

    write_mds(tmp_path, range(SIZE))
    given = StreamingDataLoader(StreamingDataset(local=str(tmp_path), batch_size=8, shuffle=False), batch_size=8)
    stream = WeightedStream(given, LinUpper(r=0.4))
    loader = stream.loader()
    assert type(loader._loader) is StreamingDataLoader
    for count, (batch, weight) in enumerate(loader, 1):
        loss_of(batch["marker"]) * weight
        if count == 5:
            state = loader._loader.state_dict()
            break
    assert state["sample_in_epoch"] == 40


def test_a_webloader_keeps_its_pipeline(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    urls = write_tars(tmp_path, range(SIZE))
    inner = wds.WebDataset(urls, shardshuffle=False).decode().map(lambda s: {"marker": s["cls"]}).batched(10)
    given = wds.WebLoader(inner, batch_size=None, num_workers=2).unbatched().shuffle(30).batched(6)
    stream = WeightedStream(given, LinUpper(r=0.4))
    known = epoch(stream)
    assert sorted(known) == list(range(SIZE))
    assert len(set(known.values())) == SIZE
    straight = WeightedStream(wds.WebDataset(urls, shardshuffle=False).decode(), LinUpper(r=0.4), id_fn=None)
    expected = {int(s["cls"]): weight.ids.item() for s, weight in straight}
    assert known == expected


@pytest.mark.parametrize("name", ["parquet", "hugging face"])
def test_dict_batches_carry_ids(name: str, tmp_path: Path) -> None:
    make = FORMATS[name][0](tmp_path)
    stream = WeightedStream(make(), LinUpper(r=0.4), as_dict=True)
    for batch in stream.loader(batch_size=7):
        losses = loss_of(batch["marker"])
        torch.testing.assert_close(stream.weight(batch["sample_id"]).resolve(losses), lin_upper(losses, 0.4))


def test_parquet_shuffles_by_seed_and_epoch(tmp_path: Path) -> None:
    make = parquet(tmp_path)

    def orders(seed: int) -> list[list[int]]:
        loader = WeightedStream(make(), Uniform()).loader(batch_size=4, shuffle=True, seed=seed, num_workers=2)
        return [[m for batch, _ in loader for m in batch["marker"].tolist()] for _ in range(2)]

    assert orders(1) == orders(1)
    assert orders(1)[0] != orders(1)[1]
    assert orders(1) != orders(2)


def test_a_dataloader_of_ones_own_follows_set_epoch(tmp_path: Path) -> None:
    parquet(tmp_path)
    stream = WeightedStream(ParquetDataset(tmp_path, shuffle=True), LinUpper())
    orders = []
    for number in (0, 1, 0):
        stream.set_epoch(number)
        assert stream.epoch == number
        orders.append([m for batch, _ in DataLoader(stream, batch_size=4) for m in batch["marker"].tolist()])
    assert orders[0] == orders[2] != orders[1]


@pytest.mark.parametrize("name", ["mds", "webdataset"])
def test_shuffling_from_outside_is_refused_where_it_cannot_work(name: str, tmp_path: Path) -> None:
    make = FORMATS[name][0](tmp_path)
    with pytest.raises(SourceError, match="in the dataset itself"):
        WeightedStream(make(), LinUpper()).loader(batch_size=4, shuffle=True)
