"""The running window: what a sample is weighed against where its batch is too small, or comes in parts [ours]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from weighted_stream.errors import StateError
from weighted_stream.state import check_keys, copied, like_state

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
        if self._ring is None or self._ring.device != values.device:
            with torch.inference_mode(False):  # it outlives whoever happens to come first
                kept = torch.zeros(self.memory) if self._ring is None else self._ring
                self._ring = kept.to(values.device, torch.float32)
        at = self.seen % self.memory
        head = values[: self.memory - at]
        self._ring[at : at + len(head)] = head
        self._ring[: len(values) - len(head)] = values[len(head) :]
        self.seen += len(values)

    def values(self, device: torch.device | None = None) -> Tensor | None:
        """The values, in no order; None while there are too few of them. The next `push` may change them.

        Args:
            device: where they are wanted; None: where they are.
        """
        if self._ring is None or self.seen < RUNNING_MINIMUM:
            return None
        return self._ring[: self.seen].to(self._ring.device if device is None else device)

    def state_dict(self) -> dict[str, Any]:
        """The ring, and how many values were pushed."""
        return {"seen": self.seen, "ring": copied(self._ring)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there.

        Raises:
            StateError: for a window of another size.
        """
        check_keys("a running window's state", state, ("seen", "ring"))
        ring = None if state["ring"] is None else like_state("The running window", state["ring"], 1)
        if ring is not None and len(ring) != self.memory:
            raise StateError(
                "The running window in this state has another size.",
                found=f"{len(ring)} values",
                expected=f"memory={self.memory}",
                do=f"make the strategy with memory={len(ring)}, as it was when the state was saved",
            )
        self.seen, self._ring = int(state["seen"]), ring
