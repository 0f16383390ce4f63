"""The end of MosaicML streaming's shared memory, at a time of ours."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from typing import Any


class AtOnce:
    """Stands in for `atexit` in MosaicML streaming, whose shared memory lasts until the process ends otherwise.

    Each new StreamingDataset opens all there is of it, so that a process of many runs out of file descriptors.
    """

    def __init__(self) -> None:
        self.cleanups: list[Callable[[], Any]] = []

    def register(self, cleanup: Callable[[], Any]) -> None:
        self.cleanups.append(cleanup)

    def clean(self) -> None:
        waiting, self.cleanups = self.cleanups, []
        for cleanup in waiting:
            try:
                cleanup()
            except BufferError:  # an array of it is alive
                atexit.register(cleanup)
