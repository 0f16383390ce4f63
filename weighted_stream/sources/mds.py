"""MosaicML streaming: a sample is identified by its shard and its row there."""

from __future__ import annotations

import os
import weakref
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset

from weighted_stream.errors import SampleIdError, SourceError
from weighted_stream.sources.base import Fingerprint, Source
from weighted_stream.sources.ids import ROW_BITS, shard_base
from weighted_stream.sources.keys import IdFn, by, identify
from weighted_stream.sources.mds_checks import check_local, resumes
from weighted_stream.sources.mds_copies import copy_of, leave_to_owner, unconnected
from weighted_stream.sources.mds_parts import mds_parts
from weighted_stream.sources.mds_shards import folders, remove_folders
from weighted_stream.sources.parts import Part
from weighted_stream.sources.shard_names import depth_needed, location, tail


class MDSSource(Source):
    """A MosaicML ``StreamingDataset``: a sample's id is made of its shard's name and its row there.

    A shard is named by the directory it is streamed from and its file name, say ``c4/train/shard.00017.mds``:
    the last component of its stream's ``remote`` (or ``local``, without a remote), the split, and the name in
    ``index.json``. So ids stay for every worker count, rank and epoch, when the dataset moves, when shards or
    streams are added or come in another order, and with compression. They change when that directory or a
    shard is renamed or rewritten. Where streams have the same last component, as many more are used as tell
    them apart; a store made before such a stream was added is then refused, because no shard in it has its
    name any more.

    The dataset's own object is left as it is. `dataset` is a copy that shares its state of this machine
    (epoch, cache, checkpoint), as a loader's workers do, and stays an instance of the user's class. A
    ``__getitem__`` of a subclass is called as ever; what it returns for a position has that position's id.

    Args:
        data: the dataset.
        id_fn: sample -> int or str, used instead.

    Raises:
        SourceError: if two different shards get one name, or a subclass has an ``__iter__`` of its own.

    Example:
        >>> MDSSource.matches(["not a StreamingDataset"])
        False
    """

    def __init__(self, data: Any, id_fn: IdFn | None = None) -> None:
        _refuse_own_iter(data)
        shards = _shard_keys(data)
        columns = {str(name) for shard in data.shards for name in _columns(shard)}
        self._fingerprint = Fingerprint(
            "mds", ",".join(sorted(columns)) + by(id_fn), shards={} if id_fn else dict(shards)
        )
        self._shards, self._id_fn = shards, id_fn
        self._epoch = 0
        # How far the dataset's epochs are ahead of ours. Shared with copies in other processes.
        self._ahead: Any = torch.full((), data.next_epoch, dtype=torch.int64, device="cpu")
        _share(self._ahead)
        self._sweep: weakref.finalize[[list[str], int], MDSSource] | None = None
        self._original = data  # kept: on its deletion it would give up the local directory that the copy reads
        self._dataset: IterableDataset[Any] = copy_of(data)
        # StreamingDataset.__iter__ maps ``self.__getitem__``, so this attribute sees the position of each
        # sample.
        vars(self._dataset)["__getitem__"] = _GetItem(self._dataset, *_row_ids(shards), id_fn)

    @staticmethod
    def matches(data: Any) -> bool:
        """Whether ``data`` is a ``streaming.StreamingDataset``; does not import streaming."""
        return any(
            kind.__name__ == "StreamingDataset" and kind.__module__.partition(".")[0] == "streaming"
            for kind in type(data).__mro__
        )

    @property
    def dataset(self) -> IterableDataset[Any]:
        """The dataset with ids: iterating yields ``(id, sample)``; indexing yields samples, as before."""
        return self._dataset

    def fingerprint(self) -> Fingerprint:
        """The columns of the shards, and with ids by row the rows per shard."""
        return self._fingerprint

    def set_epoch(self, epoch: int) -> None:
        """Begin at this epoch's order, unless the dataset is past it (by its own ``load_state_dict``).

        In a pickled copy it is for `parts` alone: the trainer goes its own pace.
        """
        self._epoch = epoch
        if self._original is None:
            return
        dataset: Any = self._dataset
        if dataset.next_epoch < epoch:
            dataset.next_epoch = epoch
        self._ahead.fill_(dataset.next_epoch - epoch)

    def check(self) -> None:
        """Every shard that no remote could bring must be there, as long as its index says.

        Raises:
            SourceError: naming those that are not.
        """
        check_local(self._dataset)

    def least(self) -> int | None:
        """The dataset's length; None if it begins within an epoch by its own state, or leaves samples out."""
        dataset: Any = self._dataset
        whole = dataset.batching_method == "random" and not resumes(dataset)
        return int(dataset.length) if whole else None  # a subclass may count something else in its __len__

    def rewind(self, epoch: int) -> None:
        """Begin at this epoch's order, also if the dataset was past it."""
        dataset: Any = self._dataset
        dataset.next_epoch = epoch + int(self._ahead)
        self.set_epoch(epoch)

    def parts(self, shuffle_seed: int | None = None) -> Iterator[Part]:
        """The shards that this rank reads in the epoch, in the order of its first sample of each.

        A part has the rows that this rank reads in the epoch. ``shuffle_seed`` has no meaning here.
        """
        reading = copy_of(self._dataset)
        del vars(reading)["__getitem__"]
        return mds_parts(reading, [key for key, _ in self._shards], self._id_fn, self._epoch + int(self._ahead))

    def __getstate__(self) -> dict[str, Any]:
        # Another process reads the copy, without what this one needs to iterate it.
        if self._original is not None and self._sweep is None:
            self._sweep = weakref.finalize(self, remove_folders, folders(self._dataset), os.getpid())
        dataset = copy_of(self._dataset)
        vars(dataset)["__getitem__"] = vars(dataset)["__getitem__"].of(dataset)
        dataset.streams = [unconnected(stream) for stream in dataset.streams]
        return {**self.__dict__, "_original": None, "_sweep": None, "_dataset": dataset}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        leave_to_owner(self._dataset)


