"""What losses and weights say, against the definitions written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from weighted_stream.figures.measures import loss_deciles, shares, weighing

finite = st.floats(0, 1e4, width=32)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(*(arrays(np.float32, n, elements=finite) for _ in range(2)))))
def test_as_defined(pair: tuple[np.ndarray, np.ndarray]) -> None:
    losses, weights = pair
    figures = weighing(losses, weights)
    w, loss = weights.astype(np.float64), losses.astype(np.float64)
    assert figures["window"] == len(w)
    assert figures["loss_mean"] == pytest.approx(loss.mean())
    assert figures["nonfinite_share"] == 0.0
    if w.sum():
        assert figures["ess"] == pytest.approx(w.sum() ** 2 / (w**2).sum() / len(w))
        assert figures["loss_weighted"] == pytest.approx((w * loss).sum() / w.sum(), rel=1e-6)
    else:
        assert math.isnan(figures["loss_weighted"])
    assert loss.min() <= figures["loss_q05"] <= figures["loss_q50"] <= figures["loss_q95"] <= loss.max()
    deciles = [value for name, value in figures.items() if name.startswith("loss_decile_")]
    if len(w) >= 10:
        parts = [loss[np.argsort(w, kind="stable")][i * len(w) // 10 : (i + 1) * len(w) // 10] for i in range(10)]
        assert deciles == pytest.approx([part.mean() for part in parts])
    else:
        assert deciles == []


def test_losses_that_are_not_finite_are_only_counted() -> None:
    losses = np.float32([1, np.nan, 3, np.inf])
    weights = np.float32([1, 0, 3, 0])
    figures = weighing(losses, weights)
    assert (figures["loss_mean"], figures["loss_weighted"], figures["nonfinite_share"]) == (2.0, 2.5, 0.5)
    assert figures["window"] == 4
    nothing = weighing(np.float32([np.nan]), np.float32([0]))
    assert math.isnan(nothing["loss_mean"])
    assert nothing["nonfinite_share"] == 1.0
    assert math.isnan(weighing(np.empty(0, np.float32), np.empty(0, np.float32))["ess"])


@given(st.lists(st.tuples(st.integers(-1, 5), finite), min_size=0, max_size=40))
def test_shares_add_up(rows: list[tuple[int, float]]) -> None:
    kinds = np.array([kind for kind, _ in rows], np.int64)
    weights = np.array([weight for _, weight in rows], np.float32)
    found, share, mean = shares(kinds, weights)
    assert found.tolist() == sorted({kind for kind, _ in rows if kind >= 0})
    for kind, average in zip(found.tolist(), mean.tolist(), strict=True):
        assert average == pytest.approx(weights[kinds == kind].astype(np.float64).mean())
    if weights[kinds >= 0].sum():
        assert share.sum() == pytest.approx(1.0)
    else:
        assert np.isnan(share).all()


def test_deciles_of_equal_weights_keep_their_order() -> None:
    losses = np.arange(10, dtype=np.float32)
    assert loss_deciles(losses, np.ones(10, np.float32)) == losses.tolist()
