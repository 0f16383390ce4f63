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

    Attributes:
        cuts: how often entries that had been read were gone, as a state was loaded; all there is comes again then.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mark = (0, 0)
        self.cuts = 0

    def news(self) -> list[Entry]:
        """The entries since the last look, at most the `MOST_ENTRIES` latest; none while the journal is being cut."""
        try:
            entries = self._read()
        except StoreError:  # a segment went, or an entry was cut, while we looked: what is there now comes next time
            return []
        if entries:
            self._mark = entries[-1].line.mark
        return entries

    def _read(self) -> list[Entry]:
        segments = [Segment(self._folder, first) for first in firsts(self._folder)]
        entries: deque[Entry] = deque()
        if self._was_cut(segments):
            self._mark = (0, 0)
            self.cuts += 1
        for segment in reversed(segments):
            for position in range(segment.first + segment.count() - 1, segment.first - 1, -1):
                if position <= self._mark[0] or len(entries) == MOST_ENTRIES:
                    return list(entries)
                entries.appendleft(segment.entry(position))
        return list(entries)

    def _was_cut(self, segments: list[Segment]) -> bool:
        """Whether the entry that was read last is not there any more, or another one is in its place."""
        position, chain = self._mark
        for segment in reversed(segments):
            if segment.first <= position:
                line = segment.line(position)
                return line is None or line.chain != chain
        return position > 0 and not segments  # otherwise it was compacted
