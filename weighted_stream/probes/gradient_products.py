"""Inner products of per-sample gradients from their factors, in the cheaper order by shape (arXiv 2604.00001)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from weighted_stream.probes.factors import Factors

Order: TypeAlias = Literal["positions", "parameters"]
"""Which way pairs of samples are multiplied: position by position, or parameter by parameter."""

WORKSPACE = 2**27
"""Bytes that intermediate results may take, by default."""


def work_dtype(parts: Sequence[Factors]) -> torch.dtype:
    """At least float32."""
    dtype = torch.float32
    for part in parts:
        dtype = torch.promote_types(dtype, part.cols.dtype)
    return dtype


def cheaper_order(parts: Sequence[Factors], rows: int) -> Order:
    """The order with fewer multiplications.

    ``positions``: ``<g_i, g_j> = sum_ts (rows_it . rows_js)(cols_it . cols_js)``, about ``B^2 T^2 (R + C) / 2``.
    ``parameters``: the gradients themselves, some rows at a time: ``B T R C + B^2 R C``.

    Args:
        parts: all factors of one parameter; their T add up.
        rows: R, how many rows the parameter has (that any sample uses, for an embedding).
    """
    samples, columns = parts[0].cols.shape[0], parts[0].cols.shape[2]
    length = sum(part.cols.shape[1] for part in parts)
    width = sum(part.cols.shape[1] * (columns + (1 if part.one_hot else rows)) for part in parts) / length
    by_positions = samples**2 * length**2 * width / 2
    by_parameters = samples * length * rows * columns + samples**2 * rows * columns
    return "positions" if by_positions < by_parameters else "parameters"


def gram_by_positions(parts: Sequence[Factors], workspace: int = WORKSPACE) -> Tensor:
    """``<g_i, g_j>`` for all pairs of samples, position by position: (B, B), symmetric.

    No gradient is ever formed. Two blocks of products of positions share the workspace.

    Example:
        >>> rows, cols = torch.randn(3, 5, 4), torch.randn(3, 5, 2)
        >>> gradients = (rows.mT @ cols).flatten(1)
        >>> torch.allclose(gram_by_positions([Factors(rows, cols)]), gradients @ gradients.T, atol=1e-5)
        True
    """
    dtype = work_dtype(parts)
    samples = len(parts[0].cols)
    gram = parts[0].cols.new_zeros(samples, samples, dtype=dtype)
    for at, one in enumerate(parts):
        _add_pairs(gram, one, one, workspace)
        for other in parts[at + 1 :]:
            mixed = torch.zeros_like(gram)
            _add_pairs(mixed, one, other, workspace)
            gram += mixed + mixed.T
    return gram


def _add_pairs(gram: Tensor, one: Factors, other: Factors, workspace: int) -> None:
    """Adds the inner products of a part with itself, or with another."""
    samples, dtype = len(gram), gram.dtype
    places = workspace // (2 * gram.element_size())
    length, width = one.cols.shape[1], other.cols.shape[1]
    block = min(samples, max(1, int((places / (length * width)) ** 0.5)))
    step = length if block > 1 else min(length, max(1, places // width))
    for left in range(0, samples, block):
        for start in range(0, length, step):
            mine = Factors(*(factor[left : left + block, start : start + step] for factor in one))
            for right in range(left if one is other else 0, samples, block):
                theirs = Factors(*(factor[right : right + block] for factor in other))
                products = _row_products(mine, theirs, dtype).mul_(_dots(mine.cols, theirs.cols, dtype)).sum((1, 3))
                gram[left : left + block, right : right + block] += products
                if one is other and right > left:
                    gram[right : right + block, left : left + block] += products.T


def _dots(one: Tensor, other: Tensor, dtype: torch.dtype) -> Tensor:
    """(n, T, d), (m, S, d) -> (n, T, m, S)."""
    products = one.flatten(0, 1).to(dtype) @ other.flatten(0, 1).to(dtype).T
    return products.view(*one.shape[:2], *other.shape[:2])


def _row_products(one: Factors, other: Factors, dtype: torch.dtype) -> Tensor:
    """``rows_it . rows_js``: (n, T, m, S)."""
    if one.one_hot and other.one_hot:
        return (one.rows[:, :, None, None] == other.rows).to(dtype)
    if other.one_hot:
        return one.rows[:, :, other.rows].to(dtype)
    if one.one_hot:
        return other.rows[:, :, one.rows].to(dtype).permute(2, 3, 0, 1)
    return _dots(one.rows, other.rows, dtype)


def gram_by_parameters(
    parts: Sequence[Factors],
    rows: int,
    direction: Tensor | None = None,
    scale: Tensor | None = None,
    workspace: int = WORKSPACE,
) -> tuple[Tensor, Tensor | None]:
    """``<s g_i, s g_j>`` for all pairs, and ``<g_i, D>``, from the gradients themselves, some rows at a time.

    Args:
        parts: all factors of one parameter.
        rows: R, how many rows it has.
        direction: D, (R, C); None: only pairs.
        scale: s, (R, C), by element; None: 1.
        workspace: bytes for the gradients of some rows, (B, r, C); at least one row.

    Returns:
        (B, B), and (B,) or None.

    Example:
        >>> one = Factors(torch.ones(2, 3, 4), torch.ones(2, 3, 5))  # gradients (4, 5) of threes
        >>> gram_by_parameters([one], 4, direction=torch.ones(4, 5))
        (tensor([[180., 180.],
                [180., 180.]]), tensor([60., 60.]))
    """
    dtype = work_dtype(parts)
    samples, columns = parts[0].cols.shape[0], parts[0].cols.shape[2]
    gram = parts[0].cols.new_zeros(samples, samples, dtype=dtype)
    along = None if direction is None else gram.new_zeros(samples)
    parts = [Factors(part.rows, part.cols.to(dtype)) for part in parts]
    for lines in _chunks(rows, samples * columns * gram.element_size(), workspace):
        gradients = gram.new_zeros(samples, lines.stop - lines.start, columns)
        for part in parts:
            _add_gradients(gradients, part, lines)
        flat = gradients.flatten(1)
        if direction is not None and along is not None:
            along += flat @ direction[lines].flatten().to(dtype)
        if scale is not None:
            flat *= scale[lines].flatten()
        gram.addmm_(flat, flat.T)
    return gram, along


def products_along(parts: Sequence[Factors], rows: int, direction: Tensor, workspace: int = WORKSPACE) -> Tensor:
    """``<g_i, D> = sum_t rows_it^T D cols_it`` without forming any gradient: (B,). About ``B T R C`` multiplications.

    Args:
        parts: all factors of one parameter.
        rows: R, how many rows it has.
        direction: D, (R, C).
        workspace: bytes for ``D cols`` of some rows, (B, T, r).
    """
    dtype = work_dtype(parts)
    total = parts[0].cols.new_zeros(len(parts[0].cols), dtype=dtype)
    for part in parts:
        cols = part.cols.to(dtype)
        if part.one_hot:
            for some in _chunks(len(cols), cols[:1].numel() * cols.element_size(), workspace):
                total[some] += (direction[part.rows[some]].to(dtype) * cols[some]).sum((1, 2))
            continue
        for lines in _chunks(rows, cols[..., :1].numel() * cols.element_size(), workspace):
            turned = cols @ direction[lines].to(dtype).T
            total += turned.mul_(part.rows[..., lines]).sum((1, 2))
    return total


def summed(part: Factors, into: Tensor) -> None:
    """Adds ``sum_i g_i`` of all samples to a tensor (R, C)."""
    cols = part.cols.flatten(0, 1).to(into.dtype)
    if part.one_hot:
        into.index_add_(0, part.rows.flatten(), cols)
    else:
        into.addmm_(part.rows.flatten(0, 1).to(into.dtype).T, cols)


def compact(parts: Sequence[Factors]) -> tuple[list[Factors], Tensor]:
    """One-hot rows renumbered, so that only rows that occur are left; and which rows these are, ascending."""
    numbers = torch.cat([part.rows.flatten() for part in parts])
    found, where = torch.unique(numbers, return_inverse=True)
    pieces = where.split([part.rows.numel() for part in parts])
    return [Factors(at.view_as(p.rows), p.cols) for at, p in zip(pieces, parts, strict=True)], found


def _add_gradients(into: Tensor, part: Factors, lines: slice) -> None:
    """Adds rows of the gradients to (B, r, C)."""
    if not part.one_hot:
        into.baddbmm_(part.rows[..., lines].to(into.dtype).mT, part.cols)
        return
    sample, position = ((part.rows >= lines.start) & (part.rows < lines.stop)).nonzero(as_tuple=True)
    row = part.rows[sample, position] - lines.start
    into.view(-1, into.shape[2]).index_add_(0, sample * into.shape[1] + row, part.cols[sample, position])


def _chunks(count: int, size: int, workspace: int) -> Iterator[slice]:
    """Slices of ``range(count)``, so that each takes at most the workspace at ``size`` bytes an element."""
    step = max(1, workspace // max(1, size))
    yield from (slice(start, min(start + step, count)) for start in range(0, count, step))
