"""What can be known of a MosaicML streaming dataset before an epoch: files that are missing, a place to begin at."""

from __future__ import annotations

import json
import os
from typing import Any

from weighted_stream.errors import SourceError

NAMED = 3
"""So many files are named."""


def check_local(dataset: Any) -> None:
    """Streams without a remote must have their shards, in one of their forms, as long as ``index.json`` says.

    Streaming itself ends the epoch early without an error if one is missing, or waits for it for ever.

    Args:
        dataset: a ``StreamingDataset``.

    Raises:
        SourceError: naming the files that are missing or cut.
    """
    wrong: list[str] = []
    for number, shard in zip(dataset.stream_per_shard.tolist(), dataset.shards, strict=True):
        stream = dataset.streams[number]
        if stream.remote is None or stream.remote == stream.local:
            folder = os.path.join(stream.local, stream.split or "")
            problems = [_problem(folder, raw, packed) for raw, packed in shard.file_pairs]
            wrong += [problem for problem in problems if problem]
    if wrong:
        more = f", and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise SourceError(
            "Shards of this StreamingDataset are not whole, and there is no remote to get them from.",
            found="; ".join(wrong[:NAMED]) + more,
            expected="the files that index.json lists, of the sizes it gives",
            do="copy or write them again, or take them out of index.json",
        )


def _problem(folder: str, raw: Any, packed: Any) -> str | None:
    """What is wrong with a file that may be there as it is, or compressed; None if nothing is."""
    sizes: list[tuple[str, int, int | None]] = []
    for info in (raw, packed):
        if info is None:
            continue
        path = os.path.join(folder, info.basename)
        try:
            size = os.stat(path).st_size
        except OSError:
            size = None
        if size == info.bytes:
            return None
        sizes.append((path, int(info.bytes), size))
    there = [f"{path} has {size:,} of {wanted:,} bytes" for path, wanted, size in sizes if size is not None]
    return there[0] if there else f"{sizes[0][0]} is missing"


def resumes(dataset: Any) -> bool:
    """Whether its own ``load_state_dict`` lets the epoch begin in the middle."""
    from streaming.base.constant import RESUME
    from streaming.base.shared import SharedMemory
    from streaming.base.shared.prefix import _get_path

    try:
        memory = SharedMemory(name=_get_path(dataset._shm_prefix_int, RESUME), create=False)
    except FileNotFoundError:
        return False
    state = json.loads(bytes(memory.buf).split(b"\0", 1)[0] or b"{}")
    # The epoch that runs is one before the next; it is the next one until its first sample.
    return bool(state.get("sample_in_epoch")) and state["epoch"] >= dataset.next_epoch - 1
