"""Batches with their ids: what runs in a loader's workers."""

from __future__ import annotations

import os
from collections.abc import Callable, MutableMapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from weighted_stream.errors import SampleIdError, SourceError
from weighted_stream.groups import GroupFn, groups_of
from weighted_stream.small_tensors import Sent
from weighted_stream.sources.ids import content_id

SAMPLE_ID = "sample_id"
"""The key under which ids travel inside dict batches."""


class TagCollate:
    """A collate function for samples with ids: ``(ids, batch)``, ids an int64 array.

    The ids come first because `StreamingDataLoader` counts samples with ``len(batch[0])``; they are an array, not a
    tensor, because a worker sends a small array faster than a handle to shared memory, and bytes faster still.

    Args:
        collate_fn: the user's, given the bare samples.
        as_dict: put the id into each dict sample first, so that a collate function may even reorder them.
        check_ids: refuse two different samples with one id in a batch; for ids that came from the user.
        group_fn: names the group of a sample: then `SampleGroups` come third.
        own_batches: whether the dataset makes its batches itself.
        watched: whether there are workers, and the loader's iterator is torch's own and watched: they may send small
            tensors by value, and ids as bytes, see `ids_of`: it hands them on untouched.
    """

    def __init__(
        self,
        collate_fn: Callable[[Any], Any],
        as_dict: bool = False,
        check_ids: bool = False,
        group_fn: GroupFn | None = None,
        own_batches: bool = False,
        watched: bool = False,
    ) -> None:
        self.collate_fn, self.as_dict, self.check_ids = collate_fn, as_dict, check_ids
        self.group_fn, self.own_batches = group_fn, own_batches
        self._plain, self._watched = group_fn is None and not as_dict, watched
        self._home = os.getpid()  # where the loader is: it may be within a worker of another

    def __call__(self, items: Any) -> Any:
        """Collate what the dataset gave: a list of ``(id, sample)``, or ``(ids, samples)`` of a whole batch."""
        if self._watched and get_worker_info() is not None and os.getpid() != self._home:
            return Sent(self._batch(items, in_worker=True))
        return self._batch(items)

    def _batch(self, items: Any, in_worker: bool = False) -> Any:
        if self._plain and type(items) is tuple and type(items[0]) is np.ndarray:  # as nearly always
            if in_worker:
                return items[0].tobytes(), self.collate_fn(items[1])
            return items[0], self.collate_fn(items[1])
        if self.group_fn is None:
            return self._collated(items)
        ids, samples = items if type(items) is tuple else ([i for i, _ in items], [sample for _, sample in items])
        groups = groups_of(self.group_fn, ids, samples, self.own_batches)  # first: a collate function may write to them
        return *self._collated(items), groups

    def _collated(self, items: Any) -> tuple[Any, Any]:
        if type(items) is tuple:
            ids, samples = items
        else:
            ids, samples = [number for number, _ in items], [sample for _, sample in items]
            if self.check_ids and len(set(ids)) < len(ids):
                refuse_shared_ids(ids, samples)
        if self.as_dict and isinstance(samples, list) and samples and isinstance(samples[0], MutableMapping):
            numbers = ids.tolist() if type(ids) is np.ndarray else ids
            samples = [with_sample_id(sample, number) for sample, number in zip(samples, numbers, strict=True)]
            return through(self.collate_fn(samples))
        batch = self.collate_fn(samples)
        array = ids if type(ids) is np.ndarray else np.array([ids] if isinstance(ids, int) else ids, dtype=np.int64)
        return array, with_sample_id(batch, array) if self.as_dict else batch


def ids_of(item: Any) -> NDArray[np.int64]:
    """The ids (B,) of a batch as a loader gives it: ``(ids, batch)``, ids in any form."""
    ids = item[0]
    if type(ids) is bytes:
        return np.frombuffer(ids, np.int64)
    return np.ascontiguousarray(ids, np.int64)


def refuse_shared_ids(ids: Sequence[int], samples: Sequence[Any]) -> None:
    """Raise if two samples of different content have one id; a sample that is repeated may come again.

    Raises:
        SampleIdError: naming the id and both samples.
    """
    first: dict[int, tuple[int, int]] = {}
    for place, (number, sample) in enumerate(zip(ids, samples, strict=True)):
        try:
            content = content_id(sample)
        except SampleIdError:
            continue  # content of a kind that cannot be compared
        earlier, earlier_content = first.setdefault(number, (place, content))
        if content != earlier_content:
            raise SampleIdError(
                "Two different samples of a batch have the same id.",
                found=f"id {number} for {samples[earlier]!r:.100} and for {sample!r:.100}",
                expected="one id per sample",
                do="use a key that is unique; if this is one sample changed at random, let id_fn see it unchanged",
            )


def through(batch: Any) -> tuple[Any, Any]:
    """The ids that came through a collate function inside its batch, and the batch.

    Raises:
        SourceError: if it dropped them.
    """
    if not isinstance(batch, MutableMapping) or SAMPLE_ID not in batch:
        raise SourceError(
            f"The collate_fn lost the key {SAMPLE_ID!r} that as_dict=True puts into each sample.",
            found=f"a batch with {sorted(map(str, batch))}"
            if isinstance(batch, MutableMapping)
            else type(batch).__name__,
            expected=f"a dict with {SAMPLE_ID!r}, one id per sample",
            do=f"let the collate_fn keep {SAMPLE_ID!r} (Hugging Face: remove_unused_columns=False)",
        )
    batch[SAMPLE_ID] = torch.as_tensor(batch[SAMPLE_ID], dtype=torch.int64)
    return batch[SAMPLE_ID].numpy(), batch


def with_sample_id(batch: Any, ids: Any) -> Any:
    """A copy of a dict with the ids added: an int for a sample, an int64 tensor for a batch.

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
    batch = copy(batch)
    batch[SAMPLE_ID] = ids if isinstance(ids, int) else torch.as_tensor(ids, dtype=torch.int64)
    return batch
