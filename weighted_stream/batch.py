"""Batch: what the parts of one batch share: its samples, which of them were counted, which weights they got."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weighted_stream.errors import SampleIdError

Positions: TypeAlias = NDArray[np.int64] | None
"""Where in the batch the samples of a part stand; None: all of them, in order."""


class Batch:
    """One batch of one loader.

    Attributes:
        ids: (B,) int64.
        step: the batch's number, given at its first feedback.
        chosen: the weights (B,) float32 that the samples were chosen with; None: they are weighed at their feedback.
        groups: the names of the samples' groups, B of them, until the store knows; None: nothing to be told.
        samples: the batch as it was handed over, if the strategy looks at it; else None.
        looked_at: whether its weights were asked for before its feedback.
        scratch: see `Signals`.
    """

    __slots__ = ("_counted", "_weights", "chosen", "groups", "ids", "looked_at", "samples", "scratch", "step")

    def __init__(self, ids: NDArray[np.int64], chosen: Tensor | None = None, samples: Any = None) -> None:
        self.ids = ids
        self.groups: list[str] | None = None
        self.chosen = chosen
        self.samples = samples
        self.looked_at = False
        self.step: int | None = None
        self.scratch: dict[Any, Any] = {}
        self._weights: Tensor | None = None
        self._counted: NDArray[np.bool_] | bool = False  # all, none, or (B,)

    def ids_at(self, positions: Positions) -> NDArray[np.int64]:
        """The ids of a part."""
        return self.ids if positions is None else self.ids[positions]

    def is_part(self, positions: Positions) -> bool:
        """Whether a part lacks some of the batch."""
        size = len(self.ids)
        return positions is not None and (len(positions) < size or len(np.unique(positions)) < size)

    def uncounted(self, positions: Positions) -> NDArray[np.int64] | None:
        """Which samples of a part were not counted yet, by their place in the part, each once; None: all of them."""
        if self._counted is True:
            return np.empty(0, np.int64)
        if self._counted is False and positions is None:
            return None
        where = np.arange(len(self.ids)) if positions is None else positions
        first = np.unique(where, return_index=True)[1]
        return np.sort(first[~np.broadcast_to(self._counted, len(self.ids))[where[first]]])

    def count(self, positions: Positions) -> None:
        """Mark a part as counted."""
        if positions is None:
            self._counted = True
            return
        counted = np.array(np.broadcast_to(self._counted, len(self.ids)))
        counted[positions] = True
        self._counted = bool(counted.all()) or counted

    @property
    def counted(self) -> bool:
        """Whether all of it was counted."""
        return self._counted is True

    def keep(self, positions: Positions, weights: Tensor) -> None:
        """Remember the weights of a part."""
        if positions is None:
            self._weights = weights
            return
        # A new tensor each time: autograd may hold the old one.
        blank = torch.full((len(self.ids),), torch.nan, dtype=weights.dtype, device=weights.device)
        kept = blank if self._weights is None else self._weights.clone()
        kept[_index(positions, kept)] = weights
        self._weights = kept

    def chosen_at(self, positions: Positions, device: torch.device) -> Tensor | None:
        """The weights a part was chosen with."""
        if self.chosen is None:
            return None
        return (self.chosen if positions is None else self.chosen[_index(positions, self.chosen)]).to(device)

    def kept(self, positions: Positions) -> Tensor | None:
        """The weights last remembered of a part; None if some of it has none."""
        if self._weights is None:
            return None
        part = self._weights if positions is None else self._weights[_index(positions, self._weights)]
        return None if self._counted is not True and bool(part.isnan().any()) else part


def _index(positions: NDArray[np.int64], like: Tensor) -> Tensor:
    return torch.from_numpy(positions).to(like.device)


def as_ids(ids: Any) -> NDArray[np.int64]:
    """Ids as the user gives them, as an array (B,) int64.

    Raises:
        SampleIdError: for ids that are none.
    """
    array = np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids)
    if array.ndim != 1 or (array.size and (array.dtype.kind not in "iu" or array.min() < 0)):
        raise SampleIdError(
            "These are no sample ids.",
            found=f"{array.dtype} of shape {array.shape}",
            expected="non-negative integers of shape (B,)",
            do='pass batch["sample_id"] as the loader made it',
        )
    return array.astype(np.int64)
