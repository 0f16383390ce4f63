"""What a store with a journal should remember, as plain dictionaries: now, and after each call before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from store_model import DENSE, OTHERS, Sample, see

from weighted_stream import WeightStore
from weighted_stream.sample_ids import HASHED
from weighted_stream.store.journal_entry import MOST_ROWS

POOL = [*DENSE[:5], *OTHERS]
BULK = HASHED + (1 << 40) + np.arange(MOST_ROWS + 700) * 97
"""So many samples that the table of hashed ids grows, and that a call of them becomes two entries."""

NAMES = ("code", "text", "maths", "news")


class Moment(NamedTuple):
    """All that is remembered.

    Attributes:
        samples: by id, those of `POOL`; their group is a place in `NAMES`.
        losses, weights: the latest ones, in order.
        bulk: the similarity of the first `MOST_ROWS` of `BULK`, and of the rest; None: unknown.
        rows: the ids of all changes ever made, in order.
    """

    samples: dict[int, Sample]
    losses: tuple[float, ...]
    weights: tuple[float, ...]
    bulk: tuple[float | None, float | None]
    rows: tuple[int, ...]

    def updated(self, ids: list[int], *, step: int | None = None, **values: list[Any] | None) -> Moment:
        """After one call."""
        samples = dict(self.samples)
        given = {name: column for name, column in values.items() if column is not None}
        for place, sample_id in enumerate(ids):
            sample = replace(samples.get(sample_id, Sample()))
            for name, column in given.items():
                if name == "loss":
                    see(sample, np.float32(column[place]))
                else:
                    setattr(sample, name, column[place] if name == "group" else np.float32(column[place]))
            if step is not None:
                sample.last_step = step
            samples[sample_id] = sample
        losses = [float(np.float32(loss)) for loss in given.get("loss", ()) if abs(loss) <= 1e38]
        weights = [float(np.float32(weight)) for weight in given.get("weight", ())]
        return self._replace(
            samples=samples,
            losses=self.losses + tuple(losses),
            weights=self.weights + tuple(weights),
            rows=self.rows + tuple(ids),
        )

    def grouped(self, ids: list[int], numbers: list[int]) -> Moment:
        """After groups were set: what was known before is not written again."""
        new = [(i, n) for i, n in zip(ids, numbers, strict=True) if self.samples.get(i, Sample()).group != n]
        return self.updated([i for i, _ in new], group=[n for _, n in new]) if new else self

    def bulked(self, part: int, value: float) -> Moment:
        """After a part of a large call."""
        ids = BULK[:MOST_ROWS] if part == 0 else BULK[MOST_ROWS:]
        bulk = (value, self.bulk[1]) if part == 0 else (self.bulk[0], value)
        return self._replace(bulk=bulk, rows=self.rows + tuple(ids.tolist()))

    def figures(self) -> dict[str, float]:
        """The exact ones of `WeightStore.stats`."""
        samples = self.samples.values()
        many = sum(size for size, value in zip(_SIZES, self.bulk, strict=True) if value is not None)
        return {
            "samples": len(samples) + many,
            "visits": sum(s.visits for s in samples),
            "scored": sum(not np.isnan(s.similarity) for s in samples) + many,
            "unscored": sum(s.visits > 0 and bool(np.isnan(s.similarity)) for s in samples),
            "nonfinite": sum(s.nonfinite for s in samples),
        }

    def columns(self) -> dict[str, list[Any]]:
        """What `WeightStore.get` of `POOL` returns."""
        found = [self.samples.get(sample_id, Sample()) for sample_id in POOL]
        return {name: [getattr(sample, name) for sample in found] for name in Sample.__dataclass_fields__}


_SIZES = (MOST_ROWS, BULK.size - MOST_ROWS)
NEVER = Moment({}, (), (), (None, None), ())


def difference(store: WeightStore, moment: Moment) -> str | None:
    """What is not as it should be; None if all is."""
    stats = store.stats()
    for name, expected in moment.figures().items():
        if stats[name] != expected:
            return f"{name}: {stats[name]}, expected {expected}"
    pushed, *rings = store._regions.header.window()
    for count, ring, values in zip(pushed, rings, (moment.losses, moment.weights), strict=True):
        if count != len(values) or ring[:count].tolist() != list(values):
            return f"the latest: {ring[:count].tolist()}, expected {values}"
    found = store.get(POOL)
    places = [NAMES.index(name) for name in store.groups]
    found["group"] = np.array([places[number] if number >= 0 else -1 for number in found["group"]])
    for name, column in moment.columns().items():
        values = found[name]
        if not np.array_equal(values, np.array(column, values.dtype), equal_nan=values.dtype.kind == "f"):
            return f"{name}: {values.tolist()}, expected {column}"
    if moment.bulk != (None, None):
        scores = store.get(BULK)["similarity"]
        for part, expected in zip((scores[:MOST_ROWS], scores[MOST_ROWS:]), moment.bulk, strict=True):
            if not np.array_equal(part, np.full(part.size, np.nan if expected is None else expected), equal_nan=True):
                return f"similarity of the many: {part[:3]} …, expected {expected}"
    regions = store._regions
    if store.writable and regions.header.claimed != regions.hashed.count_keys():
        return f"{regions.header.claimed} keys claimed of {regions.hashed.count_keys()}"
    return None
