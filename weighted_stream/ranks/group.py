"""RankGroup: the processes that train one model together, and how they tell each other bytes."""

from __future__ import annotations

import hashlib
import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.distributed.constants import default_pg_timeout

from weighted_stream.errors import RanksError, StrategyError

Bytes: TypeAlias = NDArray[np.uint8]

ProcessGroup: TypeAlias = Any
"""A process group of torch.distributed."""

ROOM = 4096
"""Bytes of each rank in one collective, to begin with; what does not fit goes in a second one, and there is more room
from then on."""

_LENGTH = 8


class RankGroup:
    """Gathers bytes from all ranks, on the host.

    It is a gloo group of its own, whatever the trainer's backend is: nothing of it waits for the device, or comes
    between the trainer's collectives.

    Args:
        process_group: the ranks that train on different samples; None: all of them.
    """

    def __init__(self, process_group: ProcessGroup | None = None) -> None:
        members = None if process_group is None else dist.get_process_group_ranks(process_group)
        self._group = dist.new_group(
            members, timeout(process_group), backend="gloo", use_local_synchronization=members is not None
        )
        self.rank: int = dist.get_rank(self._group)
        self.size: int = dist.get_world_size(self._group)
        self._room = ROOM

    def start(self, message: Bytes) -> Exchange:
        """Begin to tell the others, and to be told; one at a time, in the same order on every rank."""
        return Exchange(self, message)

    def exchange(self, message: Bytes) -> list[Bytes]:
        """What every rank says, by rank.

        Raises:
            RanksError: if one of them is gone, or does not come.
        """
        return self.start(message).wait()

    def gather(self, message: Bytes) -> tuple[Any, torch.Tensor]:
        """Begin one collective over messages of equal length."""
        mine = torch.from_numpy(message)
        into = torch.empty(self.size * len(message), dtype=torch.uint8)
        try:
            return dist.all_gather_into_tensor(into, mine, group=self._group, async_op=True), into
        except (RuntimeError, ValueError) as error:
            raise lost(error) from error

    @property
    def room(self) -> int:
        """Bytes of each rank in one collective, the length among them."""
        return self._room

    def need(self, length: int) -> None:
        """Messages are as long as this: from now on there is room for it."""
        while self._room < length + _LENGTH:
            self._room *= 2


class Exchange:
    """One exchange that is under way.

    Args:
        group: who takes part.
        message: what this rank says.
    """

    def __init__(self, group: RankGroup, message: Bytes) -> None:
        self._group, self._message = group, message
        first = np.zeros(group.room, np.uint8)
        first[:_LENGTH] = np.array([len(message)], np.int64).view(np.uint8)
        head = message[: group.room - _LENGTH]
        first[_LENGTH : _LENGTH + len(head)] = head
        self._room = group.room - _LENGTH
        self._work, self._into = group.gather(first)

    def wait(self) -> list[Bytes]:
        """What every rank said, by rank.

        Raises:
            RanksError: if one of them is gone, or does not come.
        """
        heads = self._gathered(self._work, self._into)
        lengths = [int(head[:_LENGTH].view(np.int64)[0]) for head in heads]
        longest = max(lengths)
        parts = [head[_LENGTH : _LENGTH + length] for head, length in zip(heads, lengths, strict=True)]
        if longest <= self._room:
            return parts
        rest = np.zeros(longest - self._room, np.uint8)
        mine = self._message[self._room :]
        rest[: len(mine)] = mine
        tails = self._gathered(*self._group.gather(rest))
        self._group.need(longest)
        left = [max(0, length - self._room) for length in lengths]
        return [np.concatenate([part, tail[:n]]) for part, tail, n in zip(parts, tails, left, strict=True)]

    def _gathered(self, work: Any, into: torch.Tensor) -> list[Bytes]:
        try:
            work.wait()
        except (RuntimeError, ValueError) as error:
            raise lost(error) from error
        return list(into.numpy().reshape(self._group.size, -1))


def ranks_of(process_group: ProcessGroup | Literal[False] | None) -> RankGroup | None:
    """The ranks that a stream's feedback goes to; None: this process is alone.

    Args:
        process_group: None: all ranks of `torch.distributed`, if it is initialised. False: this process alone.

    Raises:
        StrategyError: for anything else but a process group that this rank belongs to.
    """
    if process_group is False or (process_group is None and not (dist.is_available() and dist.is_initialized())):
        return None
    if process_group is not None and not (
        isinstance(process_group, dist.ProcessGroup) and dist.get_rank(process_group) >= 0
    ):
        raise StrategyError(
            "These are no ranks to share feedback with.",
            found=f"process_group={process_group!r}",
            expected="None (all ranks), a torch.distributed process group that this rank is in, or False (this one)",
            do="pass the group of the ranks that read different samples: the data-parallel one",
        )
    if dist.get_world_size(process_group) == 1:
        return None
    return RankGroup(process_group)


def place_of(path: str | os.PathLike[str]) -> str:
    """A directory as ranks can compare it: the same text on two ranks means the same directory of one machine."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    machine = f"{socket.gethostname()} {boot.read_text() if boot.exists() else ''} {Path(path).resolve()}"
    return hashlib.sha256(machine.encode()).hexdigest()


def lost(error: BaseException) -> RanksError:
    """The error for a rank that is gone or does not come."""
    return RanksError(
        "The ranks' feedback did not get through.",
        found=str(error).splitlines()[0] if str(error) else type(error).__name__,
        expected="every rank weighing its batches, as many as the others unless its loader has ended",
        do="look for the first error of another rank; a rank that skips batches, or does not iterate over the stream, "
        "needs process_group=False on all of them",
    )


def timeout(process_group: ProcessGroup | None) -> timedelta:
    """How long ranks wait for each other: as long as the trainer's own group lets them, and half an hour at least."""
    found = [default_pg_timeout]
    group: Any = dist.group.WORLD if process_group is None else process_group
    for device in getattr(group, "_device_types", ()):
        options = getattr(group._get_backend(device), "options", None)
        found.append(getattr(options, "_timeout", default_pg_timeout))
    return max(found)
