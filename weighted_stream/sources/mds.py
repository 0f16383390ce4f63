"""MosaicML streaming: a sample is identified by its shard and its row there."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset

from weighted_stream.errors import SourceError
from weighted_stream.sources.bad_shards import Policy, warn_of_repeats
from weighted_stream.sources.base import Fingerprint, Recurs, Source
from weighted_stream.sources.keys import IdFn, by
from weighted_stream.sources.mds_checks import check_columns, check_local, is_streamings, resumes
from weighted_stream.sources.mds_copies import copy_of, leave_to_owner
from weighted_stream.sources.mds_parts import mds_parts
from weighted_stream.sources.mds_reading import Reader, plain, row_ids, share
from weighted_stream.sources.mds_safety import refuse_unsafe
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
        SourceError: if two different shards get one name, a subclass has an ``__iter__`` of its own, or the index would
            have columns unpickled (see ``allow_unsafe_types``) or files written elsewhere.

    Example:
        >>> MDSSource.matches(["not a StreamingDataset"])
        False
    """

    def __init__(self, data: Any, id_fn: IdFn | None = None) -> None:
        refuse_unsafe(data)
        _refuse_own_iter(data)
        shards = _shard_keys(data)
        columns = {str(name) for shard in data.shards for name in _columns(shard)}
        self._fingerprint = Fingerprint(
            "mds", ",".join(sorted(columns)) + by(id_fn), shards={} if id_fn else dict(shards)
        )
        self._shards, self._id_fn = shards, id_fn
        self._epoch = 0
        self._listed = False
        # How far the dataset's epochs are ahead of ours. Shared with copies in other processes.
        self._ahead: Any = torch.full((), data.next_epoch, dtype=torch.int64, device="cpu")
        share(self._ahead)
        self._sweep: weakref.finalize[[list[str], int], MDSSource] | None = None
        self._original = data  # kept: on its deletion it would give up the local directory that the copy reads
        self._dataset: IterableDataset[Any] = copy_of(data)
        # StreamingDataset.__iter__ maps ``self.__getitem__``, so this attribute sees the position of each
        # sample.
        self._reader = Reader(self._dataset, shards, *row_ids(shards), id_fn).put()

    @staticmethod
    def matches(data: Any) -> bool:
        """Whether ``data`` is a ``streaming.StreamingDataset``; does not import streaming."""
        return any(kind.__name__ == "StreamingDataset" and is_streamings(kind) for kind in type(data).__mro__)

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

    def set_policy(self, policy: Policy) -> None:
        """What readers do with a bad shard."""
        self._reader.policy = policy
        self._reader.put()

    def check(self) -> None:
        """Every shard that no remote could bring must be there, as long as its index says, unless bad ones are skipped.

        Shards that are listed twice, or have other columns than the rest, are named in a warning.

        Raises:
            SourceError: naming those that are not.
        """
        if not self._reader.policy.skips:
            check_local(self._dataset)
        if not self._listed:
            self._listed = True
            warn_of_repeats([name for name, _ in self._shards], "this dataset (index.json, or its streams)")
            check_columns(self._dataset, [name for name, _ in self._shards])

    def least(self) -> int | None:
        """The dataset's length; None if it begins within an epoch by its own state, or leaves samples out."""
        dataset: Any = self._dataset
        whole = dataset.batching_method == "random" and not resumes(dataset)
        return int(dataset.length) if whole else None  # a subclass may count something else in its __len__

    def recurs(self) -> Recurs:
        """Several times where a stream is up-sampled (``repeat``, ``proportion``, ``choose``), a shard listed twice."""
        dataset: Any = self._dataset
        sizes = dataset.samples_per_stream.tolist()
        more = any(int(stream.choose) > size for stream, size in zip(dataset.streams, sizes, strict=True))
        return "again" if more or len(dict(self._shards)) < len(self._shards) else "never"

    def rewind(self, epoch: int) -> None:
        """Begin at this epoch's order, also if the dataset was past it."""
        dataset: Any = self._dataset
        dataset.next_epoch = epoch + int(self._ahead)
        self.set_epoch(epoch)

    def parts(self, shuffle_seed: int | None = None) -> Iterator[Part]:
        """The shards that this rank reads in the epoch, in the order of its first sample of each.

        A part has the rows that this rank reads in the epoch. ``shuffle_seed`` has no meaning here.
        """
        reading = plain(copy_of(self._dataset))
        return mds_parts(reading, [key for key, _ in self._shards], self._id_fn, self._epoch + int(self._ahead))

    def corpus(self) -> Iterator[Part]:
        """All shards."""
        reading = plain(copy_of(self._dataset))
        return mds_parts(reading, [key for key, _ in self._shards], self._id_fn, None)

    def __getstate__(self) -> dict[str, Any]:
        # Another process reads the copy, without what this one needs to iterate it.
        if self._original is not None and self._sweep is None:
            self._sweep = weakref.finalize(self, remove_folders, folders(self._dataset), os.getpid())
        dataset = copy_of(self._dataset)
        reader = self._reader.of(dataset)
        return {**self.__dict__, "_original": None, "_sweep": None, "_dataset": dataset, "_reader": reader}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        leave_to_owner(self._dataset)


def _refuse_own_iter(data: Any) -> None:
    owner = next(kind for kind in type(data).__mro__ if "__iter__" in vars(kind))
    if not is_streamings(owner):
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


def _columns(shard: Any) -> Any:
    """Column names of a shard: MDS, CSV and TSV keep a list, JSON a dict."""
    return shard.column_names if hasattr(shard, "column_names") else shard.columns
