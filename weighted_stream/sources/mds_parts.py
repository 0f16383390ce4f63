"""MosaicML streaming in parts: shards, in the order in which the epoch comes to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weighted_stream.sources.ids import shard_ids
from weighted_stream.sources.keys import IdFn, identify
from weighted_stream.sources.mds_checks import is_streamings
from weighted_stream.sources.mds_shards import OpenShard
from weighted_stream.sources.parts import Part
from weighted_stream.sources.sharding import Ints
from weighted_stream.sources.unreadable import naming


class MDSPart(Part):
    """The rows of a shard that this rank reads in the epoch, as they are stored.

    A ``__getitem__`` of the user's class is called only where an ``id_fn`` makes ids of what it returns.

    Args:
        dataset: a ``StreamingDataset``, not the one that the trainer iterates.
        number: of the shard.
        name: of the shard.
        rows: (n,) int64, ascending.
        id_fn: makes the id of a sample, or None for its row.
    """

    def __init__(self, dataset: Any, number: int, name: str, rows: Ints, id_fn: IdFn | None) -> None:
        self._dataset, self._number, self.name = dataset, number, name
        self._rows, self._id_fn = rows, id_fn

    def ids(self) -> NDArray[np.int64] | None:
        """The ids, unless an ``id_fn`` makes them of the samples."""
        return None if self._id_fn is not None else shard_ids(self.name, self._rows)

    def read(self, wanted: NDArray[np.bool_] | None = None) -> Iterator[tuple[int, Any]]:
        """``(id, record)``."""
        rows = self._rows if wanted is None else self._rows[wanted]
        with naming(self.name), OpenShard(self._dataset, self._number) as shard:
            if self._id_fn is None:
                for number, row in zip(shard_ids(self.name, rows).tolist(), rows.tolist(), strict=True):
                    yield number, shard[row]
                return
            start = int(self._dataset.sample_offset_per_shard[self._number])
            delivered = self._delivered(shard)
            for row in rows.tolist():
                record = shard[row]
                sample = record if delivered is None else delivered(start + row)
                yield identify(self._id_fn, sample, start + row), record

    def _delivered(self, shard: OpenShard) -> Callable[[int], Any] | None:
        """What the user's class makes of the sample at a position; None if it delivers records."""
        kind = type(self._dataset)
        if is_streamings(kind.__getitem__):
            return None
        view = object.__new__(kind)
        vars(view).update(vars(self._dataset))

        def get_item(position: int, retry: int = 7) -> Any:
            number, row = self._dataset.spanner[position]
            if number == self._number:
                return shard[row]
            with OpenShard(self._dataset, number) as other:  # __getitem__ may look at neighbours
                return other[row]

        vars(view)["get_item"] = get_item
        return lambda position: kind.__getitem__(view, position)


def mds_parts(dataset: Any, names: list[str], id_fn: IdFn | None, epoch: int | None) -> Iterator[Part]:
    """The shards that this rank reads in an epoch, or all of them.

    Args:
        dataset: a ``StreamingDataset``, not the one that the trainer iterates.
        names: of its shards.
        id_fn: makes the id of a sample, or None.
        epoch: the dataset's; None: all rows of all shards, as they are listed.
    """
    for number, rows in all_rows(dataset) if epoch is None else rows_of_epoch(dataset, epoch):
        yield MDSPart(dataset, number, names[number], rows, id_fn)


def all_rows(dataset: Any) -> Iterator[tuple[int, Ints]]:
    """Each shard with all its rows."""
    for number, count in enumerate(dataset.samples_per_shard.tolist()):
        yield number, np.arange(count)


def rows_of_epoch(dataset: Any, epoch: int) -> Iterator[tuple[int, Ints]]:
    """Each shard that this rank reads in an epoch, in the order of its first sample there, with the rows it reads.

    Asked of streaming itself, which also knows of epochs that are resumed in the middle. It takes a few arrays of the
    length of the epoch, as in the trainer's workers. A dataset without ``batch_size`` cannot be iterated: all rows.
    """
    starts = dataset.sample_offset_per_shard
    if not isinstance(dataset.batch_size, int):
        yield from all_rows(dataset)
        return
    from streaming.base.batching import generate_work

    world = dataset._parallel_rank_world  # with one worker: the order of delivery is that of any number of workers
    epoch, seen = dataset._resume(world, epoch)
    work = generate_work(dataset.batching_method, dataset, world, epoch, seen)
    line = work[world.node, world.rank_of_node].reshape(-1)
    line = line[line >= 0]
    shards, first = np.unique(np.searchsorted(starts, line, side="right") - 1, return_index=True)
    samples = np.unique(line)
    for number in shards[np.argsort(first)].tolist():
        start = int(starts[number])
        begin, end = np.searchsorted(samples, [start, start + int(dataset.samples_per_shard[number])])
        yield number, samples[begin:end] - start
