"""Following: what a store says while another process writes it. It only reads."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from weighted_stream.errors import StoreError
from weighted_stream.figures.beginnings import Beginnings
from weighted_stream.figures.measures import loss_deciles, shares
from weighted_stream.figures.shard_table import ShardTable
from weighted_stream.store import WeightStore
from weighted_stream.store.header import WINDOW
from weighted_stream.store.journal_entry import Entry
from weighted_stream.store.journal_tail import JournalTail
from weighted_stream.store.place import HEADER, JOURNAL, MANIFEST

MOST_STEPS = 4096
"""Steps of which the mean loss is kept."""

SHOWN = 8
"""Groups, or shards, that are told of."""

_SMOOTH = 30.0

_REMOVED = "The store was removed."


@dataclass
class Sight:
    """What was seen at one look.

    Attributes:
        stats: those of the store, see `WeightStore.stats`.
        steps: batches weighed so far; None if nobody knows (a store without a journal).
        rates: samples, and steps if they are known, a second, over the last half minute; empty at the first look.
        losses: the mean loss of each of the latest steps, the oldest first.
        deciles: see `loss_deciles`, of the latest 4,096 samples.
        groups, shards: the share of those with the most weight among the latest 4,096 samples, and their mean weight.
        notes: what else should be said.
        ended: why there will be no more; None: there may be.
    """

    stats: dict[str, float]
    steps: int | None = None
    rates: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    deciles: list[float] = field(default_factory=list)
    groups: dict[str, tuple[float, float]] = field(default_factory=dict)
    shards: dict[str, tuple[float, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ended: str | None = None


class Followed(Protocol):
    """Something that can be looked at again and again."""

    def look(self) -> Sight:
        """What it is like now."""

    def close(self) -> None:
        """Let go of it."""


class Rates:
    """How fast counts grow, over the last half minute."""

    def __init__(self) -> None:
        self._known: deque[tuple[float, dict[str, float]]] = deque()

    def of(self, counts: dict[str, float], now: float) -> dict[str, float]:
        """Per second; of those that were there before, none if they shrank.

        Example:
            >>> rates = Rates()
            >>> rates.of({"visits": 10.0}, 0.0), rates.of({"visits": 30.0}, 2.0)
            ({}, {'visits': 10.0})
        """
        if self._known and any(counts.get(name, 0.0) < count for name, count in self._known[-1][1].items()):
            self._known.clear()  # a state was loaded
        self._known.append((now, counts))
        while len(self._known) > 2 and now - self._known[0][0] > _SMOOTH:
            self._known.popleft()
        then, before = self._known[0]
        if now <= then:
            return {}
        return {name: (count - before[name]) / (now - then) for name, count in counts.items() if name in before}


class FollowedStore:
    """A store on this machine.

    Args:
        path: its directory.

    Raises:
        StoreError: if there is none, or it is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path).absolute()
        self._store = WeightStore(self._path, mode="r")
        self._identity = _identity(self._path)
        self._tail = JournalTail(self._path / JOURNAL)
        self._rates = Rates()
        self._forget()
        self._shards: ShardTable | None = None
        self._writes: bool | None = None
        self._visits: float | None = None

    def look(self) -> Sight:
        """What it is like now."""
        ended = self._whether_ended()
        cuts, news = self._tail.cuts, [] if ended == _REMOVED else self._tail.news()
        if self._tail.cuts > cuts:
            self._forget()
        for entry in news:
            self._learn(entry)
        stats = self._store.stats()
        sight = Sight(stats, self._steps, ended=ended)
        counts = {"samples": stats["visits"]} | ({} if self._steps is None else {"steps": float(self._steps)})
        sight.rates = self._rates.of(counts, time.monotonic())
        sight.losses = [loss / count for loss, count in self._losses.values() if count]
        if self._ids.size:
            finite = np.isfinite(self._last_losses)
            sight.deciles = loss_deciles(self._last_losses[finite], self._weights[finite])
            with suppress(StoreError):  # it was removed since
                names = self._store.groups
                if names:
                    sight.groups = _largest(self._store.get(self._ids)["group"], self._weights, names)
            table = self._shard_table()
            if table.names:
                sight.shards = _largest(table.numbers(self._ids), self._weights, table.names)
        elif stats["visits"] and ended is None:
            sight.notes.append("No journal: steps, trend and shares are not known.")
        # Not every file system, or container, shows who has the lock: figures that grow say that somebody writes.
        grown = self._visits is not None and stats["visits"] > self._visits
        self._visits = stats["visits"]
        if self._writes is False and ended is None and not grown:
            sight.notes.append("Nobody writes this store now.")
        return sight

    def close(self) -> None:
        """Let go of its files."""
        self._store.close()

    def _forget(self) -> None:
        self._losses: dict[int, tuple[float, int]] = {}
        self._ids, self._last_losses, self._weights = np.empty(0, np.int64), *np.empty((2, 0), np.float32)
        self._steps: int | None = None
        self._beginnings = Beginnings()

    def _learn(self, entry: Entry) -> None:
        loss, _, weight, _, _, step = entry.change
        if loss is None or not isinstance(step, np.ndarray):
            return
        ids, steps, beginnings = entry.ids, step.astype(np.int64), self._beginnings
        begin = beginnings.see(steps)
        if begin is not None:
            self._forget()
            self._beginnings = beginnings
            ids, steps, loss = ids[begin:], steps[begin:], loss[begin:]
            weight = None if weight is None else weight[begin:]
        self._steps = int(steps[-1]) + 1
        finite = np.isfinite(loss)
        distinct, places = np.unique(steps, return_inverse=True)
        sums = np.bincount(places, weights=np.where(finite, loss, 0.0), minlength=distinct.size)
        counts = np.bincount(places, weights=finite, minlength=distinct.size)
        for one, total, count in zip(distinct.tolist(), sums.tolist(), counts.tolist(), strict=True):
            before = self._losses.get(one, (0.0, 0))
            self._losses[one] = (before[0] + total, before[1] + int(count))
        for one in list(self._losses)[:-MOST_STEPS]:
            del self._losses[one]
        if weight is not None:
            weighed = ~np.isnan(weight)
            self._ids = np.concatenate([self._ids, ids[weighed]])[-WINDOW:]
            self._last_losses = np.concatenate([self._last_losses, loss[weighed]])[-WINDOW:]
            self._weights = np.concatenate([self._weights, weight[weighed]])[-WINDOW:]

    def _shard_table(self) -> ShardTable:
        if self._shards is None:
            try:
                fingerprint = json.loads((self._path / MANIFEST).read_bytes())["fingerprint"]
                self._shards = ShardTable(fingerprint["kind"], fingerprint["shards"])
            except (OSError, ValueError, KeyError, TypeError):
                return ShardTable("", {})
        return self._shards

    def _whether_ended(self) -> str | None:
        if _identity(self._path) != self._identity:
            return _REMOVED
        before, self._writes = self._writes, has_writer(self._path / HEADER)
        return "The store was closed: nobody writes it any more." if before and self._writes is False else None


def has_writer(header: Path) -> bool | None:
    """Whether a process of this machine holds the lock of a store, without touching it; None if nobody can tell."""
    try:
        stat = os.stat(header)
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None  # not Linux; or the store is gone
    place = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    return any("FLOCK" in line and place in line.split() for line in lines)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = os.stat(path / HEADER)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _largest(kinds: Any, weights: Any, names: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """Share and mean weight of the kinds with the most weight."""
    found, share, mean = shares(kinds, weights)
    order = np.argsort(-share, kind="stable")[:SHOWN]
    return {
        names[kind] if kind < len(names) else str(kind): (one, average)
        for kind, one, average in zip(found[order].tolist(), share[order].tolist(), mean[order].tolist(), strict=True)
    }


def check_is_store(path: str | os.PathLike[str]) -> None:
    """Raise unless there is a store.

    Raises:
        StoreError: if there is none.
    """
    if not (Path(path) / HEADER).is_file():
        raise StoreError(
            "There is no store to follow.",
            found=f"no {HEADER} in {path}",
            expected="the directory that a stream was given as store=, or redis://… of a shared one",
            do="check the path; the directory is there once the stream was made",
        )
