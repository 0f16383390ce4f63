"""Vectors and targets in, one score per vector out: cosines in blocks, so that memory stays bounded."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 2048
"""Rows of a block on either side: 16 MiB of cosines at a time."""


def mean_cosine(vectors: Tensor, targets: Tensor) -> Tensor:
    """The mean cosine of each vector with all targets, by way of their centroid: exact, and as cheap as one target.

    Args:
        vectors: (n, d) float32, unit (or zero).
        targets: (m, d) float32, unit, m > 0, on the same device.

    Returns:
        (n,) float32.

    Example:
        >>> mean_cosine(torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
        tensor([0.8000, 0.4000])
    """
    # float64: the sum over tens of thousands of targets is made once, and everything hangs on it.
    return vectors @ targets.mean(0, dtype=torch.float64).to(vectors.dtype)


def top_k_cosine(vectors: Tensor, targets: Tensor, k: int = 1, *, block: int = BLOCK) -> Tensor:
    """The mean of each vector's ``k`` largest cosines with the targets. ``k=1`` is the maximum.

    Args:
        vectors: (n, d) float32, unit (or zero).
        targets: (m, d) float32, unit, on the same device.
        k: at most m.
        block: rows of either side that are multiplied at once; the result does not depend on it.

    Returns:
        (n,) float32.

    Example:
        >>> targets = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]])
        >>> top_k_cosine(torch.eye(2), targets), top_k_cosine(torch.eye(2), targets, k=2)
        (tensor([1.0000, 0.8000]), tensor([0.8000, 0.4000]))
    """
    scores = [_top_k(vectors[start : start + block], targets, k, block) for start in range(0, len(vectors), block)]
    return torch.cat(scores) if scores else vectors.new_zeros(0)


def _top_k(vectors: Tensor, targets: Tensor, k: int, block: int) -> Tensor:
    best = vectors.new_empty(len(vectors), 0)
    for start in range(0, len(targets), block):
        best = torch.cat([best, vectors @ targets[start : start + block].T], dim=1)
        best = best.topk(min(k, best.shape[1]), dim=1).values
    return best.mean(1)
