"""The census: what the records of a store say of all samples, from one pass over them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weighted_stream.report.drawing import Draw
from weighted_stream.report.places import Places
from weighted_stream.shards.summary import Extremes
from weighted_stream.store import WeightStore

Array = NDArray[np.float64]
Ids = NDArray[np.int64]

FIELDS = ("weight", "last_loss", "similarity")


class Census:
    """Counts the samples of a store.

    Args:
        store: open.
        places: where its samples are.
        tracked: so many samples get an account of their own: all, or so many drawn at random.
        ends: samples of the highest and lowest of each of `FIELDS` that get one in any case.

    Attributes:
        samples, visited, passed: in the store; trained on at least once; drawn, but never chosen (weight 0, no loss).
        ids: (n,) of the tracked samples, ascending.
        whole: whether they are all there are.
        groups: (4, groups + 1), by group, the last one for none: samples, visited ones, visits, last weights added up.
        shards: (4, shards + 1), the same by shard.
        drawn: fields of samples that were visited, drawn at random (see `WeightStore.get`), with their ids.
        broken: ids of samples that had losses which were not finite, the most first, and how many each.
    """

    def __init__(self, store: WeightStore, places: Places, tracked: int, ends: int, drawn: int = 1 << 16) -> None:
        self.samples = self.visited = self.passed = 0
        groups = len(store.groups)
        self.groups, self.shards = np.zeros((4, groups + 1)), np.zeros((4, len(places) + 1))
        rng = np.random.default_rng(0)
        ids, some = Draw(tracked, rng), Draw(drawn, rng)
        extremes = {name: Extremes(ends) for name in FIELDS}
        broken = Extremes(ends)
        names: list[str] = []
        for numbers, fields in store.chunks():
            self.samples += len(numbers)
            ids.add(numbers)
            seen = fields["visits"] > 0
            self.visited += int(np.count_nonzero(seen))
            self.passed += int(np.count_nonzero(~seen & (fields["weight"] == 0) & (fields["last_step"] >= 0)))
            _count(self.groups, np.clip(fields["group"], -1, groups - 1), fields)
            _count(self.shards, places.of(numbers)[0], fields)
            for name, highest in extremes.items():
                highest.add(numbers, np.where(seen, fields[name], np.nan).astype(np.float64))
            bad = fields["nonfinite"]
            if bad.any():
                broken.add(numbers[bad > 0], bad[bad > 0].astype(np.float64))
            names = list(fields)
            some.add(numbers[seen], *(values[seen] for values in fields.values()))
        self.whole = ids.all
        found = [place.id for highest in extremes.values() for place in highest.highest() + highest.lowest()]
        self.broken = [(place.id, int(place.value)) for place in broken.highest()]
        known = [np.array([*found, *(number for number, _ in self.broken)], np.int64), *ids.rows()]
        self.ids: Ids = np.unique(np.concatenate(known))
        self.drawn: dict[str, NDArray[Any]] = dict(zip(["id", *names], some.rows(), strict=False))


def _count(sums: Array, at: Ids, fields: dict[str, NDArray[Any]]) -> None:
    visits = fields["visits"]
    weights = np.where(np.isnan(fields["weight"]), 0.0, fields["weight"].astype(np.float64))
    for row, values in enumerate((np.ones(len(at)), visits > 0, visits, np.where(visits > 0, weights, 0.0))):
        np.add.at(sums[row], at, values.astype(np.float64))
