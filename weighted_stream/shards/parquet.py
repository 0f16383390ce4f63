"""Parquet shards: writing them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from weighted_stream.errors import SourceError
from weighted_stream.shards.blocks import Row

GROUP = 1024
"""Samples of a row group, the unit in which readers share a file."""


class ParquetShards:
    """Writes Parquet shards. All types are kept; dicts become structs, whose missing keys read as None.

    Args:
        folder: for the shards.
        schema: the columns.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._folder, self._schema = folder, schema
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[Row] = []
        self._shards = 0

    def begin(self) -> None:
        """Begin a shard.

        Raises:
            SourceError: if Parquet has no place for a column (a dict that is always empty).
        """
        path = self._folder / f"{self._shards:05}.parquet"
        try:
            self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        except pa.ArrowException as error:
            raise SourceError(
                "Parquet cannot hold these columns.",
                found=f"{error}",
                expected="columns that Parquet has a type for",
                do="leave the column out, or convert to mds or webdataset",
            ) from error
        self._shards += 1

    def write(self, row: Row) -> None:
        """Write a sample."""
        self._waiting.append(row)
        if len(self._waiting) == GROUP:
            self._flush()

    def end(self) -> None:
        """Finish the shard."""
        if self._waiting:
            self._flush()
        if self._writer is not None:
            self._writer.close()

    def close(self) -> None:
        """Nothing is left to do."""

    def _flush(self) -> None:
        assert self._writer is not None
        self._writer.write_table(pa.Table.from_pylist(self._waiting, schema=self._schema))
        self._waiting = []
