"""Small data sets of every format, for runs that go through them hundreds of times."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

SIZE = 20_480
SHARDS = 8
ROWS = SIZE // SHARDS
SOURCES = ("list", "parquet", "webdataset", "mds")


def write(folder: Path, source: str) -> None:
    """Write the shards of a source: samples with a ``marker`` of their own, 0 to `SIZE` - 1."""
    if source == "list":
        return
    folder.mkdir(parents=True)
    {"parquet": _parquet, "webdataset": _tars, "mds": _mds}[source](folder)


def read(folder: Path, source: str) -> Any:
    """The data set."""
    if source == "list":
        return [{"marker": marker} for marker in range(SIZE)]
    if source == "parquet":
        from weighted_stream import ParquetDataset

        return ParquetDataset(folder, shuffle=True, seed=5, buffer_size=500)
    if source == "webdataset":
        import webdataset

        shards = [str(path) for path in sorted(folder.glob("*.tar"))]
        return webdataset.WebDataset(shards, shardshuffle=False, detshuffle=True, seed=4).decode().map(_from_json)
    import streaming

    return streaming.StreamingDataset(local=str(folder), batch_size=64, shuffle=True)


def _from_json(sample: dict[str, Any]) -> dict[str, int]:
    marker: dict[str, int] = sample["json"]
    return marker


def _markers(shard: int) -> range:
    return range(shard * ROWS, (shard + 1) * ROWS)


def _parquet(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for shard in range(SHARDS):
        pq.write_table(pa.table({"marker": list(_markers(shard))}), folder / f"{shard}.parquet", row_group_size=500)


def _tars(folder: Path) -> None:
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as tar:
            for row, marker in enumerate(_markers(shard)):
                data = json.dumps({"marker": marker}).encode()
                member = tarfile.TarInfo(f"{row:05}.json")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def _mds(folder: Path) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(folder), columns={"marker": "int"}, size_limit=1 << 15) as writer:
        for marker in range(SIZE):
            writer.write({"marker": marker})
