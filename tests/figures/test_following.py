"""Following a store: what belongs to the latest run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from weighted_stream import WeightStore
from weighted_stream.figures.beginnings import Beginnings
from weighted_stream.figures.following import FollowedStore


@pytest.mark.parametrize("looks", [True, False])
def test_a_second_run_into_a_store_is_not_mixed_with_the_first(tmp_path: Path, looks: bool) -> None:
    with WeightStore(tmp_path / "store") as store:
        followed = FollowedStore(tmp_path / "store")
        for step in range(12):
            store.record([1, 2], [9.0, 9.0], [1.0, 3.0], step=step)
        if looks:
            store.flush()
            assert followed.look().losses == [9.0] * 12
        for step in range(5):
            for part in ([3], [4]):
                store.record(part, [float(step)], [1.0], step=step)
    sight = followed.look()
    followed.close()
    assert sight.steps == 5
    assert sight.losses == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_parts_of_the_first_two_batches_in_turns_are_no_beginning() -> None:
    beginnings = Beginnings()
    assert beginnings.see(np.array([0, 1, 0, 1, 2])) is None
    assert beginnings.falls == []


def test_batches_that_come_late_are_no_beginning() -> None:
    beginnings = Beginnings()
    assert beginnings.see(np.array([100, 100, 102, 101, 103])) is None
    assert beginnings.see(np.array([101])) is None
    assert beginnings.see(np.array([104, 100, 100, 101, 3, 4])) == 4
    assert beginnings.falls == [(104, 100), (101, 3)]
    assert (beginnings.first, beginnings.highest) == (3, 4)
