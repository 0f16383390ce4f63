"""A process that ends anywhere, played within this one: at the n-th line that the store's code runs."""

from __future__ import annotations

import linecache
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import weighted_stream.store
from weighted_stream import WeightStore

STORE = str(Path(weighted_stream.store.__file__).parent)


class Killed(BaseException):
    """Nothing catches it."""


@contextmanager
def killed_after(lines: int, how: type[BaseException] = Killed) -> Iterator[None]:
    """Within, the n-th line of the store's code is not run any more; nor is it what comes after."""
    left = lines

    def look(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(STORE) or (event == "call" and finalizes(frame)):
            return None
        if event == "line":
            left -= 1
            if left <= 0 and not leaves_a_lock(frame):
                sys.settrace(None)
                raise how
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        yield
    finally:
        sys.settrace(before)


def leaves_a_lock(frame: FrameType) -> bool:
    """Whether the line is a ``with``: an error of the tracer would keep it from being left, as no real one does."""
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip().startswith("with ")


def finalizes(frame: FrameType | None) -> bool:
    """Whether this is the end of an older object, which the collector has come upon."""
    while frame is not None:
        if frame.f_code.co_filename == weakref.__file__:
            return True
        frame = frame.f_back
    return False


def abandon(store: WeightStore) -> None:
    """What the kernel does when a process ends: lock and memory go, files and what is mapped of them stay."""
    store._behind.forget()
    store._release()
