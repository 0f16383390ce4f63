"""Batches with their ids: what runs in a loader's workers."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

import numpy as np
import torch

from weighted_stream.errors import SourceError

SAMPLE_ID = "sample_id"
"""The key under which ids travel inside dict batches."""


class TagCollate:
    """A collate function for samples with ids: ``(ids, batch)``, ids an int64 array.

    The ids come first because `StreamingDataLoader` counts samples with ``len(batch[0])``; they are an array, not a
    tensor, because a worker sends a small array faster than a handle to shared memory.

    Args:
        collate_fn: the user's, given the bare samples.
    """

    def __init__(self, collate_fn: Callable[[Any], Any]) -> None:
        self.collate_fn = collate_fn

    def __call__(self, items: Any) -> Any:
        """Collate what the dataset gave: a list of ``(id, sample)``, or ``(ids, samples)`` of a whole batch."""
        if type(items) is tuple:
            ids, samples = items
        else:
            ids, samples = zip(*items, strict=True)
            samples = list(samples)
        batch = self.collate_fn(samples)
        array = np.array([ids] if isinstance(ids, int) else ids, dtype=np.int64)
        return array, batch


def with_sample_id(batch: Any, ids: Any) -> Any:
    """The dict ``batch`` with an int64 tensor of ids added.

    Raises:
        SourceError: if the batch is no dict, or has the key already.
    """
    if not isinstance(batch, MutableMapping) or SAMPLE_ID in batch:
        found = type(batch).__name__ if not isinstance(batch, MutableMapping) else f"a dict with {SAMPLE_ID!r} in it"
        raise SourceError(
            "as_dict=True cannot put the ids into this batch.",
            found=found,
            expected=f"a dict without the key {SAMPLE_ID!r}",
            do="make samples dicts (or collate to one), or leave as_dict out and take (batch, weight) pairs",
        )
    batch[SAMPLE_ID] = torch.as_tensor(ids, dtype=torch.int64)
    return batch
