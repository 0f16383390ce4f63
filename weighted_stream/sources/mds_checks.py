"""What can be known of a MosaicML streaming dataset before an epoch: files that are missing, a place to begin at."""

from __future__ import annotations

import json
import os
import warnings
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weighted_stream.errors import SourceError

NAMED = 3
"""So many files are named."""


def is_streamings(own: Any) -> bool:
    """Whether a class or method is streaming's, rather than a user's."""
    return str(own.__module__).partition(".")[0] == "streaming"


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


def check_shard(folder: str, shard: Any, name: str) -> None:
    """What can be known of a shard before its samples are read.

    Its files are as long as ``index.json`` says and have the hash it gives, if it gives one (so it does where the
    writer was given ``hashes=``); the table of an MDS shard leads to samples that fill the file, whose columns fill
    them. Without hashes a flipped bit inside a value is not seen here, and by nobody if the value still decodes.

    Args:
        folder: of the shard.
        shard: streaming's reader of it.
        name: for the error.

    Raises:
        SourceError: if it is damaged.
        FileNotFoundError: if it is not there.
    """
    for raw, _ in shard.file_pairs:
        path = os.path.join(folder, raw.basename)
        size = os.stat(path).st_size
        if size != raw.bytes:
            raise _damaged(name, f"{path} has {size:,} of {raw.bytes:,} bytes", "the size that index.json gives")
        algorithm, expected = next(iter(sorted(raw.hashes.items(), reverse=True)), ("", ""))  # xxh… before sha…
        if algorithm:
            found = _hash(algorithm, path)
            if found != expected:
                raise _damaged(name, f"{path} with {algorithm} {found}", f"{algorithm} {expected}, as index.json says")
    if hasattr(shard, "column_encodings"):
        wrong = _table(path, shard)
        if wrong:
            raise _damaged(name, f"{path}: {wrong}", "a shard as MDSWriter writes it")


def _hash(algorithm: str, path: str) -> str:
    from streaming.base.hashing import get_hash

    with open(path, "rb") as file:
        return str(get_hash(algorithm, file.read()))


def _table(path: str, shard: Any) -> str | None:
    """What is wrong with the table in an MDS shard, or with the columns of its samples; None if nothing is."""
    rows = int(shard.samples)
    data = np.memmap(path, np.uint8, "r")
    head = 4 * (rows + 2)
    if len(data) < head:
        return f"no table of {rows:,} samples"
    table = data[:head].view("<u4").astype(np.int64)
    offsets = table[1:]
    if table[0] != rows:
        return f"it says {table[0]:,} samples, and its index {rows:,}"
    if offsets[0] < head or offsets[-1] != len(data) or (np.diff(offsets) < 0).any():
        return "its table of samples leads outside of it"
    with suppress(ValueError, RecursionError):  # nobody reads it but us
        config = json.loads(bytes(data[head : offsets[0]]))
        for what in ("column_names", "column_encodings"):
            found = config.get(what) if isinstance(config, dict) else None
            if found is not None and found != getattr(shard, what):
                return f"{what} {found}, and in its index {getattr(shard, what)}"
    return _columns(data, offsets, shard.column_sizes)


def _columns(data: Any, offsets: NDArray[np.int64], sizes: list[int | None]) -> str | None:
    """The sizes of its columns must fill each sample."""
    begins, lengths = offsets[:-1], np.diff(offsets)
    varying = sum(not size for size in sizes)
    filled = np.full(len(begins), 4 * varying + sum(size or 0 for size in sizes), np.int64)
    if (lengths < 4 * varying).any():
        return f"sample {int(np.argmax(lengths < 4 * varying))} is too short for its columns"
    for column in range(varying):
        for byte in range(4):
            filled += data[begins + 4 * column + byte].astype(np.int64) << (8 * byte)
    wrong = np.flatnonzero(filled != lengths)
    return f"the columns of sample {int(wrong[0])} do not fill it" if len(wrong) else None


def _damaged(name: str, found: str, expected: str) -> SourceError:
    return SourceError(
        f"Shard {name} is damaged.",
        found=found,
        expected=expected,
        do="copy or write it again, or take it out of index.json; a copy in a cache: delete it, and it is fetched "
        'again. on_bad_shard="skip" leaves it out',
    )


def check_columns(dataset: Any, names: list[str]) -> None:
    """Warn of shards whose columns are not those of the others in their directory.

    Args:
        dataset: a ``StreamingDataset``.
        names: of its shards.
    """
    first: dict[int, tuple[str, str]] = {}
    odd: list[str] = []
    for name, stream, shard in zip(names, dataset.stream_per_shard.tolist(), dataset.shards, strict=True):
        columns = _declared(shard)
        other, expected = first.setdefault(stream, (name, columns))
        if columns != expected:
            odd.append(f"{name} ({columns}; {other} has {expected})")
    if odd:
        more = f", and {len(odd) - NAMED} more" if len(odd) > NAMED else ""
        warnings.warn(
            f"Shards have other columns than the first one of their directory: {'; '.join(odd[:NAMED])}{more}.",
            RuntimeWarning,
            stacklevel=3,
        )


def _declared(shard: Any) -> str:
    if not hasattr(shard, "column_encodings"):
        return ", ".join(map(str, shard.column_names if hasattr(shard, "column_names") else shard.columns))
    return ", ".join(f"{n}: {kind}" for n, kind in zip(shard.column_names, shard.column_encodings, strict=True))


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
