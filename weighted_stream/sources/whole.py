"""Whether an epoch was whole: what was delivered against what there is, shard by shard."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from weighted_stream.errors import SourceError
from weighted_stream.sources.ids import shard_ranges

NAMED = 5
"""So many shards are named."""


def lacking(shards: Mapping[str, int], ids: NDArray[np.int64]) -> dict[str, int]:
    """How many rows were delivered of each shard that was not delivered whole.

    Args:
        shards: rows per shard, whose rows have the ids of `shard_id`.
        ids: (n,) int64, ascending, of the samples that were delivered.

    Example:
        >>> from weighted_stream.sources.ids import shard_id
        >>> lacking({"a": 1, "b": 2}, np.sort([shard_id("a", 0), shard_id("b", 1)]))
        {'b': 1}
    """
    found: dict[str, int] = {}
    for name, rows in shards.items():
        ranges = shard_ranges(name, 0, rows)
        ends = np.array([[part.start, part.stop] for part in ranges], np.int64).reshape(-1, 2)
        delivered = int(np.diff(np.searchsorted(ids, ends), axis=1).sum())
        if delivered < rows:
            found[name] = delivered
    return found


def ended_early(
    epoch: int, delivered: int, expected: int, shards: Mapping[str, int], short: Mapping[str, int]
) -> SourceError:
    """The error for an epoch that was not whole.

    Args:
        epoch: which.
        delivered: samples.
        expected: samples, at least.
        shards: rows per shard.
        short: rows weighed of those that were not weighed whole, as far as that is known.
    """
    named = [f"{name} ({rows:,} of {shards[name]:,} rows weighed)" for name, rows in list(short.items())[:NAMED]]
    more = f" and {len(short) - NAMED} more" if len(short) > NAMED else ""
    where = f"; not weighed whole: {', '.join(named)}{more}" if named else ""
    return SourceError(
        f"Epoch {epoch} ended early: its loader gave out before the dataset did.",
        found=f"{delivered:,} samples{where}",
        expected=f"{expected:,} samples",
        do="look at the first of these shards, and at what the workers printed: a reader that cannot read a shard may "
        "just stop. What was weighed is in the store",
    )
