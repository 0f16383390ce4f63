"""Non-negative least squares and matching pursuit, against scipy and brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighted_stream.errors import StrategyError
from weighted_stream.strategies.matching import greedy, nnls, omp, to_mean_one

Instance = tuple[np.ndarray, np.ndarray]


@st.composite
def instances(draw: st.DrawFn, most: int = 7) -> Instance:
    """Gradients (n, d), some repeated, some zero, fewer or more than they have dimensions; and a target (d,)."""
    n, d = draw(st.integers(1, most)), draw(st.integers(1, 6))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    g = random.normal(size=(n, d)) * 10.0 ** random.integers(-2, 3, size=(n, 1))
    if draw(st.booleans()):
        g[random.integers(n)] = g[random.integers(n)]
    if draw(st.booleans()):
        g[random.integers(n)] = 0.0
    return g, random.normal(size=d)


def objective(g: np.ndarray, target: np.ndarray, w: np.ndarray, lam: float) -> float:
    return float(((target - w @ g) ** 2).sum() + lam * (w**2).sum())


@given(instances(), st.sampled_from([0.0, 0.3]))
def test_nnls_is_scipys(instance: Instance, lam: float) -> None:
    scipy_nnls = pytest.importorskip("scipy.optimize").nnls
    g, target = instance
    w = nnls(g @ g.T, g @ target, lam)
    rows = np.concatenate([g.T, np.sqrt(lam) * np.eye(len(g))])
    expected, _ = scipy_nnls(rows, np.concatenate([target, np.zeros(len(g))]))
    assert (w >= 0).all()
    assert objective(g, target, w, lam) <= objective(g, target, expected, lam) * (1 + 1e-6) + 1e-9
    if lam:
        np.testing.assert_allclose(w, expected, rtol=1e-5, atol=1e-7)


@given(st.integers(0, 2**32 - 1), st.integers(20, 60))
def test_nnls_of_larger_problems(seed: int, n: int) -> None:
    """The conditions of an optimum: no slope upward at 0, none at all elsewhere."""
    random = np.random.default_rng(seed)
    g = random.normal(size=(n, n // 2)) + 0.5
    K, c = g @ g.T, g @ random.normal(size=n // 2)
    w = nnls(K, c, 1e-3)
    slope = c - (K + 1e-3 * np.eye(n)) @ w
    scale = np.abs(c).max()
    assert (w >= 0).all()
    assert (slope <= 1e-7 * scale).all()
    assert (np.abs(slope[w > 0]) <= 1e-7 * scale).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-11, 1e-10, 1e-9, 1.0, 1e9, 1e30])
def test_the_length_of_the_target_does_not_matter(scale: float) -> None:
    g = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    for theirs, ours in ((1.0, scale), (scale, 1.0), (scale**0.25, scale**0.25)):
        found = nnls(g @ g.T * theirs**2, g @ [2.0, 1.0] * theirs * ours)
        np.testing.assert_allclose(found * theirs / ours, [2.0, 1.0, 0.0], rtol=1e-12)


def test_nnls_in_single_precision_products() -> None:
    """Rounded products of gradients that repeat: it ends, near the optimum."""
    random = np.random.default_rng(0)
    g = np.repeat(random.normal(size=(20, 300)), 3, axis=0)
    target = g[:5].sum(0) + random.normal(size=300)
    K, c = (g @ g.T).astype(np.float32), (g @ target).astype(np.float32)
    best = objective(g, target, nnls(g @ g.T, g @ target), 0.0)
    assert objective(g, target, nnls(K, c), 0.0) <= best * (1 + 1e-4)
    places, weights = omp(c, K, 10)
    assert len(places) <= 10
    assert (weights > 0).all()


@given(instances(), st.integers(1, 4), st.sampled_from([0.0, 0.2]))
def test_pursuit_has_the_best_weights_of_what_it_chose(instance: Instance, k: int, lam: float) -> None:
    g, target = instance
    c, K = g @ target, g @ g.T
    places, weights = omp(c, K, k, lam)
    assert len(places) <= k
    assert len(set(places.tolist())) == len(places) == len(weights)
    assert (weights > 0).all()
    w = np.zeros(len(g))
    w[places] = weights
    again = np.zeros(len(g))
    again[places] = nnls(K[np.ix_(places, places)], c[places], lam)
    assert objective(g, target, w, lam) == pytest.approx(objective(g, target, again, lam), rel=1e-6, abs=1e-9)
    best = min(
        (objective(g, target, scattered(len(g), some, nnls(K[np.ix_(some, some)], c[list(some)], lam)), lam))
        for some in combinations(range(len(g)), min(k, len(g)))
    )
    found = objective(g, target, w, lam)
    assert found >= best * (1 - 1e-6) - 1e-9
    if k == 1 or len(g) <= k:
        assert found == pytest.approx(best, rel=1e-6, abs=1e-9)


def scattered(n: int, places: tuple[int, ...], weights: np.ndarray) -> np.ndarray:
    w = np.zeros(n)
    w[list(places)] = weights
    return w


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_a_planted_subset_is_found(seed: int, k: int) -> None:
    random = np.random.default_rng(seed)
    g = random.normal(size=(30, 400))
    planted = random.choice(30, k, replace=False)
    true = random.uniform(0.5, 2.0, size=k)
    target = true @ g[planted]
    places, weights = omp(g @ target, g @ g.T, k)
    order = places.argsort()
    assert places[order].tolist() == sorted(planted.tolist())
    np.testing.assert_allclose(weights[order], true[planted.argsort()], rtol=1e-6)


def test_large_gradients_are_not_preferred_for_their_size() -> None:
    g = np.array([[100.0, 100.0], [1.0, 0.1]])
    assert omp(g @ [1.0, 0.0], g @ g.T, 1)[0].tolist() == [1]


def test_pursuit_stops_where_nothing_helps() -> None:
    g = np.array([[1.0, 0.0], [-1.0, 0.0], [-1.0, -1.0]])
    places, weights = omp(g @ [1.0, 0.0], g @ g.T, 3)
    assert places.tolist() == [0]
    assert weights.tolist() == [1.0]
    places, weights = omp(-np.ones(3), np.eye(3), 2)
    assert not len(places)
    assert not len(weights)
    assert not len(omp(np.zeros(3), np.zeros((3, 3)), 2)[0])


def test_greedy_is_the_published_rule() -> None:
    c, K = np.array([1.0, 0.9, 0.3]), np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert greedy(c, K, 2, eta=0.1).tolist() == [0, 1]
    assert greedy(c, K, 2, eta=1.0).tolist() == [0, 2]
    assert greedy(c, K, 3, eta=1.0).tolist() == [0, 2, 1]
    assert greedy(-c, K, 1).tolist() == [2]
    # The step by itself: the mean of all three, twice, comes closest to the target at eta = 3 * 2.2 / (2 * 4.8).
    assert greedy(c, K, 2).tolist() == greedy(c, K, 2, eta=0.6875).tolist()


@given(instances(), st.floats(0.01, 10), st.integers(1, 5))
def test_greedy_by_brute_force(instance: Instance, eta: float, k: int) -> None:
    g, target = instance
    c, K, k = g @ target, g @ g.T, min(k, len(g))
    chosen: list[int] = []
    for _ in range(k):
        left = [i for i in range(len(g)) if i not in chosen]
        gains = [eta * c[i] - eta**2 * sum(K[i, j] for j in chosen) for i in left]
        chosen.append(left[int(np.argmax(gains))])
    found = greedy(c, K, k, eta)
    assert len(set(found.tolist())) == k
    if len(np.unique(np.round(g, 9), axis=0)) == len(g):
        assert found.tolist() == chosen


def test_weights_average_one() -> None:
    weights, uniform = to_mean_one(np.array([0.0, 1.0, 4.0]))
    assert weights.mean() == pytest.approx(1)
    assert not uniform
    assert to_mean_one(np.zeros(3))[0].tolist() == [1, 1, 1]
    assert to_mean_one(np.zeros(3))[1]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(StrategyError, match="finite"):
        nnls(np.eye(2), [1.0, np.nan])
    with pytest.raises(StrategyError, match=r"\(3, 3\)"):
        omp(np.ones(2), np.eye(3), 1)
    with pytest.raises(StrategyError, match="lam"):
        nnls(np.eye(2), np.ones(2), -1.0)
    with pytest.raises(StrategyError, match="k=0"):
        omp(np.ones(2), np.eye(2), 0)
    with pytest.raises(StrategyError, match="k=3"):
        greedy(np.ones(2), np.eye(2), 3)
    with pytest.raises(StrategyError, match="eta"):
        greedy(np.ones(2), np.eye(2), 1, eta=0.0)
