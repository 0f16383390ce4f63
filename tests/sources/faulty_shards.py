"""Shards of every kind with something wrong in one of them: how they are written, broken and read."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shards import read_index, write_index, write_mds, write_tar

from weighted_stream import ParquetDataset

SHARDS, ROWS = 4, 10
BAD = 2
"""The shard that is broken."""


class Format:
    """How shards of a kind are written, read and named."""

    def __init__(
        self, name: str, write: Callable[[Path], None], read: Callable[[Path], Any], file: str, **options: Any
    ):
        self.name, self.write, self.read, self.file, self.options = name, write, read, file, options

    def shard(self, folder: Path, number: int = BAD) -> Path:
        return folder / self.file.format(number)


def rows(number: int) -> list[int]:
    return list(range(number * ROWS, (number + 1) * ROWS))


def write_mds_shards(folder: Path) -> None:
    pytest.importorskip("streaming")
    write_mds(folder, range(SHARDS * ROWS))


def write_mds_hashed(folder: Path) -> None:
    pytest.importorskip("streaming")
    from streaming.base.hashing import get_hash

    write_mds_shards(folder)
    index = read_index(folder)
    for shard in index:
        raw: Any = shard["raw_data"]
        raw["hashes"] = {"xxh64": get_hash("xxh64", (folder / raw["basename"]).read_bytes())}
    write_index(folder, index)


def read_mds(folder: Path) -> Any:
    from streaming import StreamingDataset

    return StreamingDataset(local=str(folder), batch_size=4, shuffle=False)


def _write_tars(folder: Path) -> None:
    pytest.importorskip("webdataset")
    for number in range(SHARDS):
        write_tar(folder / f"{number:05}.tar", rows(number))


def _read_tars(folder: Path) -> Any:
    import webdataset

    return webdataset.WebDataset(listed(folder, "tar"), shardshuffle=False, empty_check=False).decode().map(of_tar)


def of_tar(sample: dict[str, Any]) -> dict[str, Any]:
    return {"marker": sample["cls"], "text": json.dumps(sample["json"])}


def listed(folder: Path, kind: str) -> list[str]:
    listed = folder / "listed.json"
    files: list[str] = json.loads(listed.read_text()) if listed.exists() else sorted(map(str, folder.glob(f"*.{kind}")))
    return [file for file in files if not file.endswith("listed.json")]


def _write_parquet(folder: Path) -> None:
    for number in range(SHARDS):
        table = pa.table({"marker": rows(number), "text": [f"text {row}" for row in rows(number)]})
        pq.write_table(table, folder / f"{number}.parquet", write_page_checksum=True)


def _read_parquet(folder: Path) -> ParquetDataset:
    return ParquetDataset(listed(folder, "parquet"))


def _write_json(folder: Path) -> None:
    for number in range(SHARDS):
        lines = [json.dumps({"marker": row, "text": f"text {row}"}) for row in rows(number)]
        (folder / f"{number}.json").write_text("\n".join([*lines, ""]))


def _read_hugging_face(kind: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        datasets = pytest.importorskip("datasets")
        cache, files = str(folder / "cache"), listed(folder, kind)
        return datasets.load_dataset(kind, data_files=files, split="train", streaming=True, cache_dir=cache)

    return read


FORMATS = {
    one.name: one
    for one in (
        Format("mds", write_mds_shards, read_mds, "shard.{:05}.mds"),
        Format("mds with hashes", write_mds_hashed, read_mds, "shard.{:05}.mds"),
        Format("webdataset", _write_tars, _read_tars, "{:05}.tar"),
        Format("parquet", _write_parquet, _read_parquet, "{}.parquet"),
        Format("hugging face parquet", _write_parquet, _read_hugging_face("parquet"), "{}.parquet", id_fn="marker"),
        Format("hugging face json", _write_json, _read_hugging_face("json"), "{}.json", id_fn="marker"),
    )
}


def cut(share: float) -> Callable[[Path], None]:
    def breaks(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return breaks


def flip(share: float) -> Callable[[Path], None]:
    def breaks(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int((len(data) - 1) * share)] ^= 0x80
        path.write_bytes(bytes(data))

    return breaks


def empty(path: Path) -> None:
    path.write_bytes(b"")


def copied(path: Path) -> None:
    """The same shard under two names."""
    if path.suffix == ".mds":
        index = read_index(path.parent)
        one: Any = json.loads(json.dumps(index[BAD]))
        one["raw_data"]["basename"] = "shard.00009.mds"
        write_index(path.parent, [*index, one])
        shutil.copy(path, path.with_name("shard.00009.mds"))
    else:
        shutil.copy(path, path.with_name(f"9{path.name}"))


def listed_twice(path: Path) -> None:
    if path.suffix == ".mds":
        index = read_index(path.parent)
        write_index(path.parent, [*index, index[BAD]])
    else:
        files = sorted(path.parent.glob(f"*{path.suffix}"))
        (path.parent / "listed.json").write_text(json.dumps([str(file) for file in [*files, path]]))


def other_schema(path: Path) -> None:
    if path.suffix == ".mds":
        from streaming import MDSWriter

        with MDSWriter(out=str(path.parent / "other"), columns={"marker": "str", "title": "str"}) as writer:
            for row in rows(BAD):
                writer.write({"marker": str(row), "title": "other"})
        index = read_index(path.parent)
        other: Any = json.loads((path.parent / "other" / "index.json").read_text())["shards"][0]
        shutil.copy(path.parent / "other" / other["raw_data"]["basename"], path)
        index[BAD] = other | {"raw_data": other["raw_data"] | {"basename": path.name}}
        write_index(path.parent, index)
    elif path.suffix == ".tar":
        with tarfile.open(path, "w") as tar:
            for row in rows(BAD):
                info = tarfile.TarInfo(f"{row:04}.txt")
                info.size = 2
                tar.addfile(info, io.BytesIO(b"ab"))
    elif path.suffix == ".json":
        path.write_text(json.dumps({"title": "other"}) + "\n")
    else:
        pq.write_table(pa.table({"marker": [1.5], "title": ["other"]}), path)


BEFORE: dict[str, Callable[[Path], None]] = {
    "empty": empty,
    "cut early": cut(0.15),
    "cut late": cut(0.65),
    "copied": copied,
    "listed twice": listed_twice,
    "other schema": other_schema,
}
FLIPS: dict[str, Callable[[Path], None]] = {f"bit at {share}": flip(share) for share in (0.1, 0.45, 0.7, 1.0)}
