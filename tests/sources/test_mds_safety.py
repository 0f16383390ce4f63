"""MosaicML indexes that ask for more than reading shards."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from shards import read_index, streaming_here, write_index, write_mds

from weighted_stream import SourceError, Uniform, WeightedStream
from weighted_stream.sources.mds import MDSSource
from weighted_stream.sources.mds_safety import leads_elsewhere, refuse_unsafe

streaming = pytest.importorskip("streaming")


@pytest.fixture(autouse=True)
def here(tmp_path: Path) -> Iterator[None]:
    with streaming_here():
        yield


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    """Shards of which each sample leaves a file behind if it is unpickled."""
    root = tmp_path / "pickled"
    with streaming.MDSWriter(out=str(root), columns={"n": "int", "bag": "pkl"}) as writer:
        for n in range(3):
            writer.write({"n": n, "bag": pickle.dumps(Payload(tmp_path / "proof"))})
    return root


def opened(root: Path, **options: Any) -> Any:
    return streaming.StreamingDataset(local=str(root), batch_size=1, **options)


def test_pickled_columns(pickled: Path, tmp_path: Path) -> None:
    data = opened(pickled, allow_unsafe_types=True)
    data.allow_unsafe_types = False  # as if the dataset's own check were not there
    with pytest.raises(SourceError, match="would be unpickled") as error:
        WeightedStream(data, Uniform())
    assert "'bag'" in error.value.found
    assert "allow_unsafe_types=True" in error.value.do
    assert not (tmp_path / "proof").exists()


def test_who_trusts_them_says_so(pickled: Path, tmp_path: Path) -> None:
    loader = WeightedStream(opened(pickled, allow_unsafe_types=True), Uniform()).loader(batch_size=None)
    assert sorted(sample["n"] for sample, _ in loader) == [0, 1, 2]
    assert (tmp_path / "proof").exists(), "the payload is none"


@pytest.mark.parametrize("name", ["../outside.mds", "deep/../../outside.mds", "{root}/outside.mds"])
@pytest.mark.parametrize("kind", ["raw_data", "zip_data"])
def test_files_elsewhere(name: str, kind: str, tmp_path: Path) -> None:
    root = write_mds(tmp_path / "mds", range(5))
    shards: list[dict[str, Any]] = read_index(root)
    shards[0][kind] = {**shards[0]["raw_data"], "basename": name.format(root=tmp_path)}
    shards[0]["compression"] = "zstd" if kind == "zip_data" else None
    write_index(root, shards)
    (tmp_path / "outside.mds").write_bytes((root / "shard.00000.mds").read_bytes())
    with pytest.raises(SourceError, match="outside of their directory") as error:
        MDSSource(opened(root))
    assert name.format(root=tmp_path) in error.value.found


@pytest.mark.parametrize("samples", [1 << 60, -1])
def test_a_shard_of_any_size(samples: int, tmp_path: Path) -> None:
    shard = next(iter(opened(write_mds(tmp_path / "mds", range(5))).shards))
    shard.samples = samples
    with pytest.raises(SourceError, match="cannot be right"):
        refuse_unsafe(SimpleNamespace(shards=[shard]))


def test_tools_refuse_pickled_columns(pickled: Path, tmp_path: Path) -> None:
    from weighted_stream.shards.folder import open_shards

    with pytest.raises(SourceError, match="Cannot open the MosaicML shards"):
        open_shards(pickled)
    assert not (tmp_path / "proof").exists()
    assert json.loads((pickled / "index.json").read_text())["shards"]


def test_a_name_with_a_null_byte_leads_elsewhere() -> None:
    assert leads_elsewhere("shard\0.mds")
    assert not leads_elsewhere("shard\\0.mds")
