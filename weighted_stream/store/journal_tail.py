"""JournalTail: what is new in a journal that another process writes, compacts or rolls back meanwhile."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from weighted_stream.errors import StoreError
from weighted_stream.store.journal_entry import Entry
from weighted_stream.store.journal_segment import Segment, firsts

MOST_ENTRIES = 128
"""Entries that one look reads at most: the latest."""


class JournalTail:
    """Reads what was added since the last look.

    Args:
        folder: of the journal; it need not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._position = 0

    def news(self) -> list[Entry]:
        """The entries since the last look, at most the `MOST_ENTRIES` latest; none while the journal is being cut."""
        entries: deque[Entry] = deque()
        try:
            begins = firsts(self._folder)
            end = None
            for begin in reversed(begins):
                segment = Segment(self._folder, begin)
                last = segment.first + segment.count() - 1
                end = last if end is None else end
                if end < self._position:  # a state was loaded
                    self._position = end
                    return []
                first = max(segment.first, self._position + 1)
                for position in range(last, first - 1, -1):
                    entries.appendleft(segment.entry(position))
                    if len(entries) == MOST_ENTRIES:
                        break
                if first > segment.first or len(entries) == MOST_ENTRIES:
                    break
        except StoreError:  # a segment went, or an entry was cut, while we looked: what is there now comes next time
            return []
        if end is not None:
            self._position = end
        return list(entries)
