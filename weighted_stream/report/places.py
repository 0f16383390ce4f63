"""Where samples are: shard and row, as far as their ids say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weighted_stream.sources.ids import ROW_BITS, shard_base

_BY_ROW = ("mds", "parquet")
"""Sources whose ids are made of shard and row, and whose fingerprints tell the rows of each shard."""

_MOST_ROWS = 1 << 32
"""Rows of a shard beyond which a manifest is not believed."""


class Places:
    """The shards of a dataset, and which of them an id is of.

    Args:
        fingerprint: of the dataset, as the store has it (see `sources.base.Fingerprint`); None: not known.

    Attributes:
        names: of the shards, sorted.
        rows: of each shard, (shards,) int64.

    Example:
        >>> from weighted_stream.sources.ids import shard_id
        >>> places = Places({"kind": "mds", "shards": {"a.mds": 3, "b.mds": 5}})
        >>> shards, rows = places.of(np.array([shard_id("b.mds", 4), 7]))
        >>> shards.tolist(), rows.tolist()
        ([1, -1], [4, -1])
    """

    def __init__(self, fingerprint: Mapping[str, Any] | None) -> None:
        shards = _plausible(fingerprint)
        self.names: list[str] = sorted(shards)
        self.rows = np.array([shards[name] for name in self.names], np.int64)
        bases, numbers, starts = [], [], []
        for shard, name in enumerate(self.names):
            for start in range(0, shards[name], 1 << ROW_BITS):
                bases.append(shard_base(name, start >> ROW_BITS))
                numbers.append(shard)
                starts.append(start)
        order = np.argsort(np.array(bases, np.int64))
        self._bases = np.array(bases, np.int64)[order]
        self._shards = np.array(numbers, np.int64)[order]
        self._starts = np.array(starts, np.int64)[order]

    def __len__(self) -> int:
        return len(self.names)

    def of(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of the shards, and rows in them, (n,) each; -1 for an id that is of none of them."""
        if not len(self._bases):
            return np.full(len(ids), -1), np.full(len(ids), -1)
        base = ids >> ROW_BITS << ROW_BITS
        found = np.searchsorted(self._bases, base).clip(max=len(self._bases) - 1)
        known = self._bases[found] == base
        rows = self._starts[found] + (ids - base)
        return np.where(known, self._shards[found], -1), np.where(known, rows, -1)


def _plausible(fingerprint: Mapping[str, Any] | None) -> dict[str, int]:
    """The shards of a fingerprint whose rows are known and could be."""
    if fingerprint is None or fingerprint.get("kind") not in _BY_ROW or not isinstance(fingerprint.get("shards"), dict):
        return {}
    rows = fingerprint["shards"].items()
    return {name: n for name, n in rows if isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= _MOST_ROWS}
