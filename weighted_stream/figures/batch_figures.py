"""BatchFigures: the figures of what a stream has weighed since they were last asked for."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weighted_stream.figures.labels import Labels
from weighted_stream.figures.measures import shares, weighing
from weighted_stream.figures.seen import Past, Seen
from weighted_stream.figures.shard_table import ShardTable
from weighted_stream.memory import Memory
from weighted_stream.store.record import Floats, Ids
from weighted_stream.stream import WeightedStream


class BatchFigures:
    """Looks on while a stream weighs; what the figures are is said in `StepLog`.

    Args:
        stream: it keeps this object.

    Example:
        >>> import torch
        >>> from weighted_stream import Uniform
        >>> stream = WeightedStream([1.0, 2.0], Uniform())
        >>> figures = BatchFigures(stream)
        >>> _ = torch.tensor([1.0, 2.0]) * stream.weight([0, 1])
        >>> figures.take()["loss_mean"], figures.take()
        (1.5, {})
    """

    def __init__(self, stream: WeightedStream) -> None:
        self._stream = weakref.ref(stream)
        self._seen = Seen()
        fingerprint = stream._source.fingerprint()
        self._shards = ShardTable(fingerprint.kind, fingerprint.shards)
        self._shard_labels = Labels(self._shards.names.__getitem__)
        self._group_names: tuple[str, ...] = ()
        self._group_labels = Labels(self._group_name)
        stream._live().onlookers.append(self)

    def meet(self, ids: Ids, step: int, memory: Memory) -> None:
        """See `Onlooker`."""
        self._seen.meet(ids, step, memory)

    def see(self, ids: Ids, losses: Floats, weights: Floats, step: int, memory: Memory) -> None:
        """See `Onlooker`."""
        self._seen.see(ids, losses, weights, step)

    def over(self, memory: Memory) -> None:
        """See `Onlooker`."""

    def end(self, memory: Memory) -> None:
        """See `Onlooker`."""

    def take(self, memory: Memory | None = None) -> dict[str, float]:
        """The figures, finite ones only; empty if nothing was weighed since the last time, or the stream is gone.

        Args:
            memory: the stream's store; None: it is asked for it, which waits for other ranks.
        """
        stream = self._stream()
        if stream is None:
            return {}
        memory = stream.store if memory is None else memory
        step, taken = self._seen.last, self._seen.take()
        if taken is None:
            return {}
        ids, losses, weights, past = taken
        figures = stream._figures(memory) | {"step": step + 1.0} | weighing(losses, weights) | _of_past(past)
        self._group_names = tuple(memory.groups)
        if self._group_names:
            groups = memory.get(ids)["group"]
            figures |= _of_kinds("group", groups, weights, self._group_labels.of)
        if self._shards.names:
            figures |= _of_kinds("shard", self._shards.numbers(ids), weights, self._shard_labels.of)
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def _group_name(self, number: int) -> str:
        return self._group_names[number] if number < len(self._group_names) else str(number)


def _of_past(past: Past) -> dict[str, float]:
    """What was known of the samples before."""
    if not past.ages.size:
        return {}
    old = past.ages[past.ages >= 0]
    figures = {
        "new_share": 1.0 - old.size / past.ages.size,
        "unscored_share": float(past.unscored.mean()),
    }
    if old.size:
        figures |= {"staleness": float(old.mean()), "staleness_max": float(old.max())}
    return figures


def _of_kinds(
    name: str, kinds: NDArray[Any], weights: Floats, label_of: Callable[[int], str]
) -> Iterator[tuple[str, float]]:
    """The share of the weight, and the mean weight, of each kind that has a label; of the rest together."""
    known = kinds >= 0
    found, places = np.unique(kinds[known], return_inverse=True)
    labels = [label_of(kind) for kind in found.tolist()]
    distinct = list(dict.fromkeys(labels))
    numbers = np.array([distinct.index(one) for one in labels], np.int64)
    labelled, share, mean = shares(numbers[places], weights[known])
    for place, one, average in zip(labelled.tolist(), share.tolist(), mean.tolist(), strict=True):
        yield f"{name}_share/{distinct[place]}", one
        yield f"{name}_weight/{distinct[place]}", average
