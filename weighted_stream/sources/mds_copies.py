"""A StreamingDataset as two objects: in the same process, and in another one."""

from __future__ import annotations

import os
from copy import copy
from multiprocessing import resource_tracker
from typing import Any

# Of the process that has read the dataset: not to be shared between two objects, and not to be pickled. The
# dataset makes them again when it needs them; without ``_locals_shm``, its destructor leaves the original's
# directory alone.
_RUNTIME = ("_locals_shm", "_iterator", "_executor", "_event", "_cache_filelock")


def copy_of(data: Any) -> Any:
    """A second object over the same shards and the same state of this machine (epoch, cache, checkpoint)."""
    dataset = object.__new__(type(data))
    vars(dataset).update({name: value for name, value in vars(data).items() if name not in _RUNTIME})
    dataset._shared_barrier = copy(data._shared_barrier)
    vars(dataset._shared_barrier).pop("lock", None)
    dataset.streams = [unconnected(stream) for stream in data.streams]
    return dataset


def unconnected(stream: Any) -> Any:
    """A copy of a stream, whose downloader will make connections of its own in each process."""
    stream = copy(stream)
    if hasattr(stream, "_downloader"):
        stream._downloader = OwnConnections(stream._downloader)
    return stream


class OwnConnections:
    """A downloader of streaming's that does not share its connections with other processes.

    A worker that is forked has its parent's: streaming 0.13 then has all workers wait for answers at one connection, of
    which each gets only some, until ``download_timeout`` ends it. And connections do not pickle.

    Args:
        downloader: of streaming's, or one of these.
    """

    def __init__(self, downloader: Any) -> None:
        self._kind: Any = downloader._kind if isinstance(downloader, OwnConnections) else type(downloader)
        self._own: Any = None
        self._process = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"_kind": self._kind, "_own": None, "_process": 0}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self._own is None or self._process != os.getpid():
            self._own, self._process = self._kind(), os.getpid()
        return getattr(self._own, name)


def leave_to_owner(dataset: Any) -> None:
    """Of the shared memory that came with a pickled dataset: it is not this process family's to remove.

    Python counts a block as ours when it is unpickled. Where our parent made it, that is right; where a rank is a
    guest of the node's first rank, the block would be removed at the end of the guest.
    """
    shared = [dataset._next_epoch.arr, dataset._cache_usage.arr, dataset._shard_states, dataset._shard_access_times]
    for array in [*shared, dataset._shared_barrier._arr]:
        if not array.shm.created_shms:
            resource_tracker.unregister(array.shm.shm._name, "shared_memory")
