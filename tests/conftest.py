"""Shared settings: few threads (CI has two cores), reproducible and unhurried property tests, nothing left open."""

from __future__ import annotations

import fcntl
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
def turns_of_mosaicml(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Datasets that begin at the same moment may want one name in shared memory: one of them fails."""
    name = request.node.nodeid.lower()
    named = ("mds" in name or "mosaicml" in name) and "fault_table" not in name  # which waits for hangs, for minutes
    if "PYTEST_XDIST_WORKER" not in os.environ or not (named or request.node.get_closest_marker("mosaicml")):
        yield
        return
    folder = tmp_path_factory.getbasetemp().parent  # that of all workers
    with open(folder / "mosaicml.next", "w") as following, open(folder / "mosaicml.turn", "w") as turn:
        fcntl.flock(following, fcntl.LOCK_EX)  # who waits is next, also if the other comes back at once
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(following, fcntl.LOCK_UN)
        yield


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
