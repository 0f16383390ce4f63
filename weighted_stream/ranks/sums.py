"""Sums: numbers added up over all ranks, for a joint strategy that sees one rank's samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weighted_stream.ranks.packet import Packet

Numbers = NDArray[np.float64]


class Sums:
    """Sums over all ranks, for one batch: when it is run again, with what the other ranks said the first time.

    Args:
        add_up: asks the others.
        scratch: of the batch.

    Example:
        >>> scratch = {}
        >>> Sums(lambda numbers: numbers + 5, scratch)(torch.tensor([1.0])), Sums(None, scratch)(torch.tensor([2.0]))
        (tensor([6.]), tensor([7.]))
    """

    def __init__(self, add_up: Callable[[Numbers], Numbers], scratch: dict[Any, Any]) -> None:
        self._add_up, self._others, self._place = add_up, said_by_others(scratch), 0

    def __call__(self, numbers: Tensor) -> Tensor:
        """The sum of these numbers (k,) over all ranks."""
        mine = numbers.detach().to("cpu", torch.float64).numpy()
        if self._place == len(self._others):
            self._others.append(self._add_up(mine) - mine)
        total = torch.from_numpy(self._others[self._place] + mine).to(numbers)
        self._place += 1
        return total


def said_by_others(scratch: dict[Any, Any]) -> list[Numbers]:
    """What the other ranks' numbers came to, one sum after the other, for a batch of this scratch."""
    others: list[Numbers] = scratch.setdefault(Sums, [])
    return others


def total(packets: Sequence[Packet]) -> Numbers:
    """The sum of the numbers of all ranks that have some."""
    added: Numbers = np.stack([packet.numbers for packet in packets if len(packet.numbers)]).sum(0)
    return added
