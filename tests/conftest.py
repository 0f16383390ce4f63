"""Shared settings: few threads (CI has two cores), reproducible and unhurried property tests, nothing left open."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from at_once import AtOnce
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("default", deadline=None, derandomize=bool(os.environ.get("CI")), max_examples=60)
settings.load_profile("default")


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
