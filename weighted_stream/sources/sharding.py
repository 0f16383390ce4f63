"""Who reads which rows, and in what order: pure functions over ranks, workers and seeds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch.distributed as dist
from torch.utils.data import get_worker_info

from weighted_stream.errors import SourceError

T = TypeVar("T")
Ints: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]


class Piece(NamedTuple):
    """Rows ``start`` to ``stop`` of one row group."""

    group: int
    start: int
    stop: int


def replica() -> tuple[int, int]:
    """(rank, world size) of this process: of `torch.distributed`, else of the environment, else (0, 1).

    Raises:
        SourceError: if ``RANK`` and ``WORLD_SIZE`` make no rank.
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    try:
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        rank, world = -1, 0
    return check_replica((rank, world))


def check_replica(pair: tuple[int, int]) -> tuple[int, int]:
    """The pair (rank, world size), if it is one.

    Raises:
        SourceError: unless 0 <= rank < world size.
    """
    rank, world = pair
    if not 0 <= rank < world:
        env = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE") if name in os.environ}
        raise SourceError(
            "This is no rank.",
            found=f"rank {rank} of {world} (environment: {env})",
            expected="0 <= rank < world size",
            do="set both RANK and WORLD_SIZE, or neither, or pass replica=(rank, world size)",
        )
    return rank, world


def reader(rank: int, world: int) -> tuple[int, int]:
    """(number of this reader, number of readers), where each `DataLoader` worker of each rank is a reader."""
    worker = get_worker_info()
    if worker is None:
        return rank, world
    return rank * worker.num_workers + worker.id, world * worker.num_workers


def share(total: int, part: int, parts: int) -> tuple[int, int]:
    """Start and stop of one of ``parts`` runs of ``total`` rows whose lengths differ by at most one.

    Example:
        >>> [share(10, part, 3) for part in range(3)]
        [(0, 3), (3, 6), (6, 10)]
    """
    return total * part // parts, total * (part + 1) // parts


def pieces(rows: Ints, order: Ints, part: int, parts: int) -> list[Piece]:
    """What one of ``parts`` readers reads of row groups of ``rows`` rows each, visited in ``order``.

    The groups form one line, cut into ``parts`` runs of equal length; a group on a cut is read by both
    neighbours, each keeping its own rows. So shares are even to one row however few or uneven the groups
    are.

    Example:
        >>> pieces(np.array([4, 6]), np.array([1, 0]), part=1, parts=2)
        [Piece(group=1, start=5, stop=6), Piece(group=0, start=0, stop=4)]
    """
    ends = np.cumsum(rows[order])
    position, stop = share(int(ends[-1]) if len(ends) else 0, part, parts)
    found = []
    while position < stop:
        place = int(np.searchsorted(ends, position, side="right"))
        group = int(order[place])
        begin = int(ends[place]) - int(rows[group])
        found.append(Piece(group, position - begin, min(int(ends[place]), stop) - begin))
        position = int(ends[place])
    return found


def buffer_shuffle(blocks: Iterable[list[T]], size: int, rng: np.random.Generator) -> Iterator[T]:
    """The items of ``blocks`` in random order, holding ``size`` of them: one leaves for each that comes."""
    buffer: list[T] = []
    for block in blocks:
        room = size - len(buffer)
        buffer.extend(block[:room])
        rest = block[room:]
        for item, slot in zip(rest, rng.integers(size, size=len(rest)).tolist(), strict=True):
            yield buffer[slot]
            buffer[slot] = item
    for slot in rng.permutation(len(buffer)).tolist():
        yield buffer[slot]
