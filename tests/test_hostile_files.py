"""Files that strangers may have made, for those readers of ours that unpack or parse: bounds, and no code."""

from __future__ import annotations

import gc
import gzip
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from weighted_stream import (
    ParquetDataset,
    ScoringError,
    SourceError,
    StateError,
    TargetSet,
    WeightedStreamError,
    text_lines,
)
from weighted_stream.demo.corpus import read_texts
from weighted_stream.shards.folder import open_shards
from weighted_stream.shards.inputs import open_input
from weighted_stream.strategies.weighting_files import load_network, save_network

# webdataset closes no file that it has not read to its end.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning", "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)


class Payload:
    """Whoever unpickles it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def converted(path: Path) -> list[Any]:
    return [row for block in open_input(path).blocks() for row in block.rows]


def as_target(path: Path) -> Any:
    return list(TargetSet(path))


READERS: dict[str, Callable[[Path], Any]] = {"convert": converted, "target": as_target, "demo": read_texts}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_a_line_without_end(reader: str, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "LINE", 10_000)
    path = tmp_path / f"a{ending}"
    data = b'{"text": "a"}\n{"text": "' + b"a" * 50_000 + b'"}\n'
    path.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    with pytest.raises((SourceError, ScoringError), match="line 2 has more than 10,000 characters"):
        READERS[reader](path)


@pytest.mark.parametrize("reader", READERS)
def test_a_small_file_that_unpacks_to_a_huge_one(reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "UNPACKED", 100_000)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n' * 200_000))
    with pytest.raises((SourceError, ScoringError), match="unpacks to more than"):
        READERS[reader](path)


def test_a_text_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "LINE", 10_000)
    (tmp_path / "a.txt").write_text("a line\n" * 5_000)
    with pytest.raises(SourceError, match="more than 10,000 characters"):
        list(open_input(tmp_path / "a.txt", "file").blocks())
    assert len(converted(tmp_path / "a.txt")) == 5_000


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_json_as_deep_as_a_well(reader: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    data = b"[" * 200_000 + b"\n"
    path.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    with pytest.raises((SourceError, ScoringError)):
        READERS[reader](path)


@pytest.mark.parametrize("reader", READERS)
def test_damaged_gzip(reader: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    lines = b"".join(b'{"text": "%d"}\n' % n for n in range(1000))
    data = gzip.compress(lines)
    for damaged in (data[:-100], data[:500] + b"\xff" * 20 + data[520:], data[:20], b"\x1f\x8b" + b"\0" * 50, lines):
        path.write_bytes(damaged)
        with pytest.raises((SourceError, ScoringError)):
            READERS[reader](path)


def test_a_weighting_network_that_is_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "psi.npz"
    proof = tmp_path / "proof"
    with path.open("wb") as file:
        np.savez(file, about=np.array([Payload(proof)], object))
    with pytest.raises(StateError):
        load_network(path)
    for write in (lambda: path.write_bytes(pickle.dumps(Payload(proof))), lambda: torch.save(Payload(proof), path)):
        write()
        with pytest.raises(StateError):
            load_network(path)
    assert not proof.exists()


@pytest.mark.parametrize("shape", [(1 << 60,), (1 << 40, 1 << 40), (-1,)])
def test_a_weighting_network_of_any_size(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "psi.npz"
    save_network(path, {"hidden": 1}, {"weight": torch.zeros(3)})
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path) as old:
        kept = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in kept.items():
            new.writestr(name, header.getvalue() if name == "psi.weight.npy" else data)
    with pytest.raises(StateError):
        load_network(path)


def test_a_weighting_network_that_unpacks_to_a_huge_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "psi.npz"
    np.savez_compressed(path, about=np.zeros(10_000_000, np.uint8))
    monkeypatch.setattr("weighted_stream.strategies.weighting_files.LARGEST", 1_000_000)
    with pytest.raises(StateError, match="10,000,128 bytes, unpacked"):
        load_network(path)


def test_arrow_types_of_strangers(tmp_path: Path) -> None:
    """Old versions of pyarrow unpickled the types of columns; those that we need do not."""
    proof = tmp_path / "proof"
    field = pa.field(
        "n",
        pa.int64(),
        metadata={
            b"ARROW:extension:name": b"arrow.py_extension_type",
            b"ARROW:extension:metadata": pickle.dumps(Payload(proof)),
        },
    )
    schema = pa.schema([field], metadata={b"pandas": pickle.dumps(Payload(proof))})
    pq.write_table(pa.table([pa.array([1, 2])], schema=schema), tmp_path / "a.parquet")
    assert [row["n"] for row in ParquetDataset(tmp_path / "a.parquet")] == [1, 2]
    assert len(converted(tmp_path / "a.parquet")) == 2
    assert [row["n"] for shard in open_shards(tmp_path).shards for _, row in shard.read()] == [1, 2]
    assert not proof.exists()


@pytest.mark.parametrize("said", [1 << 60, (1 << 63) - 1, 1 << 40])
def test_a_footer_of_any_size(said: int, tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": range(12_345)}), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    size = struct.unpack("<I", data[-8:-4])[0]
    footer = data[-8 - size : -8].replace(varint(12_345), varint(said))
    (tmp_path / "a.parquet").write_bytes(data[: -8 - size] + footer + struct.pack("<I", len(footer)) + b"PAR1")
    assert pq.read_metadata(tmp_path / "a.parquet").num_rows == said
    with pytest.raises(SourceError, match="cannot be right"):
        ParquetDataset(tmp_path)
    with pytest.raises(SourceError, match="cannot be right"):
        open_shards(tmp_path)


def varint(number: int) -> bytes:
    """A 64-bit field of a footer, as Thrift writes it."""
    left, found = 2 * number, b"\x16"
    while left >= 0x80:
        found, left = found + bytes([left & 0x7F | 0x80]), left >> 7
    return found + bytes([left])


def test_a_saved_dataset_of_strangers(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder, proof = tmp_path / "saved", tmp_path / "proof"
    datasets.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(str(folder))
    state = json.loads((folder / "state.json").read_text())
    state["_format_type"] = None
    for name in ("extra.pkl", "dataset.pickle", "indices.pkl"):
        (folder / name).write_bytes(pickle.dumps(Payload(proof)))
    (folder / "state.json").write_text(json.dumps(state))
    assert [row["text"] for row in converted(folder)] == ["a", "b"]
    assert not proof.exists()


@pytest.mark.parametrize("size", [1 << 60, (1 << 63) - 1])
def test_a_tar_member_that_says_it_is_huge(size: int, tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    import tarfile

    info = tarfile.TarInfo("0.json")
    info.size = size
    (tmp_path / "0.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"{}".ljust(512, b"\0") + bytes(1024))
    with pytest.raises(WeightedStreamError, match=r"0\.tar"):
        [row for shard in open_shards(tmp_path).shards for row in shard.read()]
    gc.collect()  # the file that webdataset leaves open, here where it is known of


@pytest.mark.parametrize("kind", ["absolute", "above", "link", "hard link", "device"])
def test_tar_members_that_point_outside(kind: str, tmp_path: Path) -> None:
    """Nothing is unpacked to a disk, so a name leads nowhere, and what is no file is not followed."""
    pytest.importorskip("webdataset")
    import tarfile

    secret = tmp_path / "secret.json"
    secret.write_text('{"text": "secret"}')
    shards = tmp_path / "shards"
    shards.mkdir()
    with tarfile.open(shards / "0.tar", "w") as tar:
        names = {"absolute": f"{tmp_path}/0.json", "above": "../0.json"}
        info = tarfile.TarInfo(names.get(kind, "0.json"))
        data = b'{"text": "mine"}'
        if kind in ("link", "hard link"):
            info.type, info.linkname, data = tarfile.SYMTYPE if kind == "link" else tarfile.LNKTYPE, str(secret), b""
        elif kind == "device":
            info.type, data = tarfile.CHRTYPE, b""
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    before = sorted(tmp_path.rglob("*"))
    rows = [row for shard in open_shards(shards).shards for _, row in shard.read()]
    assert rows == ([{"text": "mine"}] if kind in names else [])
    assert sorted(tmp_path.rglob("*")) == before
