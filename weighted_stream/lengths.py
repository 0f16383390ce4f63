"""How much there is, where that is known."""

from __future__ import annotations

from typing import Any


def length_of(data: Any) -> int | None:
    """How much a dataset or loader holds, if it can say.

    Example:
        >>> length_of([1, 2, 3]), length_of(iter([1, 2, 3]))
        (3, None)
    """
    try:
        return len(data)
    except (TypeError, NotImplementedError):
        return None
