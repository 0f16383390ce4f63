"""ShardTable: which shard a sample lies in, told by its id."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from weighted_stream.sources.ids import ROW_BITS, shard_base
from weighted_stream.store.record import Ids

_BY_ROW = ("mds", "parquet")


class ShardTable:
    """Looks up shards where ids are made of shard and row: MosaicML streaming and Parquet, without ``id_fn``.

    Args:
        kind: of the source, as its fingerprint says it.
        shards: rows by name.

    Attributes:
        names: of the shards, by number; empty for a dataset whose ids do not tell.

    Example:
        >>> from weighted_stream.sources.ids import shard_id
        >>> table = ShardTable("parquet", {"a.parquet": 100, "b.parquet": 100})
        >>> table.numbers(np.array([shard_id("b.parquet", 7), shard_id("a.parquet", 0), 5])).tolist()
        [1, 0, -1]
    """

    def __init__(self, kind: str, shards: Mapping[str, int]) -> None:
        self.names: tuple[str, ...] = tuple(shards) if kind in _BY_ROW else ()
        blocks = {
            shard_base(name, block) >> ROW_BITS: number
            for number, name in enumerate(self.names)
            for block in range(max(shards[name] - 1, 0) // (1 << ROW_BITS) + 1)
        }
        self._blocks = np.fromiter(blocks, np.int64, len(blocks))
        self._numbers = np.fromiter(blocks.values(), np.int64, len(blocks))
        order = np.argsort(self._blocks)
        self._blocks, self._numbers = self._blocks[order], self._numbers[order]

    def numbers(self, ids: Ids) -> NDArray[np.int64]:
        """The numbers of their shards, (n,) for (n,) ids; -1 where none is known."""
        if not len(self._blocks):
            return np.full(len(ids), -1, np.int64)
        blocks = ids >> ROW_BITS
        places = np.searchsorted(self._blocks, blocks).clip(max=len(self._blocks) - 1)
        return np.where(self._blocks[places] == blocks, self._numbers[places], -1)
