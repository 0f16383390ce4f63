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
from weighted_stream.trainers.outputs import IGNORED

OWNERS = "token_owners"
"""The key of whose each token is, where a row of the batch holds tokens of several samples (packed, free of padding):
the place of the sample among the batch's ids, -1 for padding; (R, T) int64."""


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
            each, or with one row for all of them, one after another. A sample whose ``sample_id`` is a list is a pack
            of several: it has the id of each of its ``input_ids``.
        rows: how many rows of the batch a sample has, one block of them after another (a chosen and a rejected answer).

    Raises:
        SourceError: when called, for samples that have lost their ids, and for batches of another number of rows.

    Example:
        >>> collate = CollateAround(torch.utils.data.default_collate)
        >>> collate([{"x": 1.0, "sample_id": 7}, {"x": 2.0, "sample_id": 9}])
        {'x': tensor([1., 2.], dtype=torch.float64), 'sample_id': tensor([7, 9])}
    """

    def __init__(self, collate_fn: Callable[[list[Any]], Any], rows: int = 1) -> None:
        self.collate_fn, self.rows = collate_fn, rows

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Collate."""
        bare, ids = [], []
        for sample in samples:
            if not isinstance(sample, MutableMapping) or SAMPLE_ID not in sample:
                raise _lost(sample)
            ids.append(sample[SAMPLE_ID])
            bare.append({key: value for key, value in sample.items() if key != SAMPLE_ID})
        tokens = [sample.get("input_ids") for sample in bare]  # first: a collate function may take things out
        batch = self.collate_fn(bare)
        rows, packs = _rows(batch), any(_is_pack(mark) for mark in ids)
        if packs or (rows == 1 and self.rows == 1 and len(ids) > 1):
            batch[SAMPLE_ID], batch[OWNERS] = _owned(batch, ids, tokens)
            return batch
        if rows != self.rows * len(ids):
            raise _other_rows(batch, rows, self.rows * len(ids))
        batch[SAMPLE_ID] = torch.tensor([int(number) for number in ids], dtype=torch.int64)
        return batch


class Micro:
    """One batch of the loader: whose it is, apart from what the model sees.

    Attributes:
        ids: (B,) int64.
        owners: see `OWNERS`.
        inputs: what the model sees.
        part: its `Weight`, once known.
        of: how many samples there are in all parts.
        weighed: whether the weights were asked for.
    """

    def __init__(self, ids: Tensor, owners: Tensor | None, inputs: Mapping[str, Any]) -> None:
        self.ids, self.owners, self.inputs = ids, owners, inputs
        self.part: Any = None
        self.of = len(ids)
        self.weighed = False


def taken(inputs: Mapping[str, Any]) -> tuple[dict[str, Any], Micro]:
    """What the model sees, and whose it is."""
    left = dict(inputs)
    ids, owners = left.pop(SAMPLE_ID).cpu(), left.pop(OWNERS, None)
    return left, Micro(ids, owners, left)


def _is_pack(mark: Any) -> bool:
    return getattr(mark, "ndim", 0) > 0 or isinstance(mark, (list, tuple))


def _owned(batch: Any, marks: list[Any], tokens: list[Any]) -> tuple[Tensor, Tensor]:
    """The ids in a batch (S,), in the order that they come, and whose its tokens are (R, T).

    Raises:
        SourceError: if the rows of the batch are not the tokens of its samples.
    """
    row = batch.get("input_ids") if isinstance(batch, MutableMapping) else None
    if not isinstance(row, Tensor) or row.ndim != 2 or any(each is None for each in tokens):
        raise _other_rows(batch, _rows(batch), len(marks))
    places: dict[int, int] = {}
    owners, pieces = [], [torch.as_tensor(each) for each in tokens]
    for at, (mark, piece) in enumerate(zip(marks, pieces, strict=True)):
        if _is_pack(mark):
            if len(mark) != len(piece):
                raise _not_the_tokens(f"a pack of {len(piece)} tokens with {len(mark)} ids", "an id for each token")
            owners.append(torch.tensor([places.setdefault(int(number), len(places)) for number in mark]))
        else:  # the same sample twice is two samples
            owners.append(torch.full((len(piece),), places.setdefault(-1 - at, len(places))))
    ids = [number if number >= 0 else int(marks[-1 - number]) for number in places]
    if len(row) == 1:
        owners, pieces = [torch.cat(owners)], [torch.cat(pieces)]
    if len(row) != len(pieces):
        raise _other_rows(batch, len(row), len(marks))
    made = torch.full(row.shape, -1, dtype=torch.int64)
    for at, (whose, piece) in enumerate(zip(owners, pieces, strict=True)):
        found, size = row[at].cpu().to(piece.dtype), len(piece)
        if size <= len(found) and torch.equal(found[:size], piece):
            made[at, :size] = whose
        elif size <= len(found) and torch.equal(found[len(found) - size :], piece):  # padded on the left
            made[at, len(found) - size :] = whose
        else:
            raise _not_the_tokens(f"{len(found)} tokens", f"the {size} of its samples, one sample after another")
    if any(map(_is_pack, marks)):
        ids, made = _labelled(ids, made, batch.get("labels"))
    return torch.tensor(ids, dtype=torch.int64), made


def _labelled(ids: list[int], owners: Tensor, labels: Any) -> tuple[list[int], Tensor]:
    """Without the samples of which there is no labelled token (a last piece of one token), unless there are no others.

    Their pieces elsewhere say what they lose.
    """
    if not isinstance(labels, Tensor) or labels.shape != owners.shape:
        return ids, owners
    kept = torch.unique(owners[(labels.cpu() != IGNORED) & (owners >= 0)])
    if len(kept) in (0, len(ids)):
        return ids, owners
    places = torch.full((len(ids) + 1,), -1)  # the last one is that of -1
    places[kept] = torch.arange(len(kept))
    return [ids[at] for at in kept.tolist()], places[owners]


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


def _not_the_tokens(found: str, expected: str) -> SourceError:
    return SourceError(
        "A long row does not hold the tokens of its samples.",
        found=found,
        expected=expected,
        do="use a collator that puts samples whole, one after another, in their order (TRL's, or "
        "DataCollatorWithFlattening)",
    )


def _other_rows(batch: Any, rows: int | None, expected: int) -> SourceError:
    return SourceError(
        "The data collator makes batches that do not have a row for each sample: whose losses they give is not known.",
        found=type(batch).__name__ if rows is None else f"{rows} rows",
        expected=f"a dict of tensors with {expected} rows, or one row of input_ids for all samples",
        do="use a collator that keeps samples apart; trainers that compare samples are not weighted, but for TRL's "
        "DPOTrainer",
    )


def lost(batch: Any) -> SourceError:
    """The error for a batch that came without ids."""
    return SourceError(
        "This batch came without the ids of its samples.",
        found=f"a batch with {sorted(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__,
        expected=f"the batches of the Trainer's own get_train_dataloader, with {SAMPLE_ID!r}",
        do="leave get_train_dataloader, get_batch_samples, training_step of the Trainer as they are, or call super()",
    )
