"""One vector per sample from its hidden states: ADAPT's position-weighted mean (arXiv 2605.05227)."""

from __future__ import annotations

import torch
from torch import Tensor


def position_weights(mask: Tensor) -> Tensor:
    """``a_t = t / sum_j j`` over the real tokens, t counted from the first of them: (B, T) float32, rows sum to 1.

    Padding may be on the left, on the right or in between; it gets 0. A row without real tokens is all 0.

    Args:
        mask: (B, T), 0 or False for padding.

    Example:
        >>> position_weights(torch.tensor([[0, 1, 1, 1]]))
        tensor([[0.0000, 0.1667, 0.3333, 0.5000]])
    """
    real = mask.ne(0)
    places = (real.cumsum(1) * real).float()
    return places / places.sum(1, keepdim=True).clamp_min(1.0)


def position_weighted_mean(hidden: Tensor, mask: Tensor | None = None) -> Tensor:
    """``phi(x) = unit(sum_t a_t h_t)`` with ``a_t = t / sum_j j``: later tokens, which have seen more, count more.

    Computed in float32 whatever the dtype of the states, also under autocast.

    Args:
        hidden: (B, T, H), any float dtype.
        mask: (B, T), 0 or False for padding, on any device; None: all tokens are real.

    Returns:
        (B, H) float32, of length 1; a sample without real tokens gets zeros.

    Example:
        >>> position_weighted_mean(torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]]))
        tensor([[0.6247, 0.7809]])
    """
    if mask is None:
        mask = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    weights = position_weights(mask.to(hidden.device))
    # A product and a sum, not a matmul: those are rounded under autocast and TF32.
    return torch.nn.functional.normalize((hidden * weights.unsqueeze(2)).sum(1), dim=1)
