"""Rows of Parquet files in whole batches: what is the same for a block of rows is done once for the block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import IterableDataset

from weighted_stream.sources.ids import shard_ranges
from weighted_stream.sources.parquet_dataset import ParquetDataset, Row
from weighted_stream.sources.wrapping import Forwarding

Ids: TypeAlias = NDArray[np.int64]


class ParquetBatches(Forwarding, IterableDataset[tuple[Ids, list[Row]]]):
    """The rows of an unshuffled `ParquetDataset` as ``(ids, rows)`` of whole batches, for a loader without batching.

    Each reader (a worker of a rank) makes the batches that a loader would make of its rows.

    Args:
        data: the dataset.
        size: rows per batch.
        drop_last: leave a smaller last batch out.
    """

    def __init__(self, data: ParquetDataset, size: int, drop_last: bool) -> None:
        self._wrapped, self._size, self._drop_last = data, size, drop_last

    def __len__(self) -> int:
        rows = len(self._wrapped)
        return rows // self._size if self._drop_last else -(-rows // self._size)

    def __iter__(self) -> Iterator[tuple[Ids, list[Row]]]:
        size, pieces, rows = self._size, list[Ids](), list[Any]()
        for more_ids, more_rows in self._wrapped.deliver(self._block):
            pieces.append(more_ids)
            if rows:
                rows += more_rows
                more_rows.clear()  # the dataset keeps this list until it makes the next
            else:
                rows = more_rows
            if len(rows) < size:
                continue
            ids = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
            whole = len(rows) - len(rows) % size
            for start in range(0, whole, size):
                yield ids[start : start + size], _taken(rows, start, size)
            pieces, rest = [ids[whole:]] if whole < len(rows) else [], rows[whole:]
            rows.clear()
            rows = rest
        if rows and not self._drop_last:
            yield np.concatenate(pieces), rows

    def _block(self, file: int, start: int, rows: list[Row]) -> Iterable[tuple[Ids, list[Row]]]:
        ranges = shard_ranges(self._wrapped.files.keys[file], start, start + len(rows))
        ids = [np.arange(part.start, part.stop) for part in ranges]
        return [(ids[0] if len(ids) == 1 else np.concatenate(ids), rows)]


def _taken(rows: list[Any], start: int, size: int) -> list[Row]:
    """Take rows out: what a batch leaves behind is memory for the next block, and still in the cache."""
    taken = rows[start : start + size]
    rows[start : start + size] = [None] * size
    return taken
