"""One shard of MosaicML streaming, read beside the trainer."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from time import monotonic, sleep, time_ns
from typing import Any

from weighted_stream.errors import SourceError

# Streaming's own words for the state of a shard in its cache (streaming.base.dataset).
_REMOTE, _PREPARING, _LOCAL = 1, 2, 3
_TICK = 0.01


class OpenShard:
    """The rows of one shard, read by streaming's own reader, while a trainer uses the same cache.

    Streaming's ``prepare_shard`` is left alone: it marks a shard as being prepared, and whoever is killed before it
    is done leaves the trainer waiting for ever. So a shard that the cache holds is read there; one that the trainer is
    fetching is waited for; any other is fetched into a folder of our own beside the cache's files, and from there
    moved into the cache if there is room without evicting anything, or kept as open files without a name. At no
    moment does it matter to the trainer if this process dies, and of a process that is killed in the middle of a
    download `remove_folders` removes the rest.

    Args:
        dataset: a ``StreamingDataset``, or a copy of one in another process.
        number: of the shard.
    """

    def __init__(self, dataset: Any, number: int) -> None:
        self._dataset, self._number = dataset, number
        self._stream = dataset.streams[int(dataset.stream_per_shard[number])]
        self._shard = dataset.shards[number]
        self._reader: Any = None
        self._files = ExitStack()

    def __enter__(self) -> OpenShard:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def __getitem__(self, row: int) -> Any:
        """The record of one row, as it is stored.

        Raises:
            Exception: whatever streaming's reader or its download raises.
        """
        if self._reader is None:
            self._reader = self._shard if self._in_cache() else self._fetch()
        try:
            return self._reader[row]
        except FileNotFoundError:  # the trainer's cache gave it up in the meantime
            if self._reader is not self._shard:
                raise
            self._reader = self._fetch(offer=False)
        return self._reader[row]

    def _in_cache(self) -> bool:
        """Whether the trainer's cache has the shard, whole."""
        states = self._dataset._shard_states
        given_up = monotonic() + float(self._stream.download_timeout)
        while states[self._number] == _PREPARING and monotonic() < given_up:
            sleep(_TICK)
        if states[self._number] != _LOCAL:
            return False
        try:
            self._check_sizes(self._shard)
        except FileNotFoundError:  # only the compressed form is there
            return False
        return True

    def _fetch(self, offer: bool = True) -> Any:
        """A reader of the shard, downloaded and decompressed by streaming's own stream."""
        stream, shard = copy(self._stream), copy(self._shard)
        with _folder(self._dataset, stream) as folder:
            stream.remote = self._stream.remote or self._stream.local  # without a remote, from the compressed form
            stream.local = shard.dirname = folder
            stream.keep_zip = stream.safe_keep_zip = False
            os.makedirs(os.path.join(folder, stream.split), exist_ok=True)
            stream.prepare_shard(shard)
            self._check_sizes(shard)
            return self._shard if offer and self._offer(shard) else self._opened(shard)

    def _opened(self, fetched: Any) -> Any:
        """A reader of open files, which need no name any more."""
        shard = copy(fetched)
        for name in ("raw_data", "raw_meta"):
            if hasattr(shard, name):
                file = os.open(_path(fetched, getattr(fetched, name)), os.O_RDONLY)
                self._files.callback(os.close, file)
                info = copy(getattr(fetched, name))
                info.basename = str(file)
                setattr(shard, name, info)
        shard.dirname, shard.split = "/dev/fd", ""
        return shard

    def _offer(self, fetched: Any) -> bool:
        """Move what was fetched into the trainer's cache, so that it is downloaded once."""
        from filelock import FileLock

        dataset, number, shard = self._dataset, self._number, self._shard
        if shard.compression and self._stream.safe_keep_zip:  # the cache wants both forms
            return False
        with FileLock(dataset._cache_filelock_path):
            room = not dataset.cache_limit or dataset.cache_usage + shard.get_max_size() <= dataset.cache_limit
            if dataset._shard_states[number] != _REMOTE or not room:
                return False
            # In this order: the cache may count too much if we are killed here, never too little.
            dataset.cache_usage += shard.get_raw_size()
            for raw, _ in shard.file_pairs:
                os.replace(_path(fetched, raw), _path(shard, raw))
            dataset._shard_access_times[number] = time_ns()
            dataset._shard_states[number] = _LOCAL
        return True

    def _check_sizes(self, shard: Any) -> None:
        """Refuse a shard that ends early: its reader would return samples cut short.

        Raises:
            SourceError: if a file is not as large as the index says.
            FileNotFoundError: if there is no file.
        """
        for raw, _ in shard.file_pairs:
            size = os.path.getsize(_path(shard, raw))
            if size != raw.bytes:
                raise SourceError(
                    f"The shard file {raw.basename} in {self._stream.local} is not what its index says.",
                    found=f"{size} bytes",
                    expected=f"{raw.bytes} bytes",
                    do="write or copy it again (an interrupted copy ends early)",
                )


def _path(shard: Any, info: Any) -> str:
    return str(os.path.join(shard.dirname, shard.split, info.basename))


def _root(dataset: Any, stream: Any) -> str:
    """Where parts of this rank's shards are fetched to: in the cache, so that they can be moved there."""
    rank = dataset._unique_rank_world.rank
    return os.path.join(stream.local, f".weighted-stream-{dataset._shm_prefix_int}-{rank}")


@contextmanager
def _folder(dataset: Any, stream: Any) -> Iterator[str]:
    root = _root(dataset, stream)
    folder = os.path.join(root, f"{os.getpid()}-{threading.get_ident()}")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # of another process that fetches
            os.rmdir(root)


def folders(dataset: Any) -> list[str]:
    """What readers in other processes may leave behind if they are killed in the middle of a download."""
    return [_root(dataset, stream) for stream in dataset.streams]


def remove_folders(paths: list[str], owner: int) -> None:
    """Remove what killed readers left behind, if this is the process ``owner``."""
    if os.getpid() == owner:  # not a fork of it
        for path in paths:
            shutil.rmtree(path, ignore_errors=True)
