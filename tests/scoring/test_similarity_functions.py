"""Cosines in blocks against the plain formula."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from weighted_stream.scoring.similarity import mean_cosine, top_k_cosine

SIZES = st.tuples(st.integers(0, 40), st.integers(1, 30), st.integers(1, 8), st.integers(0, 2**31))


def unit(rng: np.random.Generator, rows: int, size: int) -> torch.Tensor:
    vectors = rng.normal(size=(rows, size))
    return torch.from_numpy((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))


@given(SIZES, st.integers(1, 50), st.data())
def test_against_numpy_for_any_block(sizes, block: int, data) -> None:
    n, m, d, seed = sizes
    rng = np.random.default_rng(seed)
    vectors, targets = unit(rng, n, d), unit(rng, m, d)
    k = data.draw(st.integers(1, m))
    cosines = vectors.numpy().astype(np.float64) @ targets.numpy().astype(np.float64).T
    best = np.sort(cosines, axis=1)[:, m - k :].mean(1)
    found = top_k_cosine(vectors, targets, k, block=block)
    assert found.shape == (n,)
    np.testing.assert_allclose(found.numpy(), best, atol=1e-6)
    np.testing.assert_allclose(mean_cosine(vectors, targets).numpy(), cosines.mean(1), atol=1e-6)


def test_one_is_the_maximum() -> None:
    rng = np.random.default_rng(0)
    vectors, targets = unit(rng, 300, 16), unit(rng, 70, 16)
    assert torch.allclose(top_k_cosine(vectors, targets, 1, block=32), (vectors @ targets.T).amax(1), atol=1e-6)


def test_memory_is_bounded_by_the_block() -> None:
    seen: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            seen.extend(part.numel() for part in (out if isinstance(out, tuple) else [out]) if hasattr(part, "numel"))
            return out

    rng = np.random.default_rng(0)
    vectors, targets = unit(rng, 1000, 4), unit(rng, 900, 4)
    with Watch():
        top_k_cosine(vectors, targets, 5, block=50)
    assert max(seen) <= max(vectors.numel(), targets.numel(), 50 * 55)
