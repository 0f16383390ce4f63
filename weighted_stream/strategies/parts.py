"""Strategies within a strategy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weighted_stream.strategies.base import Strategy


def parts(strategy: Any) -> Iterator[Strategy]:
    """A strategy, and those that it wraps or multiplies.

    Example:
        >>> from weighted_stream import Clip, Frozen, LinUpper
        >>> [type(part).__name__ for part in parts(Clip(LinUpper() * Frozen()))]
        ['Clip', 'Product', 'LinUpper', 'Frozen']
    """
    yield strategy
    inner = getattr(strategy, "strategy", None)
    for part in (*getattr(strategy, "factors", ()), *(() if inner is None else (inner,))):
        yield from parts(part)