class _GetItem:
    """What the copied dataset calls for each position it delivers: ``(id, sample)`` of it.

    Args:
        dataset: the copy.
        starts: position of the first row of each block of 2**20 rows of a shard, ascending.
        bases: id of that row.
        id_fn: makes the id of a sample, or None for its row.
    """

    def __init__(self, dataset: Any, starts: list[int], bases: list[int], id_fn: IdFn | None) -> None:
        self._dataset, self._starts, self._bases, self._id_fn = dataset, starts, bases, id_fn
        self._inside = False

    def of(self, dataset: Any) -> _GetItem:
        """The same for another copy of the dataset."""
        return _GetItem(dataset, self._starts, self._bases, self._id_fn)

    def __call__(self, position: Any) -> Any:
        get = type(self._dataset).__getitem__
        if self._inside:  # the user's __getitem__ calls self.__getitem__, say for a sample in place of a bad one
            return get(self._dataset, position)
        self._inside = True
        try:
            sample = get(self._dataset, position)
        finally:
            self._inside = False
        if self._id_fn is not None:
            return identify(self._id_fn, sample, int(position)), sample
        row = int(position)
        block = bisect_right(self._starts, row) - 1
        return self._bases[block] + row - self._starts[block], sample


def _share(number: Any) -> None:
    number.share_memory_()


def _refuse_own_iter(data: Any) -> None:
    owner = next(kind for kind in type(data).__mro__ if "__iter__" in vars(kind))
    if owner.__module__.partition(".")[0] != "streaming":
        raise SourceError(
            f"{owner.__name__} has an __iter__ of its own, which would see (id, sample) for each sample.",
            found=f"{owner.__qualname__}.__iter__",
            expected="a StreamingDataset that changes samples in __getitem__",
            do="move the work to __getitem__, or read the dataset inside an IterableDataset of your own, with id_fn=",
        )


def _shard_keys(data: Any) -> list[tuple[str, int]]:
    """Name and rows of each shard, in the dataset's order.

    Raises:
        SourceError: if two different files have one name.
    """
    roots = [location(str(stream.remote or stream.local)).rstrip("/") for stream in data.streams]
    depth = depth_needed(roots)
    keys: list[tuple[str, int]] = []
    known: dict[str, tuple[str, int]] = {}
    for stream, shard in zip(data.stream_per_shard.tolist(), data.shards, strict=True):
        inside = [part for part in (data.streams[stream].split, shard.raw_data.basename) if part]
        key, file = "/".join([tail(roots[stream], depth), *inside]), "/".join([roots[stream], *inside])
        rows = int(shard.samples)
        other, other_rows = known.setdefault(key, (file, rows))
        if (other, other_rows) != (file, rows):
            raise SourceError(
                f"Two shards are named {key!r}, so their samples would share ids.",
                found=f"{other} ({other_rows} rows) and {file} ({rows} rows)",
                expected="one name per shard",
                do="stream them from directories with different names",
            )
        keys.append((key, rows))
    return keys


def _row_ids(shards: list[tuple[str, int]]) -> tuple[list[int], list[int]]:
    """Position and id of the first row of each block of each shard.

    Raises:
        SampleIdError: if the hashes of two blocks meet.
    """
    starts: list[int] = []
    bases: list[int] = []
    known: dict[int, tuple[str, int]] = {}
    start = 0
    for key, rows in shards:
        for block in range(-(-rows // (1 << ROW_BITS))):
            base = shard_base(key, block)
            other = known.setdefault(base, (key, block))
            if other != (key, block):
                raise SampleIdError(
                    "The ids of two shards meet.",
                    found=f"the same hash for {other[0]!r} and {key!r}",
                    expected="different ids",
                    do="rename one of the shards (in its index.json too), or pass id_fn=",
                )
            starts.append(start + (block << ROW_BITS))
            bases.append(base)
        start += rows
    return starts, bases


def _columns(shard: Any) -> Any:
    """Column names of a shard: MDS, CSV and TSV keep a list, JSON a dict."""
    return shard.column_names if hasattr(shard, "column_names") else shard.columns
