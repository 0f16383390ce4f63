"""What strategies that go by epochs have in common."""

from __future__ import annotations

from weighted_stream.errors import StrategyError


def no_epoch(method: str) -> StrategyError:
    """The error for a batch before any epoch was begun.

    Example:
        >>> no_epoch("InfoBatch").found
        'no epoch begun'
    """
    return StrategyError(
        f"{method} does not know which epoch this is.",
        found="no epoch begun",
        expected="an epoch, counted from 0",
        do="read from stream.loader(...), or call stream.set_epoch(epoch) before each epoch of your DataLoader",
    )
