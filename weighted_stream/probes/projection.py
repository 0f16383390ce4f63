"""Random projection of per-sample gradients through their factors: small gradients for long contexts."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from weighted_stream.errors import StrategyError
from weighted_stream.probes.factors import Factors


class KroneckerProjection:
    """``(P_o b)(P_i a)^T`` in place of ``b a^T``: (rows, columns) numbers a sample and layer, inner products kept on
    average.

    Entries of both P are normal, of variance 1 / (their number of rows), so that the expected inner product of two
    projected gradients is that of the gradients, and the relative error falls with about ``sqrt(1 / rows + 1 /
    columns)``. A side that is no longer than its projection is left as it is, and so are biases. The structure is
    published (arXiv 2604.00001); the distribution is ours.

    P is drawn anew each time, from the seed and the parameter's name, on the device: it takes no memory, and no random
    state of torch is touched. Another device draws another P.

    Args:
        rows: of P_o, >= 1.
        columns: of P_i, as many rows has it, >= 1.
        seed: of the draws.

    Raises:
        StrategyError: for sizes below 1.

    Example:
        >>> small = KroneckerProjection(8, 4).factors("w", Factors(torch.randn(2, 3, 50), torch.randn(2, 3, 20)), 50)
        >>> small.rows.shape, small.cols.shape
        (torch.Size([2, 3, 8]), torch.Size([2, 3, 4]))
    """

    def __init__(self, rows: int, columns: int, seed: int = 0) -> None:
        if min(rows, columns) < 1:
            raise StrategyError(
                "Gradients cannot be projected to nothing.",
                found=f"({rows}, {columns})",
                expected="two sizes of at least 1",
                do="pass e.g. projection=(64, 64)",
            )
        self.rows, self.columns, self.seed = rows, columns, seed

    def factors(self, name: str, part: Factors, rows: int) -> Factors:
        """The projected factors of a parameter with ``rows`` rows; in float32 at least."""
        columns = part.cols.shape[2]
        if columns == 1:
            return part
        dtype = torch.promote_types(part.cols.dtype, torch.float32)
        left = self._matrix(name, "rows", rows, self.rows, part.cols)
        right = self._matrix(name, "columns", columns, self.columns, part.cols)
        cols = part.cols.to(dtype)
        cols = cols if right is None else cols @ right
        if part.one_hot:
            left = torch.eye(rows, dtype=dtype, device=cols.device) if left is None else left
            return Factors(left[part.rows], cols)
        made = part.rows.to(dtype)
        return Factors(made if left is None else made @ left, cols)

    def matrix(self, name: str, direction: Tensor) -> Tensor:
        """A direction (R, C), projected in the same way."""
        if direction.shape[1] == 1:
            return direction
        left = self._matrix(name, "rows", direction.shape[0], self.rows, direction)
        right = self._matrix(name, "columns", direction.shape[1], self.columns, direction)
        direction = direction.to(torch.promote_types(direction.dtype, torch.float32))
        direction = direction if right is None else direction @ right
        return direction if left is None else left.T @ direction

    def _matrix(self, name: str, side: str, long: int, short: int, like: Tensor) -> Tensor | None:
        """P^T, (long, short)."""
        if long <= short:
            return None
        draw = torch.Generator(like.device).manual_seed(zlib.crc32(f"{self.seed} {side} {name}".encode()))
        drawn: Tensor = torch.randn(long, short, generator=draw, device=like.device, dtype=torch.float32) / short**0.5
        return drawn.to(torch.promote_types(like.dtype, torch.float32))
