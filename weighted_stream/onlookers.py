"""Onlooker: who is shown all feedback as it is remembered, each batch once: whoever logs figures."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from weighted_stream.memory import Memory


class Onlooker(Protocol):
    """Is told of feedback in the trainer's process; on one of several ranks, of that of all ranks.

    Feedback of a batch may come in parts, one after another. The arrays are the caller's: copy what is to be kept.
    """

    def meet(self, ids: NDArray[np.int64], step: int, memory: Memory) -> None:
        """These samples are about to be remembered with their feedback; what was known before can still be asked."""

    def see(
        self,
        ids: NDArray[np.int64],
        losses: NDArray[np.float32],
        weights: NDArray[np.float32],
        step: int,
        memory: Memory,
    ) -> None:
        """They are remembered: (n,) each, losses as they came, also those that are not finite."""

    def over(self, memory: Memory) -> None:
        """The feedback seen last was the last of its batch."""

    def end(self, memory: Memory) -> None:
        """There will be no more."""
