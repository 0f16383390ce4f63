"""One run, as its store tells it: records and journal read once or twice each, whatever their size."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weighted_stream.errors import StoreError
from weighted_stream.report.census import Census
from weighted_stream.report.course import Course
from weighted_stream.report.feed import Feed
from weighted_stream.report.ledger import Account, Ledger
from weighted_stream.report.places import Places
from weighted_stream.report.steps import Intervals
from weighted_stream.store import WeightStore
from weighted_stream.store.place import MANIFEST
from weighted_stream.store.record import groups_of
from weighted_stream.store.shared_address import is_address

Ids = NDArray[np.int64]

TRACKED = 1 << 20
"""Samples that get an account of their own: all, or so many drawn at random."""

ENDS = 200
"""Samples of the highest and lowest values that get one in any case."""


class Run:
    """What a store tells about the run that wrote it.

    Args:
        path: the directory of the store; another process may be writing it.
        tracked: see `TRACKED`.

    Attributes:
        stats: see `WeightStore.stats`.
        groups: their names, by number.
        fingerprint: of the dataset; None: not known.
        places: where its samples are.
        census: what the records say.
        feed: the journal.
        course: what the journal says of the steps; None: nothing.

    Raises:
        StoreError: if there is no store, or it cannot be read.
        StoreMismatchError: if it is of another version.
    """

    def __init__(self, path: str | PathLike[str], tracked: int = TRACKED) -> None:
        if is_address(path):
            raise StoreError(
                "A report is made of a store in a directory.",
                found="the address of a server",
                expected="the directory of a trainer's store, with its journal",
                do="SharedStore(url, path) keeps one at path; name that",
            )
        self.path = Path(path)
        self.store = WeightStore(self.path, mode="r")
        try:
            self.stats = self.store.stats()
            self.groups = self.store.groups
            self.fingerprint: dict[str, Any] | None = _fingerprint(self.path)
            self.places = Places(self.fingerprint)
            self.census = Census(self.store, self.places, tracked, ENDS)
            self.feed = Feed(self.store)
            self.course: Course | None = self._course() if self.feed else None
        except BaseException:
            self.store.close()
            raise

    def _course(self) -> Course:
        feed = self.feed
        course = Course(Intervals.over(feed.first, feed.last, feed.rows), len(self.groups), len(self.places))
        for block in feed:
            course.add(block, self.groups_of(block.ids), self.places.of(block.ids)[0])
        return course

    def groups_of(self, ids: Ids) -> Ids:
        """The numbers of the samples' groups, (n,); -1 for none."""
        if not self.groups:
            return np.full(len(ids), -1)
        # A group that came up while this was being read has no name here.
        numbers = groups_of(self.store.records(ids))
        return np.where(numbers < len(self.groups), numbers, -1)

    def account(self, ids: Ids) -> Account:
        """What the journal says of some samples; without one, what their records say.

        Args:
            ids: (n,), ascending and distinct.
        """
        if self.course is None:
            return self._from_records(ids)
        ledger = Ledger(ids, self.course)
        for block in self.feed:
            ledger.add(block, self.groups_of(block.ids))
        account = ledger.account()
        known = self._from_records(ids)
        # What was compacted, or weighed by what the store held, is not in the journal.
        return account._replace(
            weight=np.where(account.weights > 0, account.weight, known.weight),
            last=np.where(account.visits > 0, account.last, known.last),
        )

    def _from_records(self, ids: Ids) -> Account:
        fields = self.store.get(ids)
        weight, last = fields["weight"].astype(np.float64), fields["last_loss"].astype(np.float64)
        nothing, none = np.full(len(ids), np.nan), np.zeros(len(ids), np.int64)
        weights = (~np.isnan(weight)).astype(np.int64)
        return Account(ids, weight, weights, none, nothing, last, nothing, nothing, none, nothing)

    def close(self) -> None:
        """Let go of the store."""
        self.store.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fingerprint(path: Path) -> dict[str, Any] | None:
    known: Any = json.loads((path / MANIFEST).read_text(encoding="utf-8")).get("fingerprint")
    return known if isinstance(known, dict) else None
