"""What is remembered of a sample: averages, blanks, repeats, and what may be handed in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from weighted_stream import WeightStore
from weighted_stream.errors import SampleIdError, StoreError
from weighted_stream.sample_ids import DENSE_LIMIT, HASHED, MAX_ID
from weighted_stream.store.record import unusable

BOTH = pytest.mark.parametrize("base", [0, HASHED], ids=["dense", "hashed"])


@pytest.fixture
def store() -> Iterator[WeightStore]:
    with WeightStore() as store:
        yield store


@BOTH
def test_a_sample_never_touched_is_blank(store: WeightStore, base: int) -> None:
    found = store.get([base + 5, MAX_ID, DENSE_LIMIT - 1])
    for name in ("loss", "last_loss", "weight", "similarity"):
        assert found[name].dtype == np.float32
        assert np.isnan(found[name]).all()
    for name, blank in {"visits": 0, "last_step": -1, "group": -1, "nonfinite": 0}.items():
        assert found[name].dtype == np.int64
        assert found[name].tolist() == [blank] * 3
    assert len(store) == 0
    assert store


@BOTH
def test_the_average_is_a_mean_first_and_moves_by_a_tenth_then(store: WeightStore, base: int) -> None:
    losses = [3.0, 1.0, 2.0, 6.0, 4.0, 9.0, 8.0, 5.0, 7.0, 0.0]
    for visit, loss in enumerate(losses, 1):
        store.update([base + 1], loss=[loss], step=visit)
        assert store.get([base + 1])["loss"][0] == pytest.approx(np.mean(losses[:visit]), rel=1e-6)
    store.update([base + 1], loss=[14.5])
    found = store.get([base + 1])
    assert found["loss"][0] == pytest.approx(4.5 + 1.0, rel=1e-6)
    assert found["last_loss"][0] == 14.5
    assert found["visits"][0] == 11
    assert found["last_step"][0] == 10


@BOTH
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 2e38, 1e300])
def test_a_loss_that_is_none_is_only_counted(store: WeightStore, base: int, bad: float) -> None:
    ids = [base + 1, base + 2]
    store.update(ids, loss=[2.0, 4.0], weight=[1.0, 1.0], step=0)
    store.update(ids, loss=[bad, 8.0], weight=[0.0, 2.0], step=1)
    found = store.get(ids)
    assert found["loss"].tolist() == [2.0, 6.0]
    assert found["last_loss"].tolist() == [2.0, 8.0]
    assert found["visits"].tolist() == [1, 2]
    assert found["nonfinite"].tolist() == [1, 0]
    assert found["weight"].tolist() == [0.0, 2.0]
    assert found["last_step"].tolist() == [1, 1]
    stats = store.stats()
    assert (stats["visits"], stats["nonfinite"], stats["window"]) == (3, 1, 4)
    assert stats["loss_q95"] == 8.0


def test_the_largest_losses_do_not_overflow(store: WeightStore) -> None:
    for loss in (1e38, -1e38) * 8:
        store.update([1], loss=[loss])
    assert np.isfinite(store.get([1])["loss"][0])
    assert store.get([1])["visits"][0] == 16


@pytest.mark.parametrize("many", [1, 3, 3000])
@pytest.mark.parametrize("value", [0.0, 1e18, 1e30, -1e38, 1.1e38, 3e38, math.inf, -math.inf, math.nan])
def test_which_losses_enter_an_average_hangs_on_each_alone(value: float, many: int) -> None:
    losses = np.full(many, value, np.float32)
    wrong = not abs(value) <= 1e38
    found = unusable(losses)
    assert (found is not None) == wrong
    mixed = unusable(np.append(losses, np.float32(1.0)))
    assert mixed is None if not wrong else mixed is not None and mixed.tolist() == [True] * many + [False]


@BOTH
def test_repeated_ids_count_in_order(store: WeightStore, base: int) -> None:
    ids = [base + k for k in (7, 3, 7, 7, 3)]
    store.update(ids, loss=[1.0, 2.0, 3.0, 8.0, 4.0], weight=[1, 2, 3, 4, 5], group=[1, 2, 3, -1, 5])
    found = store.get([base + 7, base + 3])
    assert found["loss"].tolist() == [4.0, 3.0]
    assert found["last_loss"].tolist() == [8.0, 4.0]
    assert found["visits"].tolist() == [3, 2]
    assert found["weight"].tolist() == [4.0, 5.0]
    assert found["group"].tolist() == [-1, 5]
    assert len(store) == 2


def test_neighbours_and_both_regions_stay_apart(store: WeightStore) -> None:
    ids = [0, 1, DENSE_LIMIT - 1, DENSE_LIMIT, DENSE_LIMIT + 1, HASHED, MAX_ID - 1, MAX_ID]
    store.update(ids, loss=np.arange(8.0))
    assert store.get(ids)["loss"].tolist() == list(range(8))
    assert store.get(ids[::-1])["loss"].tolist() == list(range(8))[::-1]
    assert store.get([HASHED, 0, 0, HASHED])["loss"].tolist() == [5, 0, 0, 5]


def test_id_0_is_no_free_slot(store: WeightStore) -> None:
    known = HASHED + np.arange(4800) * 99
    store.update(known, loss=np.ones(known.size))
    for count in range(8):
        for first in range(50):
            strangers = known[first * count : (first + 1) * count] + 1
            assert store.get([0, *strangers.tolist()])["visits"].tolist() == [0] * (count + 1)


def test_fields_are_independent(store: WeightStore) -> None:
    store.update([4], similarity=[0.5])
    store.update([4], group=[0])
    store.update([4], step=0)
    found = {name: column[0] for name, column in store.get([4]).items()}
    assert np.isnan(found.pop("loss"))
    assert np.isnan(found.pop("last_loss"))
    assert np.isnan(found.pop("weight"))
    assert found == {"similarity": 0.5, "visits": 0, "last_step": 0, "group": 0, "nonfinite": 0}


def test_what_get_returns_is_the_callers(store: WeightStore) -> None:
    store.update([1], loss=[2.0])
    for column in store.get([1]).values():
        column[:] = 77
    assert store.get([1])["loss"][0] == 2.0


LOSSES = [0.5, 1.5, 2.5]


@pytest.mark.parametrize(
    "ids", [[1, 2, 3], (1, 2, 3), np.array([1, 2, 3], np.uint8), torch.tensor([1, 2, 3])], ids=type
)
@pytest.mark.parametrize(
    "losses",
    [
        LOSSES,
        np.array(LOSSES),
        np.array(LOSSES, ">f8"),
        np.array([*LOSSES, *LOSSES], np.float32)[:3],
        np.array([0.5, 0, 1.5, 0, 2.5, 0], np.float32)[::2],
        torch.tensor(LOSSES, requires_grad=True),
        torch.tensor(LOSSES, dtype=torch.bfloat16),
        torch.tensor(LOSSES, dtype=torch.float16),
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}",
)
def test_arrays_lists_and_tensors(store: WeightStore, ids: Any, losses: Any) -> None:
    store.update(ids, loss=losses, weight=losses)
    assert store.get(ids)["loss"].tolist() == LOSSES
    assert store.get(ids)["weight"].tolist() == LOSSES


def test_a_strided_id_array(store: WeightStore) -> None:
    ids = np.arange(10)[::3]
    store.update(ids, weight=np.ones(4))
    assert np.flatnonzero(np.isfinite(store.get(np.arange(10))["weight"])).tolist() == [0, 3, 6, 9]


def test_no_ids(store: WeightStore) -> None:
    store.update([], loss=[])
    store.update(np.zeros(0, np.int64), weight=np.zeros(0, np.float32))
    assert len(store) == 0
    assert all(column.shape == (0,) for column in store.get([]).values())


@pytest.mark.parametrize(
    "ids",
    [
        [-1],
        [3, -5, HASHED],
        [2**63],
        [2**70],
        [1.0],
        ["a"],
        [True],
        [None],
        3,
        [[1, 2]],
        np.array([2**63], np.uint64),
    ],
    ids=str,
)
def test_ids_that_cannot_be(store: WeightStore, ids: Any) -> None:
    for call in (lambda: store.get(ids), lambda: store.update(ids, loss=np.ones(np.shape(ids)))):
        with pytest.raises(SampleIdError) as caught:
            call()
        assert caught.value.found
        assert "2**63" in str(caught.value)
    assert len(store) == 0


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"loss": [1.0]}, r"shape \(1,\)"),
        ({"loss": 1.0}, r"shape \(\)"),
        ({"loss": [[1.0], [2.0]]}, r"shape \(2, 1\)"),
        ({"loss": ["a", "b"]}, "<U1"),
        ({"loss": [1j, 2]}, "complex"),
        ({"loss": [[1.0], [2.0, 3.0]]}, "found"),
        ({"weight": [1.0, math.nan]}, "nan"),
        ({"weight": [1.0, 1e300]}, "inf"),
        ({"similarity": [math.inf, 1.0]}, "inf"),
        ({"group": [0.5, 1.0]}, "float64"),
        ({"group": [-2, 1]}, "-2 to 1"),
        ({"group": [0, 2**31]}, "2147483648"),
        ({"step": -1}, "-1"),
        ({"step": 1.5}, "1.5"),
        ({"step": 2**31}, "2147483648"),
        ({}, "ids alone"),
    ],
    ids=str,
)
def test_values_that_do_not_go_with_the_ids(store: WeightStore, values: dict[str, Any], found: str) -> None:
    # The good field comes first: nothing may be written before all is checked.
    good = {"loss": [9.0, 9.0]} if values and "loss" not in values else {}
    with pytest.raises(StoreError, match=found):
        store.update([1, 2], **good, **values)
    assert len(store) == 0
    assert store.get([1])["visits"][0] == 0


def test_an_unknown_field_is_refused(store: WeightStore) -> None:
    with pytest.raises(TypeError, match="lossses"):
        store.update([1], lossses=[1.0])


def test_stats_over_the_window(store: WeightStore) -> None:
    empty = store.stats()
    assert empty["samples"] == empty["window"] == 0
    assert np.isnan(
        [empty["ess"], empty["weight_mean"], empty["weight_q50"], empty["loss_mean"], empty["loss_q05"]]
    ).all()

    rng = np.random.default_rng(0)
    losses, weights = (
        rng.gamma(2.0, size=10_000).astype(np.float32),
        rng.gamma(1.0, size=10_000).astype(np.float32),
    )
    for begin in range(0, 10_000, 96):
        part = slice(begin, begin + 96)
        store.update(np.arange(10_000)[part], loss=losses[part], weight=weights[part])
    stats = store.stats()
    recent_losses, recent_weights = losses[-4096:].astype(float), weights[-4096:].astype(float)
    assert stats["window"] == 4096
    assert stats["ess"] == pytest.approx(recent_weights.sum() ** 2 / (recent_weights**2).sum() / 4096)
    assert stats["weight_mean"] == pytest.approx(recent_weights.mean())
    assert stats["weight_cv"] == pytest.approx(recent_weights.std() / recent_weights.mean())
    assert stats["loss_mean"] == pytest.approx(recent_losses.mean())
    for name, values in {"loss": recent_losses, "weight": recent_weights}.items():
        for key, share in {"q05": 0.05, "q50": 0.5, "q95": 0.95}.items():
            assert stats[f"{name}_{key}"] == np.quantile(values, share, method="nearest").astype(np.float32)
    assert all(isinstance(value, float) for value in stats.values())


def test_a_batch_larger_than_the_window(store: WeightStore) -> None:
    store.update(np.arange(10_000), weight=np.arange(10_000.0))
    assert store.stats()["window"] == 4096
    assert store.stats()["weight_mean"] == np.arange(10_000 - 4096, 10_000).mean()


def test_weights_that_are_all_zero_or_all_equal(store: WeightStore) -> None:
    store.update(np.arange(50), weight=np.zeros(50))
    assert store.stats()["ess"] == 0.0
    store.update(np.arange(4096), weight=np.full(4096, 0.7))
    assert store.stats()["ess"] == pytest.approx(1.0)
    assert store.stats()["weight_cv"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", [0, None, b"code", ("code",)])
def test_a_group_is_known_by_a_string(tmp_path: Path, name: Any) -> None:
    with WeightStore(tmp_path) as store:
        with pytest.raises(StoreError, match="A group is known by its name"):
            store.set_groups([1, 2], ["text", name])
        store.set_groups([1], ["text"])
    with WeightStore(tmp_path) as store:
        assert store.groups == ("text",)


def test_the_last_of_repeated_groups_counts(store: WeightStore) -> None:
    store.set_groups([3, 4], ["a", "b"])
    store.set_groups([3, 4, 3, 4], ["b", "b", "a", "a"])
    assert store.get([3, 4])["group"].tolist() == [0, 0]


def test_weights_that_nobody_gave_are_not_in_the_figures(store: WeightStore) -> None:
    store.record([1, 2, 3], [1.0, 1.0, 1.0], [0.5, np.nan, 1.5], step=0)
    stats = store.stats()
    assert (stats["window"], stats["weight_mean"], stats["weight_q95"]) == (2.0, 1.0, 1.5)
    assert stats["ess"] == pytest.approx(0.8)
