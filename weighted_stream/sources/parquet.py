"""Parquet files: a row is identified by (file, row)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import copy
from itertools import chain
from typing import Any

from torch.utils.data import IterableDataset

from weighted_stream.errors import SourceError
from weighted_stream.sources.bad_shards import Policy
from weighted_stream.sources.base import Fingerprint, Source
from weighted_stream.sources.ids import ROW_BITS, shard_base, shard_ranges
from weighted_stream.sources.keys import IdFn, by, identify
from weighted_stream.sources.parquet_batches import ParquetBatches
from weighted_stream.sources.parquet_dataset import ParquetDataset, Row
from weighted_stream.sources.parquet_files import ParquetFiles
from weighted_stream.sources.parquet_parts import parquet_parts
from weighted_stream.sources.parts import Part
from weighted_stream.sources.wrapping import Forwarding

__all__ = ["ParquetDataset", "ParquetSource", "TaggedParquet", "row_ids"]


class TaggedParquet(Forwarding, IterableDataset[tuple[int, Row]]):
    """A `ParquetDataset` with ids: items are ``(id, row)``."""

    def __init__(self, data: ParquetDataset, id_fn: IdFn | None) -> None:
        self._wrapped, self._id_fn = data, id_fn

    def __len__(self) -> int:
        return len(self._wrapped)

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        return iter(self._wrapped.deliver(self._tag))

    def _tag(self, file: int, start: int, rows: list[Row]) -> Iterable[tuple[int, Row]]:
        key = self._wrapped.files.keys[file]
        if self._id_fn is None:  # one pair at a time: a list of them would set off the garbage collector
            return zip(row_ids(key, start, start + len(rows)), rows, strict=True)
        return [(identify(self._id_fn, row, f"{key}:{i}"), row) for i, row in enumerate(rows, start)]


def row_ids(key: str, start: int, stop: int) -> Iterable[int]:
    """`shard_id` of the rows ``start`` to ``stop`` of the file ``key``, in bulk.

    Example:
        >>> from weighted_stream.sources.ids import shard_id
        >>> list(row_ids("a.parquet", 5, 7)) == [shard_id("a.parquet", 5), shard_id("a.parquet", 6)]
        True
    """
    ranges = shard_ranges(key, start, stop)
    return ranges[0] if len(ranges) == 1 else chain.from_iterable(ranges)


class ParquetSource(Source):
    """Rows of a `ParquetDataset`: an id is made of (file name, row of the file), or by ``id_fn``.

    The file name is the path below the directory, or below the fixed part of the glob pattern, that the
    dataset was given, and the base name of a file given by itself. So ids stay when the dataset moves, when
    files are added, and when row groups are read in another order; they change when a file is renamed or
    its rows are reordered.

    Args:
        data: the dataset. It is not changed: `set_shuffle` acts on a copy, `set_epoch` on both.
        id_fn: row -> int or str, unique per row.

    Raises:
        SourceError: if the ids of two files meet.
    """

    def __init__(self, data: ParquetDataset, id_fn: IdFn | None = None) -> None:
        self._data, self._id_fn = copy(data), id_fn
        self._epoch = data.epoch
        self._parent_replica: tuple[int, int] | None = None
        if id_fn is None:
            _check_bases(data.files)
        self._dataset = TaggedParquet(self._data, id_fn)

    @staticmethod
    def matches(data: Any) -> bool:
        """Whether ``data`` is a `ParquetDataset`, and no subclass with an ``__iter__`` of its own."""
        return isinstance(data, ParquetDataset) and type(data).__iter__ is ParquetDataset.__iter__

    @property
    def dataset(self) -> TaggedParquet:
        """The dataset with ids."""
        return self._dataset

    def fingerprint(self) -> Fingerprint:
        """The columns common to all files, and with ids by row the rows per file."""
        files = self._data.files
        shards = dict(zip(files.keys, files.rows, strict=True)) if self._id_fn is None else {}
        return Fingerprint("parquet", ",".join(files.common) + by(self._id_fn), shards=shards)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle for this epoch from the next iteration on, in running workers too.

        In a pickled copy it is for `parts` alone: the trainer goes its own pace.
        """
        self._epoch = epoch
        if self._parent_replica is None:
            self._data.set_epoch(epoch)

    def set_policy(self, policy: Policy) -> None:
        """What readers do with a row group that cannot be read: the others of its file are read."""
        self._data.policy = policy

    def left_out(self) -> dict[str, str]:
        """The files that could not be opened when the dataset was made."""
        return self._data.left_out

    def least(self) -> int:
        """The rows of this rank."""
        return len(self._data)

    def batches(self, size: int, drop_last: bool) -> ParquetBatches | None:
        """Whole batches, unless rows are shuffled or name themselves one by one."""
        simple = self._id_fn is None and not self._data.shuffle and isinstance(size, int) and size > 0
        return ParquetBatches(self._data, size, drop_last) if simple else None

    def parts(self, shuffle_seed: int | None = None) -> Iterator[Part]:
        """Row groups of this rank, in the order of (seed, epoch); ``shuffle_seed`` has no meaning here."""
        replica = self._parent_replica or self._data.replica
        return parquet_parts(self._data, self._id_fn, self._epoch, replica, self.workers)

    def corpus(self) -> Iterator[Part]:
        """All row groups."""
        return parquet_parts(self._data, self._id_fn, self._epoch, (0, 1), 0)

    def __getstate__(self) -> dict[str, Any]:
        # Another process has no process group to ask for its rank.
        return {**self.__dict__, "_parent_replica": self._parent_replica or self._data.replica}

    def set_shuffle(self, seed: int) -> None:
        """Switch shuffling on; not seen by workers that already run."""
        self._data.shuffle, self._data.seed = True, seed


def _check_bases(files: ParquetFiles) -> None:
    names: dict[int, str] = {}
    for key, rows in zip(files.keys, files.rows, strict=True):
        for block in range(-(-rows // (1 << ROW_BITS))):
            other = names.setdefault(shard_base(key, block), key)
            if other != key:
                raise SourceError(
                    "The ids of two Parquet files meet.",
                    found=f"the same hash for {other!r} and {key!r}",
                    expected="different ids",
                    do="rename one of the files, or pass id_fn=",
                )
