"""Are these the losses of this batch? What cannot be is said with what to do about it."""

from __future__ import annotations

from typing import Any
from weakref import ref

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from weighted_stream.batch import Batch, Positions, as_ids
from weighted_stream.errors import LossError

_HINTS = {
    0: "compute the loss per sample: reduction='none', or per_sample_cross_entropy(logits, labels); "
    "for a single sample losses.unsqueeze(0)",
    2: "reduce over tokens within each sample: per_sample_cross_entropy, or losses.mean(1)",
}


def check_losses(losses: Any, count: int) -> None:
    """Raise a `LossError` unless these are ``count`` floats."""
    if not isinstance(losses, Tensor) or not losses.is_floating_point():
        found = f"{losses.dtype} tensor" if isinstance(losses, Tensor) else type(losses).__name__
        raise _wrong(found, count, "multiply the weight by the losses of its batch, and by nothing else")
    if losses.ndim != 1:
        hint = _HINTS.get(losses.ndim, "reduce all but the first dimension")
        raise _wrong(f"shape {tuple(losses.shape)}", count, hint)
    if losses.shape[0] != count:
        do = "use the weight that came with this batch, whole; a collate_fn must keep number and order of the samples"
        raise _wrong(f"{losses.shape[0]} losses", count, do)


def check_ids(ids: Any, expected: NDArray[np.int64]) -> None:
    """Raise a `LossError` unless the trainer's ids are the batch's."""
    found = as_ids(ids)
    if not np.array_equal(found, expected):
        raise _another("These losses belong to another batch.", "ids", found, expected)


class Latest:
    """The losses that were weighed last, and whose: to notice when the same tensor is weighed again."""

    __slots__ = ("_batch", "_ids", "_losses", "_positions", "_version")

    def __init__(self, losses: Tensor, batch: Batch, positions: Positions, ids: NDArray[np.int64]) -> None:
        self._losses, self._version = ref(losses), _version(losses)
        self._batch, self._positions, self._ids = batch, positions, ids

    def recognise(
        self, losses: Tensor, batch: Batch, positions: Positions, ids: NDArray[np.int64]
    ) -> tuple[Batch, Positions]:
        """The batch that these losses were counted under, if they were, and their places in it; else what is given.

        Raises:
            LossError: if they were weighed as another batch's.
        """
        if self._losses() is not losses or self._batch is batch or _version(losses) != self._version:
            return batch, positions
        if not np.array_equal(self._ids, ids):
            raise _another(
                "These very losses were already weighed as another batch's.", "losses of ids", self._ids, ids
            )
        whole = len(self._batch.ids) == len(batch.ids) == len(ids)
        return (self._batch, self._positions) if whole else (batch, positions)


def _version(losses: Tensor) -> int:
    """Changes when the tensor is written to in place."""
    return -1 if losses.is_inference() else losses._version


def _wrong(found: str, count: int, do: str) -> LossError:
    return LossError(
        "These are not the losses of this batch.", found=found, expected=f"float losses of shape ({count},)", do=do
    )


def _another(problem: str, what: str, found: NDArray[np.int64], expected: NDArray[np.int64]) -> LossError:
    return LossError(
        problem,
        found=f"{what} {found[:4].tolist()} …",
        expected=f"{what} {expected[:4].tolist()} …",
        do="use the weight that came out of the loader together with the batch",
    )
