"""Shared settings: few threads (CI has two cores), reproducible and unhurried property tests, nothing left open."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("default", deadline=None, derandomize=bool(os.environ.get("CI")), max_examples=60)
settings.load_profile("default")


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


@pytest.fixture(autouse=True)
def no_shared_memory_left() -> Iterator[None]:
    yield
    memory: Any = sys.modules.get("streaming.base.shared.memory")
    if memory is None:
        return
    if isinstance(memory.atexit, AtOnce):
        memory.atexit.clean()
    else:
        memory.atexit = AtOnce()
