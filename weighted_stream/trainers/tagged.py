"""Samples that carry their ids through a framework's own loader, past collate functions that know nothing of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from weighted_stream.collate import SAMPLE_ID
from weighted_stream.errors import SourceError
from weighted_stream.stream import WeightedStream

LENGTHS = "sample_lengths"
"""The key of the samples' numbers of tokens, in a batch that is one long row (packed, or free of padding)."""


def tagged(stream: WeightedStream) -> Dataset[Any]:
    """A dataset of the stream's samples, dicts with their ids; an epoch of it is told to the stream by who owns it."""
    return _Ordered(stream) if isinstance(stream, IterableDataset) else _Indexed(stream)


class _Indexed(Dataset[Any]):
    """Reads a stream by index."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __len__(self) -> int:
        return len(self._stream)

    def __getitem__(self, index: Any) -> Any:
        return self._stream[index]

    def __getitems__(self, indices: list[Any]) -> list[Any]:
        many = getattr(self._stream, "__getitems__", None)
        return [self._stream[index] for index in indices] if many is None else many(indices)


class _Ordered(IterableDataset[Any]):
    """Reads a stream in order."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[Any]:
        return iter(self._stream)

    def __len__(self) -> int:
        return len(self._stream)


class CollateAround:
    """Takes the ids out of the samples, lets a collate function make the batch, and puts them in again.

    Args:
        collate_fn: given dicts without ids; keeps their number and order. Returns a dict of tensors with a row for
            each, or with one row for all of them, one after another.

    Raises:
        SourceError: when called, for samples that have lost their ids, and for batches of another number of rows.

    Example:
        >>> collate = CollateAround(torch.utils.data.default_collate)
        >>> collate([{"x": 1.0, "sample_id": 7}, {"x": 2.0, "sample_id": 9}])
        {'x': tensor([1., 2.], dtype=torch.float64), 'sample_id': tensor([7, 9])}
    """

    def __init__(self, collate_fn: Callable[[list[Any]], Any]) -> None:
        self.collate_fn = collate_fn

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Collate."""
        bare, ids = [], []
        for sample in samples:
            if not isinstance(sample, MutableMapping) or SAMPLE_ID not in sample:
                raise _lost(sample)
            ids.append(int(sample[SAMPLE_ID]))
            bare.append({key: value for key, value in sample.items() if key != SAMPLE_ID})
        lengths = [len(sample["input_ids"]) if "input_ids" in sample else -1 for sample in bare]
        batch = self.collate_fn(bare)
        rows = _rows(batch)
        if rows != len(ids):
            if rows != 1 or min(lengths) < 0:
                raise _other_rows(batch, rows, len(ids))
            batch[LENGTHS] = torch.tensor(lengths)
        batch[SAMPLE_ID] = torch.tensor(ids, dtype=torch.int64)
        return batch


class Micro:
    """One batch of the loader: whose it is, apart from what the model sees."""

    def __init__(self, ids: Tensor, lengths: Tensor | None, inputs: Mapping[str, Any]) -> None:
        self.ids, self.lengths, self.inputs = ids, lengths, inputs
        self.part: Any = None
        self.weighed = False


def taken(inputs: Mapping[str, Any]) -> tuple[dict[str, Any], Micro]:
    """What the model sees, and whose it is."""
    left = dict(inputs)
    ids, lengths = left.pop(SAMPLE_ID).cpu(), left.pop(LENGTHS, None)
    return left, Micro(ids, None if lengths is None else lengths.cpu(), left)


def _rows(batch: Any) -> int | None:
    if not isinstance(batch, MutableMapping):
        return None
    return next((len(value) for value in batch.values() if isinstance(value, Tensor) and value.ndim), None)


def _lost(sample: Any) -> SourceError:
    found = f"a sample with {sorted(map(str, sample))}" if isinstance(sample, MutableMapping) else type(sample).__name__
    return SourceError(
        f"The samples have lost {SAMPLE_ID!r} before they were collated.",
        found=found,
        expected=f"dicts with {SAMPLE_ID!r}",
        do="set remove_unused_columns=False, or let _set_signature_columns_if_needed of your trainer call super()",
    )


def _other_rows(batch: Any, rows: int | None, samples: int) -> SourceError:
    return SourceError(
        "The data collator makes batches that do not have a row for each sample: whose losses they give is not known.",
        found=type(batch).__name__ if rows is None else f"{rows} rows",
        expected=f"a dict of tensors with {samples} rows, or one row for all {samples}",
        do="use a collator that keeps samples apart; trainers that compare samples (DPO and its like) are not weighted",
    )


def lost(batch: Any) -> SourceError:
    """The error for a batch that came without ids."""
    return SourceError(
        "This batch came without the ids of its samples.",
        found=f"a batch with {sorted(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__,
        expected=f"the batches of the Trainer's own get_train_dataloader, with {SAMPLE_ID!r}",
        do="leave get_train_dataloader, get_batch_samples, training_step of the Trainer as they are, or call super()",
    )
