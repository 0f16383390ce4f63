"""Gradient matching: few samples, weighed by 0 or more, whose gradients add up to a target (arXiv 2604.00001).

All that is needed of the gradients are ``c_i = <g_i, g~>`` with the target and ``K_ij = <g_i, g_j>`` among the samples:
``|g~ - sum_i w_i g_i|^2 + lam |w|^2 = |g~|^2 - 2 w . c + w . (K + lam I) w``.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from weighted_stream.errors import StrategyError

Floats: TypeAlias = NDArray[np.float64]
Places: TypeAlias = NDArray[np.int64]

TOLERANCE = 1e-10
"""How much better, by share, a sample must make the match to be taken in: below that it is rounding."""


def nnls(K: Any, c: Any, lam: float = 0.0) -> Floats:
    """``argmin_{w >= 0}  w . (K + lam I) w - 2 w . c``, exactly: the active-set method of Lawson and Hanson (1974).

    Dense and for small problems: one factorisation of at most (k, k) for each sample that enters or leaves.

    Args:
        K: (k, k), symmetric, positive semi-definite.
        c: (k,), in the range of K where K is singular (as products with gradients are).
        lam: added to the diagonal, >= 0.

    Returns:
        (k,) float64.

    Raises:
        StrategyError: for shapes that do not fit, values that are not finite, or a negative lam.

    Example:
        >>> nnls([[1.0, 0.0], [0.0, 2.0]], [3.0, -1.0]).tolist()
        [3.0, 0.0]
    """
    c, K = _checked(c, K, lam)
    sizes = _sizes(K, lam)
    # In units of each gradient's own length, so that one tolerance fits all.
    return _nnls((K + lam * np.eye(len(c))) / np.outer(sizes, sizes), c / sizes, np.zeros(len(c), bool)) / sizes


def _nnls(A: Floats, b: Floats, free: NDArray[np.bool_]) -> Floats:
    """`nnls` with unit diagonal, beginning with the samples that were free in a similar problem."""
    w = np.zeros(len(b))
    least = TOLERANCE * float(np.abs(b).max(initial=0.0))
    w = _feasible(A, b, w, free)
    refused = np.zeros(len(b), bool)
    while True:
        slope = b - A @ w
        slope[(w > 0) | refused] = -np.inf
        best = int(slope.argmax()) if len(b) else 0
        if not len(b) or slope[best] <= least:
            return w
        inside = w > 0
        inside[best] = True
        trial = _solved(A, b, inside)
        if trial[best] <= 0:
            refused[best] = True  # it would leave at once: its slope is rounding
            continue
        new = _feasible(A, b, w, inside)
        if _objective(A, b, new) >= _objective(A, b, w):
            refused[best] = True
            continue
        w, refused[:] = new, False


def _feasible(A: Floats, b: Floats, w: Floats, inside: NDArray[np.bool_]) -> Floats:
    """The best weights with none but these samples in, going from w; those that would turn negative leave."""
    inside = inside.copy()
    while inside.any():
        wanted = _solved(A, b, inside)
        negative = inside & (wanted <= 0)
        if not negative.any():
            return wanted
        back = w[negative]
        steps = np.where(back > 0, back / np.maximum(back - wanted[negative], np.finfo(float).tiny), 0.0)
        w = np.where(inside, w + steps.min() * (wanted - w), 0.0)
        leaving = negative.nonzero()[0][steps <= steps.min()]
        w[leaving] = 0.0
        inside[leaving] = False
    return np.zeros(len(b))


def _solved(A: Floats, b: Floats, inside: NDArray[np.bool_]) -> Floats:
    """Without the bound, for these samples; the others 0."""
    w = np.zeros(len(b))
    among = np.ix_(inside, inside)
    try:
        w[inside] = np.linalg.solve(A[among], b[inside])
    except np.linalg.LinAlgError:  # gradients that depend on each other: any of the solutions
        w[inside] = np.linalg.lstsq(A[among], b[inside], rcond=None)[0]
    return w


def _objective(A: Floats, b: Floats, w: Floats) -> float:
    return float(w @ A @ w - 2 * w @ b)


def omp(c: Any, K: Any, k: int, lam: float = 0.0) -> tuple[Places, Floats]:
    """Non-negative orthogonal matching pursuit: at most k samples, and the `nnls` weights of them.

    Each time, the sample comes in whose gradient has the largest cosine to what is not matched yet (the largest
    decrease of the objective, were it alone), and all weights are found anew; those that become 0 leave, and may come
    back. It ends early when no other sample would make the match better. The ridge and the cosine, in place of the
    inner product, are ours: samples with large gradients are not preferred for their size.

    Args:
        c: (n,), products with the target.
        K: (n, n), products among the samples; symmetric, positive semi-definite.
        k: how many at most, >= 1.
        lam: ridge, >= 0, in the units of K.

    Returns:
        The places of the chosen, at most k, in the order in which they came, and their weights, all above 0.

    Raises:
        StrategyError: as `nnls`, or for k below 1.

    Example:
        >>> g = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.6, 0.8]])
        >>> places, weights = omp(g @ [2.0, 0.5], g @ g.T, k=2)
        >>> places.tolist(), weights.round(6).tolist()
        ([0, 1], [2.0, 0.5])
    """
    c, K = _checked(c, K, lam)
    _check_k(k)
    sizes = _sizes(K, lam)
    A, b = (K + lam * np.eye(len(c))) / np.outer(sizes, sizes), c / sizes
    chosen: list[int] = []
    w = np.zeros(0)
    least = TOLERANCE * float(np.abs(b).max(initial=0.0))
    tried = np.zeros(len(b), bool)
    while len(chosen) < min(k, len(b)):
        slope = b - A[:, chosen] @ w
        slope[tried] = -np.inf
        slope[chosen] = -np.inf
        best = int(slope.argmax())
        if not slope[best] > least:
            break
        candidates = [*chosen, best]
        among = np.ix_(candidates, candidates)
        new = _nnls(A[among], b[candidates], np.append(w > 0, False))
        kept = np.append(w, 0.0)
        if new[-1] <= 0 or _objective(A[among], b[candidates], new) >= _objective(A[among], b[candidates], kept):
            tried[best] = True  # rounding, or a gradient that the chosen have among them
            continue
        tried[:] = False
        chosen = [place for place, weight in zip(candidates, new, strict=True) if weight > 0]
        w = new[new > 0]
    return np.array(chosen, np.int64), w / sizes[chosen]


def greedy(c: Any, K: Any, k: int, eta: float | None = None) -> Places:
    """The rule of GREATS: k times the sample with the largest ``eta c_i - eta^2 sum_{j chosen} K_ij``.

    That is the first-order gain of one more step of plain SGD, less what the samples chosen before have gained already.
    As published, the size of a sample's own step, K_ii, does not count, and k samples are chosen whatever the gain.

    Args:
        c: (n,), products with the target.
        K: (n, n), products among the samples.
        k: how many, 1 <= k <= n.
        eta: size of the step, > 0; None [ours]: the step at which the mean of all samples, taken k times, comes closest
            to the target; 0 (the largest c first) if no step does.

    Returns:
        k places, in the order in which they were chosen.

    Raises:
        StrategyError: for shapes that do not fit, values that are not finite, or an option out of range.

    Example:
        >>> g = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.9]])
        >>> greedy(g @ [1.0, 1.0], g @ g.T, k=2, eta=1.0).tolist()  # the second sample adds nothing new
        [0, 2]
    """
    c, K = _checked(c, K, 0.0)
    _check_k(k, len(c))
    if eta is None:
        total = float(K.sum())
        eta = max(0.0, len(c) * float(c.sum()) / (k * total)) if total > 0 else 0.0
    elif not eta > 0 or not np.isfinite(eta):
        raise _wrong(f"eta={eta!r}", "a finite step above 0")
    gains = c - 0.0
    chosen: list[int] = []
    for _ in range(k):
        chosen.append(int(gains.argmax()))
        gains -= eta * K[chosen[-1]]
        gains[chosen] = -np.inf
    return np.array(chosen, np.int64)


def to_mean_one(weights: Floats) -> tuple[Floats, bool]:
    """Weights scaled to average 1 [ours], and whether they are uniform for want of any weight above 0.

    Example:
        >>> to_mean_one(np.array([1.0, 3.0]))[0].tolist()
        [0.5, 1.5]
    """
    total = float(weights.sum())
    if not total > 0:
        return np.ones(len(weights)), True
    return weights * (len(weights) / total), False


def _sizes(K: Floats, lam: float) -> Floats:
    """The lengths of the gradients; 1 for those of length 0, which never match anything."""
    sizes: Floats = np.sqrt(np.maximum(np.diagonal(K) + lam, 0.0))
    return np.where(sizes > 0, sizes, 1.0)


def _checked(c: Any, K: Any, lam: float) -> tuple[Floats, Floats]:
    c, K = np.asarray(c, np.float64), np.asarray(K, np.float64)
    if c.ndim != 1 or K.shape != (len(c), len(c)):
        raise _wrong(f"c {c.shape}, K {K.shape}", "c of shape (n,), K of shape (n, n)")
    if not (np.isfinite(c).all() and np.isfinite(K).all()):
        raise _wrong("NaN or infinity", "finite inner products")
    if not (np.isfinite(lam) and lam >= 0):
        raise _wrong(f"lam={lam!r}", "a finite ridge of 0 or more")
    return c, K


def _check_k(k: int, most: int | None = None) -> None:
    if k < 1 or (most is not None and k > most):
        raise _wrong(f"k={k}", "at least 1" if most is None else f"1 to {most}")


def _wrong(found: str, expected: str) -> StrategyError:
    return StrategyError(
        "Gradients cannot be matched with these.",
        found=found,
        expected=expected,
        do="pass inner products of gradients, as GradientProbe makes them",
    )
