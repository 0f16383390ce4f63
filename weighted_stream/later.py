"""Later: values that are on a device are written down when they have arrived, so that the trainer need not wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_PENDING = 8
"""Copies under way before the oldest is waited for: bounds what a crash of the process can lose."""


Write: TypeAlias = Callable[[NDArray[np.int64], Any, Any, int], None]


class Later:
    """Calls ``write(ids, losses, weights, step)`` with host arrays, in order: at once for host tensors, on CUDA as
    soon as an asynchronous copy through pinned memory is there.
    """

    def __init__(self) -> None:
        self._pending: deque[tuple[Any, NDArray[np.int64], Tensor, int]] = deque()

    def call(self, write: Write, ids: NDArray[np.int64], losses: Tensor, weights: Tensor, step: int) -> None:
        """Write these now or later: ids (B,) int64, losses (B,) and weights (B,) float32."""
        if losses.device.type != "cuda":
            self.flush(write)
            write(ids, losses.numpy(force=True), weights.numpy(force=True), step)
            return
        cuda: Any = torch.cuda  # its annotations are partial
        with cuda.device(losses.device):
            host = torch.empty((2, len(ids)), dtype=torch.float32, pin_memory=True)
            host.copy_(torch.stack([losses, weights]), non_blocking=True)
            arrived = cuda.Event()
            arrived.record()
        self._pending.append((arrived, ids, host, step))
        while self._pending and (len(self._pending) > MOST_PENDING or self._pending[0][0].query()):
            self._first(write)

    def flush(self, write: Write) -> None:
        """Wait for everything that is under way and write it."""
        while self._pending:
            self._first(write)

    def _first(self, write: Write) -> None:
        arrived, ids, host, step = self._pending.popleft()
        arrived.synchronize()
        write(ids, host[0].numpy(), host[1].numpy(), step)
