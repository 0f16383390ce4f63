"""The same texts as MDS, WebDataset and Parquet shards, and the dataset that reads each."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet

from weighted_stream.demo.texts import Sample
from weighted_stream.errors import SourceError, missing_extra
from weighted_stream.sources.parquet import ParquetDataset

SHARDS = 8
"""Shards of each format."""

_BUFFER = 2000


class _Format(NamedTuple):
    """How a format is written and read."""

    write: Callable[[list[dict[str, Any]], Path, int], None]
    read: Callable[[Path, int, int], Any]


def write_shards(samples: Sequence[Sample], folder: Path, kind: str, shards: int = SHARDS) -> list[Path]:
    """Write samples ``{"text": str, "kind": str, "row": int}`` as shards.

    Args:
        samples: in this order; ``row`` counts them.
        folder: is emptied first.
        kind: ``"mds"``, ``"webdataset"`` or ``"parquet"``.
        shards: how many, about the same size each; MDS, which cuts by size, may need one more.

    Returns:
        The shards.

    Raises:
        SourceError: for another ``kind``, or no samples.
        MissingExtraError: if the package that writes this format is not installed.
    """
    form = _format(kind)
    if not samples:
        raise SourceError(
            "There is nothing to write.", found="no samples", expected="one or more", do="check the corpus"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows = [{"text": s.text, "kind": s.kind, "row": row} for row, s in enumerate(samples)]
    form.write(rows, folder, shards)
    return sorted(path for path in folder.iterdir() if path.suffix in (".mds", ".tar", ".parquet"))


def read_shards(folder: Path, kind: str, seed: int, batch_size: int) -> Any:
    """A dataset of the samples in the shards, shuffled by seed and epoch.

    Args:
        folder: where `write_shards` wrote them.
        kind: the format.
        seed: of the order.
        batch_size: of the loader; MDS plans its order by it.

    Raises:
        SourceError: for another ``kind``.
        MissingExtraError: if the package that reads this format is not installed.
    """
    return _format(kind).read(folder, seed, batch_size)


def _format(kind: str) -> _Format:
    if kind not in FORMATS:
        raise SourceError(
            "There is no such shard format.",
            found=repr(kind),
            expected="one of " + ", ".join(map(repr, FORMATS)),
            do="check the spelling",
        )
    return FORMATS[kind]


def _write_mds(rows: list[dict[str, Any]], folder: Path, shards: int) -> None:
    try:
        from streaming import MDSWriter
    except ImportError as error:
        raise missing_extra("mosaicml-streaming", "mds") from error
    # A row has its text, its kind, its number and about 32 bytes of sizes.
    size = sum(len(row["text"].encode()) + len(row["kind"]) + 40 for row in rows) // shards + 1
    columns = {"text": "str", "kind": "str", "row": "int"}
    with MDSWriter(out=str(folder), columns=columns, size_limit=size) as writer:
        for row in rows:
            writer.write(row)


def _read_mds(folder: Path, seed: int, batch_size: int) -> Any:
    try:
        from streaming import StreamingDataset
    except ImportError as error:
        raise missing_extra("mosaicml-streaming", "mds") from error
    return StreamingDataset(local=str(folder), shuffle=True, shuffle_seed=seed, batch_size=batch_size)


def _write_webdataset(rows: list[dict[str, Any]], folder: Path, shards: int) -> None:
    try:
        from webdataset import ShardWriter
    except ImportError as error:
        raise missing_extra("webdataset", "webdataset") from error
    rows_each = -(-len(rows) // shards)
    with ShardWriter(str(folder / "%05d.tar"), maxcount=rows_each, verbose=0) as writer:
        for row in rows:
            writer.write({"__key__": f"{row['row']:08}", "json": row})


def _read_webdataset(folder: Path, seed: int, batch_size: int) -> Any:
    try:
        import webdataset
    except ImportError as error:
        raise missing_extra("webdataset", "webdataset") from error
    shards = [str(path) for path in sorted(folder.glob("*.tar"))]
    dataset = webdataset.WebDataset(shards, shardshuffle=len(shards), detshuffle=True, seed=seed)
    return dataset.shuffle(_BUFFER, seed=seed).decode().map(itemgetter("json"))


def _write_parquet(rows: list[dict[str, Any]], folder: Path, shards: int) -> None:
    rows_each = -(-len(rows) // shards)
    for number, start in enumerate(range(0, len(rows), rows_each)):
        table = pyarrow.Table.from_pylist(rows[start : start + rows_each])
        pyarrow.parquet.write_table(table, folder / f"{number:05}.parquet")


def _read_parquet(folder: Path, seed: int, batch_size: int) -> Any:
    return ParquetDataset(str(folder), shuffle=True, seed=seed, buffer_size=_BUFFER)


FORMATS = {
    "mds": _Format(_write_mds, _read_mds),
    "webdataset": _Format(_write_webdataset, _read_webdataset),
    "parquet": _Format(_write_parquet, _read_parquet),
}
"""The shard formats by name."""
