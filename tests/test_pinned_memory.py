"""Ids and weights through a loader that pins its batches, as loaders of GPU training do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pinning import pinning
from resuming import assert_same_store
from torch.utils.data import DataLoader

from weighted_stream import LinUpper, ParquetDataset, WeightedStream

SAMPLES, BATCH = 40, 8


class Tuples(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        return torch.full((3,), float(index)), index


class Dicts(Tuples):
    def __getitem__(self, index: int) -> Any:
        return {"x": torch.full((3,), float(index)), "text": f"text {index}", "marker": index}


class Ordered(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        info = torch.utils.data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for index in range(first, SAMPLES, step):
            yield {"x": torch.full((3,), float(index)), "marker": index}


def marker(batch: Any) -> list[int]:
    """What the samples say they are."""
    return (batch["marker"] if isinstance(batch, dict) else batch[1]).tolist()


def group(sample: Any) -> str:
    return "even" if sample["marker"] % 2 == 0 else "odd"


def epoch(make: Callable[[WeightedStream], Any], stream: WeightedStream) -> dict[int, float]:
    """Train on one; the weight of each sample, by its marker."""
    found: dict[int, float] = {}
    for batch, weight in make(stream):
        assert torch.is_tensor(batch["x"] if isinstance(batch, dict) else batch[0])
        losses = torch.tensor([0.5 + (one * 7 % 11) for one in marker(batch)])
        product = losses * weight
        found |= dict(zip(marker(batch), (product / losses).tolist(), strict=True))
    return found


SHAPES: dict[str, tuple[Callable[[], Any], dict[str, Any], Callable[..., Any]]] = {
    "tuples": (Tuples, {}, lambda stream, **more: stream.loader(**more)),
    "dicts": (Dicts, {}, lambda stream, **more: stream.loader(**more)),
    "with groups": (Dicts, {"group_fn": group}, lambda stream, **more: stream.loader(**more)),
    "iterable": (Ordered, {"id_fn": "marker"}, lambda stream, **more: stream.loader(**more)),
    "a DataLoader over it": (Dicts, {}, lambda stream, **more: DataLoader(stream, **more)),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_pinned_batches_keep_their_ids_and_weights(shape: str, workers: int) -> None:
    dataset, options, make = SHAPES[shape]

    def run(pin: bool) -> tuple[dict[int, float], WeightedStream]:
        stream = WeightedStream(dataset(), LinUpper(), **options)
        more = {"batch_size": BATCH, "num_workers": workers, "pin_memory": pin}
        return epoch(lambda stream: make(stream, **more), stream), stream

    plain, bare = run(False)
    with pinning() as pinned:
        found, stream = run(True)
    assert len(pinned) >= 2 * SAMPLES // BATCH
    assert found == plain
    assert sorted(found) == list(range(SAMPLES))
    assert_same_store(stream, bare)
    assert stream.stats()["visits"] == SAMPLES
    if "group_fn" in options:
        assert stream.store.groups == bare.store.groups != ()


@pytest.mark.parametrize("workers", [0, 2])
def test_ids_inside_pinned_dicts(workers: int) -> None:
    with pinning() as pinned:
        stream = WeightedStream(Dicts(), LinUpper(), as_dict=True)
        loader = stream.loader(batch_size=BATCH, shuffle=True, num_workers=workers, pin_memory=True)
        for batch in loader:
            assert any(batch["sample_id"] is one for one in pinned)
            assert batch["sample_id"].dtype == torch.int64
            assert batch["sample_id"].tolist() == batch["marker"].tolist()
            losses = batch["x"].mean(1) + 1
            assert bool(torch.isfinite(losses * stream.weight(batch["sample_id"])).all())
    assert stream.stats()["visits"] == SAMPLES


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_pins_is_wrapped(workers: int) -> None:
    stream = WeightedStream(DataLoader(Tuples(), batch_size=BATCH, num_workers=workers, pin_memory=True), LinUpper())
    with pinning() as pinned:
        assert sorted(epoch(lambda stream: stream.loader(), stream)) == list(range(SAMPLES))
    assert len(pinned) == 2 * SAMPLES // BATCH


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata 0.11 under the newest torch
@pytest.mark.parametrize("kind", ["StatefulDataLoader", "StreamingDataLoader", "WebLoader"])
@pytest.mark.mosaicml
def test_loaders_of_other_libraries(kind: str, tmp_path: Path) -> None:
    more = {"batch_size": BATCH, "num_workers": 2, "pin_memory": True}
    if kind == "StatefulDataLoader":
        torchdata = pytest.importorskip("torchdata.stateful_dataloader")
        loader = torchdata.StatefulDataLoader(Dicts(), **more)
    elif kind == "StreamingDataLoader":
        streaming = pytest.importorskip("streaming")
        with streaming.MDSWriter(out=str(tmp_path), columns={"marker": "int"}) as out:
            for index in range(SAMPLES):
                out.write({"marker": index})
        loader = streaming.StreamingDataLoader(
            streaming.StreamingDataset(local=str(tmp_path), batch_size=BATCH), **more
        )
    else:
        webdataset = pytest.importorskip("webdataset")
        with webdataset.TarWriter(str(tmp_path / "0.tar")) as tar:
            for index in range(SAMPLES):
                tar.write({"__key__": f"{index:04d}", "marker.cls": index, "x.npy": np.full(3, index, np.float32)})
        dataset = webdataset.WebDataset(
            str(tmp_path / "0.tar"), shardshuffle=False, nodesplitter=None, empty_check=False
        )
        named = dataset.decode().rename(marker="marker.cls", x="x.npy").batched(BATCH)
        loader = webdataset.WebLoader(named, batch_size=None, num_workers=2, pin_memory=True)
    with pinning() as pinned:
        stream = WeightedStream(loader, LinUpper())
        found: dict[int, float] = {}
        for batch, weight in stream.loader():
            losses = torch.as_tensor(np.asarray(batch["marker"])).float() + 1
            found |= dict(zip(np.asarray(batch["marker"]).tolist(), (losses * weight).tolist(), strict=True))
    assert sorted(found) == list(range(SAMPLES))
    assert pinned
    assert stream.stats()["visits"] == SAMPLES


def test_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"marker": np.arange(SAMPLES)}), tmp_path / "0.parquet")
    with pinning() as pinned:
        stream = WeightedStream(ParquetDataset(tmp_path), LinUpper())
        loader = stream.loader(batch_size=BATCH, pin_memory=True)
        seen = [number for batch, _ in loader for number in batch["marker"].tolist()]
    assert sorted(seen) == list(range(SAMPLES))
    assert len(pinned) == SAMPLES // BATCH
