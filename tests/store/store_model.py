"""What a store should remember, as a plain dictionary; and ids of both regions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from weighted_stream.sample_ids import DENSE_LIMIT, HASHED, MAX_ID

NAN = np.float32(np.nan)
DENSE = [0, 1, 2, 3, 127, 128, 40_000, 20_000_000]
OTHERS = [DENSE_LIMIT, DENSE_LIMIT + 1, 1 << 45, HASHED - 1, HASHED, HASHED + 1, HASHED + 16, MAX_ID]


@dataclass
class Sample:
    loss: np.float32 = NAN
    last_loss: np.float32 = NAN
    weight: np.float32 = NAN
    similarity: np.float32 = NAN
    visits: int = 0
    last_step: int = -1
    group: int = -1
    nonfinite: int = 0


def see(sample: Sample, loss: np.float32) -> None:
    """One loss of a sample."""
    if not abs(loss) <= np.float32(1e38):
        sample.nonfinite += 1
        return
    sample.visits += 1
    sample.last_loss = loss
    rate = np.float32(1 / min(sample.visits, 10))
    sample.loss = loss if sample.visits == 1 else np.float32(sample.loss + rate * np.float32(loss - sample.loss))


@dataclass
class Model:
    """The samples touched so far, by id."""

    samples: dict[int, Sample] = field(default_factory=dict)

    def update(self, ids: list[int], *, step: int | None = None, **values: list[Any] | None) -> None:
        given = {name: column for name, column in values.items() if column is not None}
        for position, sample_id in enumerate(ids):
            sample = self.samples.setdefault(sample_id, Sample())
            for name, column in given.items():
                if name == "loss":
                    see(sample, np.float32(column[position]))
                else:
                    setattr(sample, name, column[position] if name == "group" else np.float32(column[position]))
            if step is not None:
                sample.last_step = step

    def get(self, ids: list[int]) -> dict[str, list[Any]]:
        found = [self.samples.get(sample_id, Sample()) for sample_id in ids]
        return {name: [getattr(sample, name) for sample in found] for name in Sample.__dataclass_fields__}

    def counts(self) -> dict[str, int]:
        samples = self.samples.values()
        return {
            "samples": len(samples),
            "visits": sum(s.visits for s in samples),
            "scored": sum(not np.isnan(s.similarity) for s in samples),
            "unscored": sum(s.visits > 0 and bool(np.isnan(s.similarity)) for s in samples),
            "nonfinite": sum(s.nonfinite for s in samples),
        }


def assert_same(found: dict[str, np.ndarray[Any, Any]], expected: dict[str, list[Any]]) -> None:
    assert list(found) == list(expected)
    for name, column in expected.items():
        np.testing.assert_array_equal(found[name], np.array(column, found[name].dtype), err_msg=name)
