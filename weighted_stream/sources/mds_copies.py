"""A StreamingDataset as two objects: in the same process, and in another one."""

from __future__ import annotations

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
    return dataset


def unconnected(stream: Any) -> Any:
    """A copy of a stream whose downloader holds no connection: connections do not pickle."""
    stream = copy(stream)
    if hasattr(stream, "_downloader"):
        stream._downloader = type(stream._downloader)()
    return stream


def leave_to_owner(dataset: Any) -> None:
    """Of the shared memory that came with a pickled dataset: it is not this process family's to remove.

    Python counts a block as ours when it is unpickled. Where our parent made it, that is right; where a rank is a
    guest of the node's first rank, the block would be removed at the end of the guest.
    """
    shared = [dataset._next_epoch.arr, dataset._cache_usage.arr, dataset._shard_states, dataset._shard_access_times]
    for array in [*shared, dataset._shared_barrier._arr]:
        if not array.shm.created_shms:
            resource_tracker.unregister(array.shm.shm._name, "shared_memory")
