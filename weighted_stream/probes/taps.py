"""Taps: hooks that may go wherever a model goes, because they hold on to nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakMethod

from torch.utils.hooks import RemovableHandle

from weighted_stream.uncompiled import uncompiled


class Tap:
    """A hook that calls a method of its owner while the owner lives.

    It does not keep the owner alive, and a copy of it (a model that was deep-copied or pickled takes its hooks along)
    is cut off: what a copy of the model does is not the owner's business. Compiled code is left for the call.

    Args:
        method: a bound method of the owner; it is called with whatever the hook gets, and returns nothing.
    """

    def __init__(self, method: Callable[..., None] | None = None) -> None:
        self._method = None if method is None else WeakMethod(method)

    @uncompiled
    def __call__(self, *args: Any) -> None:
        """Pass the call on, if there is anyone to take it."""
        method = None if self._method is None else self._method()
        if method is not None:
            method(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return Tap, ()


def remove(hooks: Iterable[RemovableHandle]) -> None:
    """Remove these hooks."""
    for hook in hooks:
        hook.remove()
