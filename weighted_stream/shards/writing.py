"""Samples into shards of one of three formats."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from weighted_stream.errors import SourceError
from weighted_stream.shards.blocks import Row
from weighted_stream.shards.mds import MDSShards
from weighted_stream.shards.parquet import ParquetShards
from weighted_stream.shards.webdataset import TarShards


class Shards(Protocol):
    """Writes the shards of one format, one after the other."""

    def begin(self) -> None:
        """Begin a shard."""
        ...

    def write(self, row: Row) -> None:
        """Write a sample into it."""
        ...

    def end(self) -> None:
        """Finish it."""
        ...

    def close(self) -> None:
        """After the last one: write what is about all of them."""
        ...


FORMATS: dict[str, Callable[[Path, pa.Schema], Shards]] = {
    "mds": MDSShards,
    "webdataset": TarShards,
    "parquet": ParquetShards,
}
"""The shard formats by name."""

ENDINGS = {"mds": ".mds", "webdataset": ".tar", "parquet": ".parquet"}
"""How the names of a format's shards end."""


@dataclass(frozen=True)
class ShardSize:
    """Where a shard ends.

    Attributes:
        samples: it holds no more than this many; None: any number.
        bytes: it ends before the sample that would make it larger than this, counted without the overhead of the format
            and its compression; None: any size.
    """

    samples: int | None = None
    bytes: int | None = 64 << 20

    def full(self, samples: int, size: int) -> bool:
        """Whether this is more than a shard may hold."""
        return (self.samples is not None and samples > self.samples) or (self.bytes is not None and size > self.bytes)


def write_shards(
    rows: Iterable[Row], folder: Path, kind: str, schema: pa.Schema, size: ShardSize | None = None
) -> list[Path]:
    """Write samples as shards. One shard is held in memory for MDS, a row group for Parquet, a sample for WebDataset.

    Args:
        rows: the samples, in this order, each with all columns of the schema.
        folder: an empty directory.
        kind: ``"mds"``, ``"webdataset"`` or ``"parquet"``.
        schema: the columns.
        size: of a shard; default: 64 MiB.

    Returns:
        The shards, in order.

    Raises:
        SourceError: for another ``kind``, no samples, or a column that the format cannot hold.
        MissingExtraError: if the package that writes this format is not installed.
    """
    shards, size = shard_writer(kind)(folder, schema), size or ShardSize()
    samples = held = 0
    try:
        for row in rows:
            weight = sum(map(_weight, row.values()))
            if samples and size.full(samples + 1, held + weight):
                shards.end()
                samples = held = 0
            if not samples:
                shards.begin()
            shards.write(row)
            samples, held = samples + 1, held + weight
        if not samples:
            raise SourceError("There is nothing to write.", found="no samples", expected="one or more", do="check them")
    except BaseException:
        if samples:
            with suppress(Exception):  # of the two errors, the first one tells more
                shards.end()
        raise
    shards.end()
    shards.close()
    return sorted(folder.glob(f"*{ENDINGS[kind]}"))


def shard_writer(kind: str) -> Callable[[Path, pa.Schema], Shards]:
    """What writes this format.

    Raises:
        SourceError: if there is no such format.
    """
    if kind not in FORMATS:
        raise SourceError(
            "There is no such shard format.",
            found=repr(kind),
            expected="one of " + ", ".join(map(repr, FORMATS)),
            do="check the spelling",
        )
    return FORMATS[kind]


def _weight(value: Any) -> int:
    """About how many bytes a value takes."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, dict):
        return sum(len(key) + _weight(inner) for key, inner in value.items())
    return sum(map(_weight, value)) if isinstance(value, list) else 8
