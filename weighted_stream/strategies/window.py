"""The running window: what a sample is weighed against where its batch is too small, or comes in parts [ours]."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

Window: TypeAlias = Literal["batch", "running"]
"""What a weight is normalised over: the samples of its batch, or the latest samples before it."""

RUNNING_MINIMUM = 32
"""A running window of fewer values says nothing yet: weights are 1."""


class RunningWindow:
    """The latest values, in a ring on their own device.

    Args:
        memory: how many values it holds.

    Example:
        >>> window = RunningWindow(memory=100)
        >>> window.push(torch.rand(30))
        >>> window.values() is None
        True
        >>> window.push(torch.rand(30))
        >>> len(window.values())
        60
    """

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.seen = 0
        self._ring: Tensor | None = None

    def push(self, values: Tensor) -> None:
        """Put values (n,) float32 in place of the oldest."""
        values = values[-self.memory :]
        if self._ring is None:
            with torch.inference_mode(False):  # it outlives whoever happens to come first
                self._ring = torch.zeros(self.memory, dtype=torch.float32, device=values.device)
        at = self.seen % self.memory
        head = values[: self.memory - at]
        self._ring[at : at + len(head)] = head
        self._ring[: len(values) - len(head)] = values[len(head) :]
        self.seen += len(values)

    def values(self) -> Tensor | None:
        """A view of the values, in no order, which the next `push` changes; None while there are too few of them."""
        return None if self._ring is None or self.seen < RUNNING_MINIMUM else self._ring[: self.seen]
