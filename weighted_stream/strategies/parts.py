"""Strategies within a strategy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weighted_stream.strategies.base import Strategy


def parts(strategy: Strategy) -> Iterator[Strategy]:
    """A strategy, and those that it wraps or multiplies.

    Example:
        >>> from weighted_stream import Clip, Frozen, LinUpper
        >>> [type(part).__name__ for part in parts(Clip(LinUpper() * Frozen()))]
        ['Clip', 'Product', 'LinUpper', 'Frozen']
    """
    from weighted_stream.strategies.base import Strategy

    yield strategy
    factors = getattr(strategy, "factors", ())
    for part in (getattr(strategy, "strategy", None), *(factors if isinstance(factors, tuple) else ())):
        if isinstance(part, Strategy):
            yield from parts(part)
