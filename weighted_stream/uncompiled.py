"""Functions that `torch.compile` leaves for the call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def uncompiled(function: F) -> F:
    """A function that `torch.compile` does not look into: it runs as it stands, between what is compiled.

    As `torch.compiler.disable`, but the compiler is loaded at the first call: it takes two seconds, and the processes
    that only read samples never call.

    Example:
        >>> @uncompiled
        ... def half(x):
        ...     return x / 2
        >>> half(3.0)
        1.5
    """
    if hasattr(torch, "_disable_dynamo"):
        lazy: Callable[[F], F] = torch._disable_dynamo
        return lazy(function)
    disable: Any = torch.compiler.disable  # its annotations are partial
    now: F = disable(function)
    return now
