"""What a copied StreamingDataset does at each position: id and sample, or what is wrong with the shard."""

from __future__ import annotations

import os
import sys
import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch

from weighted_stream.errors import SampleIdError, SourceError, WeightedStreamError
from weighted_stream.sources.bad_shards import Policy, tell_ends
from weighted_stream.sources.board import reads, tell
from weighted_stream.sources.ids import ROW_BITS, shard_base
from weighted_stream.sources.keys import IdFn, identify
from weighted_stream.sources.mds_checks import check_shard, is_streamings
from weighted_stream.sources.unreadable import naming

_LOCAL = 3  # streaming's own word for a shard that its cache holds (streaming.base.dataset)
_OVERRIDES = ("__getitem__", "prepare_shard", "_get_work", "_each_sample_id")


class Reader:
    """Stands in for four methods of the copied dataset, which looks them up on itself.

    ``__getitem__`` gives ``(id, sample)``, and looks at a shard when it first comes to it. ``prepare_shard`` keeps the
    error of a shard that cannot be brought: streaming raises it in a thread, whose end ends the epoch early, or never.
    ``_get_work`` begins an epoch, before there are threads for it.
    ``_each_sample_id`` is `positions`, or where bad shards are skipped `readable`, which reads the sample before it
    gives its position out.

    Args:
        dataset: the copy.
        shards: name and rows of each shard, in the dataset's order.
        starts: position of the first row of each block of 2**20 rows of a shard, ascending.
        bases: id of that row.
        id_fn: makes the id of a sample, or None for its row.
    """

    def __init__(
        self, dataset: Any, shards: list[tuple[str, int]], starts: list[int], bases: list[int], id_fn: IdFn | None
    ) -> None:
        self._dataset, self._shards, self._starts, self._bases, self._id_fn = dataset, shards, starts, bases, id_fn
        blocks = [-(-rows // (1 << ROW_BITS)) for _, rows in shards]
        self._shard_of = [shard for shard, count in enumerate(blocks) for _ in range(count)]
        self._encoded = [name.encode() for name, _ in shards]
        self.policy = Policy()
        self._inside = False
        # Of the block of the sample before: its first position, the one behind its last, and an id less its position.
        self._low = self._high = self._offset = 0
        self._bad: dict[int, Exception] = {}
        self._seen: set[int] = set()
        self._brought: set[int] = set()
        self._ready: Any = None
        self._events: list[Any] = []
        # Which shards were found whole: workers of this epoch and of later ones need not look again.
        self._whole: Any = torch.zeros(len(shards), dtype=torch.uint8, device="cpu")
        share(self._whole)

    def of(self, dataset: Any) -> Reader:
        """The same for another copy of the dataset, and put into it."""
        other = Reader(dataset, self._shards, self._starts, self._bases, self._id_fn)
        other.policy, other._whole = self.policy, self._whole
        return other.put()

    def put(self) -> Reader:
        """Stand in."""
        methods = vars(self._dataset)
        methods["__getitem__"], methods["prepare_shard"], methods["_get_work"] = self, self.prepare, self.begin
        methods["_each_sample_id"] = self.readable if self.policy.skips else self.positions
        return self

    def begin(self, epoch: int, sample_in_epoch: int) -> Any:
        """This reader's share of an epoch. Shards that could not be read in another one are given another try."""
        self._bad.clear()
        self._brought.clear()
        self._high = self._low
        return type(self._dataset)._get_work(self._dataset, epoch, sample_in_epoch)

    def __call__(self, position: Any) -> Any:
        """``(id, sample)``."""
        if self._inside:  # the user's __getitem__ calls self.__getitem__, say for a sample in place of a bad one
            return type(self._dataset).__getitem__(self._dataset, position)
        if self._ready is not None:
            item, self._ready = self._ready, None
            return item
        row = int(position)
        if not self._low <= row < self._high:
            self._come_to(row)
        self._inside = True
        try:
            sample = type(self._dataset).__getitem__(self._dataset, position)
        except WeightedStreamError:
            raise
        except Exception as error:
            block = bisect_right(self._starts, row) - 1
            if not _of_streaming(error):  # the user's own
                error.add_note(
                    f"(while reading row {row - self._starts[block]} of {self._shards[self._shard_of[block]][0]})"
                )
                raise
            raise self._named(block, error) from error
        finally:
            self._inside = False
        if self._id_fn is not None:
            return identify(self._id_fn, sample, row), sample
        return row + self._offset, sample

    def positions(self, state: Any) -> Iterator[Any]:
        """The positions of an epoch. Where it is left early, the threads that read ahead are let go.

        By itself streaming's one that waits for a shard would wait on, and keep the process from its end.
        """
        event = self._dataset._event
        register = getattr(threading, "_register_atexit", None)
        if register is not None and event not in self._events:
            self._events.append(event)
            register(event.set)
        whole = False
        try:
            yield from type(self._dataset)._each_sample_id(self._dataset, state)
            whole = True
        finally:
            if not whole:
                event.set()
                leave = state.exit

                def leave_and_clear() -> None:  # streaming calls it when the next epoch begins
                    leave()
                    event.clear()

                state.exit = leave_and_clear

    def readable(self, state: Any) -> Iterator[Any]:
        """The positions whose samples can be read; those of bad shards are counted."""
        left_out = 0
        for position in self.positions(state):
            try:
                self._ready = self(position)
            except SourceError as error:
                shard = self._shard_of[bisect_right(self._starts, int(position)) - 1]
                self._bad.setdefault(shard, error)
                self._high = self._low
                self.policy.meet(self._shards[shard][0], error)
                left_out += 1
                continue
            yield position
        if left_out:
            tell({"lacks": left_out})

    def prepare(self, shard: int, blocking: bool = True) -> None:
        """Bring a shard. Who waits for it is told at once what is wrong; the threads that read ahead go on.

        Those ask again for each sample, and streaming takes a lock on a file each time. A shard that is there is asked
        for once, unless a ``cache_limit`` or a method of the user's wants to know of each time.
        """
        if shard in self._bad:
            if blocking:
                raise self._bad[shard]
            return
        dataset = self._dataset
        if not blocking and shard in self._brought and dataset._shard_states[shard] == _LOCAL:
            return
        try:
            type(dataset).prepare_shard(dataset, shard, blocking)
            if not dataset.cache_limit and is_streamings(type(dataset).prepare_shard):
                self._brought.add(shard)
        except Exception as error:
            lock = getattr(dataset, "_cache_filelock", None)
            if lock is not None and lock.is_locked:  # nothing could be evicted
                lock.release()
            # Streaming leaves it "being prepared", for which all others would wait for ever. Whoever comes to it looks.
            dataset._shard_states[shard] = _LOCAL
            name = self._shards[shard][0]
            try:
                with naming(name):
                    raise error
            except SourceError as named:
                self._bad[shard] = named
                if blocking:
                    raise

    def _come_to(self, row: int) -> None:
        """The next sample, at this position, is of another shard.

        Raises:
            SourceError: if this one was found bad, or is.
        """
        block = bisect_right(self._starts, row) - 1
        shard = self._shard_of[block]
        reads(self._encoded[shard])
        error = self._bad.get(shard)
        if error is not None:
            raise error
        if shard not in self._seen:
            try:
                self._look_at(shard)
            except SourceError as found:
                self._bad[shard] = found
                raise
            self._seen.add(shard)
        self._low = self._starts[block]
        self._high = self._starts[block + 1] if block + 1 < len(self._starts) else sys.maxsize
        self._offset = self._bases[block] - self._low

    def _look_at(self, shard: int) -> None:
        dataset, name = self._dataset, self._shards[shard][0]
        stream, reader = dataset.streams[int(dataset.stream_per_shard[shard])], dataset.shards[shard]
        folder = os.path.join(stream.local, stream.split or "")
        if not self._whole[shard]:
            try:
                check_shard(folder, reader, name)
            except FileNotFoundError:  # the cache gave it up again, or never had it
                self.prepare(shard)
                with suppress(FileNotFoundError):
                    check_shard(folder, reader, name)
            self._whole[shard] = 1
        raw, _ = reader.file_pairs[0]
        tell_ends(self.policy, name, os.path.join(folder, raw.basename))

    def _named(self, block: int, error: Exception) -> SourceError:
        try:
            with naming(self._shards[self._shard_of[block]][0]):
                raise error
        except SourceError as named:
            return named


def share(tensor: Any) -> None:
    """Put it where processes that come from this one see it, too."""
    tensor.share_memory_()


def plain(dataset: Any) -> Any:
    """The dataset without what stands in for its methods."""
    for name in _OVERRIDES:
        vars(dataset).pop(name, None)
    return dataset


def _of_streaming(error: Exception) -> bool:
    """Whether it comes from reading a sample, rather than from what the user's ``__getitem__`` makes of it."""
    frame = error.__traceback__.tb_next if error.__traceback__ is not None else None
    modules = []
    while frame is not None:
        modules.append(str(frame.tb_frame.f_globals.get("__name__")))
        frame = frame.tb_next
    return any(module.startswith("streaming.base.format") for module in modules)


def row_ids(shards: list[tuple[str, int]]) -> tuple[list[int], list[int]]:
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
