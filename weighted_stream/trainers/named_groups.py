"""The groups of samples through a loader of the trainer's own: named in its workers, taken out before the model."""

from __future__ import annotations

from collections.abc import Callable
from sys import intern
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weighted_stream.collate import SAMPLE_ID
from weighted_stream.errors import SourceError
from weighted_stream.groups import GroupFn, groups_of

GROUPS = "sample_groups"
"""The key of the names of the samples' groups on their way from the workers: (B, 256) uint8, filled up with `_FILL`. Of
one width, as accelerate puts the batches of several ranks into one, and only tensors into it."""
_WIDTH, _FILL = 256, b"\xff"  # which is no byte of UTF-8


class Naming:
    """Lets a collate function make the batch, and puts the names of the samples' groups into it, as `GROUPS`.

    Args:
        collate_fn: keeps the samples, and their order; it may drop columns first.
        group_fn: names the group of a sample, with all columns.
    """

    def __init__(self, collate_fn: Callable[[list[Any]], Any], group_fn: GroupFn) -> None:
        self._collate_fn, self._group_fn = collate_fn, group_fn

    def __call__(self, samples: list[Any]) -> Any:
        """Collate."""
        bare = [{key: value for key, value in sample.items() if key != SAMPLE_ID} for sample in samples]
        names = groups_of(self._group_fn, [sample[SAMPLE_ID] for sample in samples], bare).names
        batch = self._collate_fn(samples)
        batch[GROUPS] = _written(names)
        return batch


def _written(names: list[str]) -> Tensor:
    """The names as a tensor.

    Raises:
        SourceError: for a name that is too long.
    """
    raw = [name.encode("utf-8", "surrogatepass") for name in names]
    longest = max(raw, key=len)
    if len(longest) > _WIDTH:
        raise SourceError(
            "The name of a group is too long to travel in a batch.",
            found=f"{len(longest)} bytes: {longest[:60].decode(errors='replace')}…",
            expected=f"{_WIDTH} bytes at most",
            do="let group_fn give a shorter name",
        )
    filled = bytearray().join(each.ljust(_WIDTH, _FILL) for each in raw)
    return torch.from_numpy(np.frombuffer(filled, np.uint8).reshape(-1, _WIDTH))


def names_taken(batch: Any) -> list[str]:
    """The names of the groups in a batch, which is without them then: the model would get them.

    Raises:
        SourceError: if it has none.
    """
    written = batch.pop(GROUPS, None)
    if written is None:
        raise SourceError(
            "This batch came without the groups of its samples.",
            found=f"a batch with {sorted(map(str, batch))}",
            expected=f"{GROUPS!r}, which group_fn puts there where the Trainer makes its loader",
            do="leave get_train_dataloader of the Trainer as it is, or call super(); or store.set_groups(ids, names) "
            "before, without group_fn",
        )
    rows = (row.tobytes().rstrip(_FILL) for row in written.cpu().numpy())
    return [intern(row.decode("utf-8", "surrogatepass")) for row in rows]
