"""The same texts as MDS, WebDataset and Parquet shards, and the dataset that reads each."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa

from weighted_stream.demo.texts import Sample
from weighted_stream.errors import SourceError
from weighted_stream.shards import writing
from weighted_stream.shards.mds import open_mds
from weighted_stream.shards.webdataset import open_webdataset
from weighted_stream.shards.writing import ShardSize, shard_writer
from weighted_stream.sources.parquet import ParquetDataset

SHARDS = 8
"""Shards of each format."""

_BUFFER = 2000
_COLUMNS = pa.schema(
    [pa.field(n, t, nullable=False) for n, t in [("text", pa.string()), ("kind", pa.string()), ("row", pa.int64())]]
)


def write_shards(samples: Sequence[Sample], folder: Path, kind: str, shards: int = SHARDS) -> list[Path]:
    """Write samples ``{"text": str, "kind": str, "row": int}`` as shards.

    Args:
        samples: in this order; ``row`` counts them.
        folder: is emptied first.
        kind: ``"mds"``, ``"webdataset"`` or ``"parquet"``.
        shards: how many, at most; of as many samples each, but for the last.

    Returns:
        The shards.

    Raises:
        SourceError: for another ``kind``, or no samples.
        MissingExtraError: if the package that writes this format is not installed.
    """
    shard_writer(kind)
    if not samples:
        raise SourceError(
            "There is nothing to write.", found="no samples", expected="one or more", do="check the corpus"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows = ({"text": s.text, "kind": s.kind, "row": row} for row, s in enumerate(samples))
    return writing.write_shards(rows, folder, kind, _COLUMNS, ShardSize(-(-len(samples) // shards), None))


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
    shard_writer(kind)
    return FORMATS[kind](folder, seed, batch_size)


def _read_mds(folder: Path, seed: int, batch_size: int) -> Any:
    return open_mds(folder, shuffle=True, shuffle_seed=seed, batch_size=batch_size)


def _read_webdataset(folder: Path, seed: int, batch_size: int) -> Any:
    shards = sorted(folder.glob("*.tar"))
    dataset = open_webdataset(shards, shardshuffle=len(shards), detshuffle=True, seed=seed)
    return dataset.shuffle(_BUFFER, seed=seed).decode().map(itemgetter("json"))


def _read_parquet(folder: Path, seed: int, batch_size: int) -> Any:
    return ParquetDataset(str(folder), shuffle=True, seed=seed, buffer_size=_BUFFER)


FORMATS = {"mds": _read_mds, "webdataset": _read_webdataset, "parquet": _read_parquet}
"""How the shards of each format are read."""
