"""Scores on their way to a shared store, shard by shard, while others are still being scored."""

from __future__ import annotations

from pathlib import Path

from weighted_stream.shards.scored import Scored, load_scores
from weighted_stream.shards.side_files import read_scores, side_files, side_path
from weighted_stream.shards.workers import Done, Event
from weighted_stream.sources.base import Fingerprint
from weighted_stream.store import SharedStore


class ScoreSender:
    """Puts the scores of side files into a store.

    Args:
        store: which trainers share.
        folder: of the side files.
        dataset: what the ids belong to, all of it.

    Attributes:
        sent: how many scores.
    """

    def __init__(self, store: SharedStore, folder: Path, dataset: Fingerprint) -> None:
        self._store, self._folder, self._dataset = store, folder, dataset
        self._done: set[Path] = set()
        self.sent = 0

    def tell(self, event: Event) -> None:
        """A shard may be done: its scores go at once.

        Raises:
            StoreMismatchError: if the shared store holds other scores, or another dataset.
        """
        if isinstance(event, Done) and event.samples:
            self._send(side_path(self._folder, event.shard))

    def finish(self) -> None:
        """Send the scores that there were before, and wait until all have come.

        Raises:
            StoreMismatchError: if the shared store holds other scores, or another dataset.
            StoreError: if they have not all come within the time-out of the store.
        """
        for side in side_files(self._folder):
            if side.rows and side.path not in self._done:
                self._send(side.path)
        self._store.flush()

    def _send(self, file: Path) -> None:
        of_one = read_scores(file)  # which knows of one shard only
        self.sent += load_scores(self._store, Scored(of_one.identity, self._dataset, of_one.batches))
        self._done.add(file)
