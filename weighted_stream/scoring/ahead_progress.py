"""The line on stderr that shows how far the scorer is."""

from __future__ import annotations

import sys
import time
from typing import Any

from weighted_stream.progress import tqdm_class

EVERY = 5.0
"""Seconds between the lines of a log."""


class Progress:
    """Shards, samples, samples/s and how far ahead: a bar on a terminal, a line every few seconds in a log.

    Raises:
        MissingExtraError: if the package ``tqdm`` is not installed.
    """

    def __init__(self) -> None:
        self._tqdm = tqdm_class()
        self._bar: Any = None
        self._said = -EVERY

    def show(self, figures: dict[str, float], ahead: int, *, last: bool = False) -> None:
        """Show figures of `ScoringAhead.stats`.

        Args:
            figures: ``scored_ahead``, ``scorer_rate``, ``scorer_parts``, ``scorer_bad_parts``.
            ahead: samples scored that the trainer has not reached.
            last: whether there will be no more.
        """
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = self._tqdm(bar_format="{desc}", dynamic_ncols=True)
            self._bar.set_description_str(line(figures, ahead), refresh=False)
            self._bar.update(0)
            if last:
                self._bar.refresh()
                self._bar.close()
                self._bar = None
        elif last or time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            self._tqdm.write(line(figures, ahead), file=sys.stderr)


def line(figures: dict[str, float], ahead: int) -> str:
    """The text of the line.

    Example:
        >>> figures = {"scored_ahead": 40960.0, "scorer_rate": 1234.5, "scorer_parts": 12.0, "scorer_bad_parts": 1.0}
        >>> line(figures, 3210)
        'scoring: 12 shards (1 unreadable), 40,960 samples, 1,234 samples/s, 3,210 ahead of the trainer'
    """
    bad = f" ({figures['scorer_bad_parts']:.0f} unreadable)" if figures["scorer_bad_parts"] else ""
    return (
        f"scoring: {figures['scorer_parts']:,.0f} shards{bad}, {figures['scored_ahead']:,.0f} samples, "
        f"{figures['scorer_rate']:,.0f} samples/s, {ahead:,} ahead of the trainer"
    )
