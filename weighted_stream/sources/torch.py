"""Map-style torch datasets and plain sequences: a sample is identified by its index."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import index as as_int
from struct import error, pack
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Subset

from weighted_stream.errors import SampleIdError, SourceError
from weighted_stream.sources.base import Fingerprint, Source
from weighted_stream.sources.ids import check_id
from weighted_stream.sources.iterable import IterableSource
from weighted_stream.sources.keys import Column, IdFn, by, identify
from weighted_stream.sources.map_parts import map_parts
from weighted_stream.sources.parts import Part
from weighted_stream.sources.wrapping import Forwarding, Stateful, is_stateful

__all__ = ["Column", "IterableSource", "MapDataset", "MapSource", "resolve_subset"]

Rows: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]


def resolve_subset(data: Any) -> tuple[Any, Rows | None]:
    """The dataset under (nested) `Subset`, and the row there of each item; None where they agree."""
    rows: Rows | None = None
    while isinstance(data, Subset):
        base: Any = data.dataset
        indices = np.asarray(data.indices)
        if indices.size and indices.dtype.kind not in "iu":
            raise SourceError(
                "The indices of this Subset are no integers.",
                found=f"indices of dtype {indices.dtype}",
                expected="integers",
                do="build the Subset from integer positions",
            )
        indices = indices.astype(np.int64, copy=False)
        if indices.size and indices.min() < 0:
            indices = np.where(indices < 0, indices + len(base), indices)
        rows = indices if rows is None else indices[rows]
        data = base
    return data, rows


class MapDataset(Forwarding, Dataset[tuple[Any, Any]]):
    """A map-style dataset with ids: ``dataset[i]`` is ``(id, sample)``.

    Args:
        data: the user's dataset.
        id_fn: makes the id of a sample, or None for its row.
        rows: int64 array, the durable row of each index, or None where the index is the row.
    """

    def __init__(self, data: Any, id_fn: IdFn | None = None, rows: Rows | None = None) -> None:
        self._wrapped, self._id_fn, self._rows = data, id_fn, rows

    def __len__(self) -> int:
        return len(self._wrapped)

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        """``(id, sample)``; for several indices ``([id, ...], what the dataset returns for them)``."""
        sample = self._wrapped[index]
        several = self.several(index)
        if several is not None:
            return self._ids(several, sample), sample
        (number,) = self._ids([index], [sample])
        return int(number), sample

    def several(self, index: Any) -> list[Any] | None:
        """The indices in a list, slice, range, array or tensor; None if it is one index."""
        if isinstance(index, slice):
            index = range(len(self))[index]
        if isinstance(index, (np.ndarray, torch.Tensor)):
            return list(index.tolist()) if index.ndim == 1 else None
        return list(index) if isinstance(index, (list, range)) else None

    def __getitems__(self, indices: list[Any]) -> tuple[Rows | list[int], list[Any]]:
        """``(ids, [sample, ...])``, by the dataset's own ``__getitems__`` if it has one; ids an array or a list."""
        data = self._wrapped
        if type(indices) is not list and not hasattr(indices, "__len__"):
            indices = list(indices)  # torch goes through an iterator once
        if not hasattr(type(data), "__getitems__"):
            samples = [data[i] for i in indices]
            return self._ids(indices, samples), samples
        samples = data.__getitems__(indices)
        if isinstance(samples, (list, tuple)) and len(samples) != len(indices):
            raise SourceError(
                f"__getitems__ of {type(data).__name__} left samples out, so nobody knows which id is whose.",
                found=f"{len(samples)} samples",
                expected=f"{len(indices)}, one per index",
                do="return a sample for each index; filter the dataset before, or its batches after",
            )
        return self._ids(indices, samples), samples

    def _ids(self, indices: list[Any], samples: Any) -> Rows | list[int]:
        if self._id_fn is None:
            return self._durable_rows(indices)
        if isinstance(samples, (list, tuple)) and len(samples) == len(indices):
            ids = [identify(self._id_fn, sample, i) for i, sample in zip(indices, samples, strict=True)]
        else:
            ids = self._ids_of_batch(samples, len(indices))
        if len(set(ids)) < len(ids):
            self._refuse_shared_ids(ids, indices)
        return ids

    def _durable_rows(self, indices: Sequence[Any]) -> Rows | list[int]:
        try:
            # Runs for every batch: "Q" takes integers of any kind and refuses negative ones, at half of numpy's cost.
            rows = np.frombuffer(bytearray(pack(f"{len(indices)}Q", *indices)), np.int64)
        except error:
            return self._unusual_rows(indices)
        return rows if self._rows is None else self._rows[rows]

    def _unusual_rows(self, indices: Sequence[Any]) -> Rows | list[int]:
        """Of a sampler of string keys, or of indices that count from the end."""
        try:
            rows = np.array([i + len(self) if i < 0 else i for i in map(as_int, indices)], np.int64)
        except TypeError:
            return [check_id(i, "the sampler") for i in indices]
        if rows.min() < 0:
            check_id(int(rows.min()), "the sampler")
        return rows if self._rows is None else self._rows[rows]

    def repeats(self) -> bool:
        """Whether several indices are of one row: a `torch.utils.data.Subset` that repeats some."""
        return self._rows is not None and len(np.unique(self._rows)) < len(self._rows)

    def ids_drawn(self, indices: list[Any]) -> Rows | None:
        """The ids of what a sampler drew, (n,) int64; None if they are made of the samples."""
        return None if self._id_fn is not None else np.asarray(self._durable_rows(indices), np.int64)

    def ids_at(self, indices: Rows) -> Rows | None:
        """The ids of the samples at ``indices``, (n,) int64; None if they are made of the samples."""
        if self._id_fn is not None:
            return None
        return indices if self._rows is None else self._rows[indices]

    def _ids_of_batch(self, batch: Any, size: int) -> list[int]:
        """Of a batch that the dataset made itself: ``id_fn`` sees the batch, and gives one id per sample."""
        assert self._id_fn is not None
        values: Any = self._id_fn(batch)
        if isinstance(values, (torch.Tensor, np.ndarray)):
            values = values.tolist()
        if not isinstance(values, Sequence) or isinstance(values, (str, bytes)) or len(values) != size:
            raise SampleIdError(
                "id_fn did not give one id per sample of a batch that the dataset made itself.",
                found=f"{values!r}"[:200],
                expected=f"a sequence of {size} ids",
                do="make id_fn return one id per sample of its batch",
            )
        return [check_id(value, "id_fn") for value in values]

    def _refuse_shared_ids(self, ids: list[int], indices: list[Any]) -> None:
        """One row drawn twice may repeat its id; two rows may not share one."""
        first: dict[int, tuple[int, Any]] = {}
        for number, row, index in zip(ids, list(self._durable_rows(indices)), indices, strict=True):
            other_row, other_index = first.setdefault(number, (row, index))
            if other_row != row:
                raise SampleIdError(
                    "id_fn gives two samples the same id.",
                    found=f"id {number} for index {other_index} and for index {index}",
                    expected="one id per sample",
                    do="use a key that is unique, or leave id_fn out: the index is the id then",
                )


class _StatefulMapDataset(Stateful, MapDataset):
    pass


class MapSource(Source):
    """A map-style dataset or a plain sequence: a sample's id is its index, or what ``id_fn`` makes of it.

    So ids are stable as long as the order of the dataset is; pass ``id_fn`` where samples carry a key. A
    `torch.utils.data.Subset` (`random_split`) keeps the ids of the dataset it is a part of.

    Args:
        data: list, tuple, array, or dataset with ``__getitem__``; ``__getitems__`` is used if there is one.
        id_fn: sample -> int or str, unique per sample.

    Raises:
        SourceError: if the dataset is empty.

    Example:
        >>> MapSource(["a", "b", "c"]).dataset.__getitems__([2, 0])
        (array([2, 0]), ['c', 'a'])
    """

    def __init__(self, data: Any, id_fn: IdFn | None = None) -> None:
        self._base, rows = resolve_subset(data)
        if hasattr(data, "__len__") and len(data) == 0:
            raise empty(data)
        kind = _StatefulMapDataset if is_stateful(data) else MapDataset
        self._data, self._id_fn, self._dataset = data, id_fn, kind(data, id_fn, rows)

    @staticmethod
    def matches(data: Any) -> bool:
        """Whether ``data`` is read by index: a map-style dataset, a sequence, an array."""
        if isinstance(data, (IterableDataset, Mapping, str, bytes)) or _from_pandas(data):
            return False
        if isinstance(data, Dataset):
            return True
        return hasattr(data, "__getitem__") and hasattr(data, "__len__")

    @property
    def dataset(self) -> MapDataset:
        """The dataset with ids."""
        return self._dataset

    def fingerprint(self) -> Fingerprint:
        """Class and size of the dataset; no size with ``id_fn``, as such ids stay when the dataset grows."""
        sized = self._id_fn is None and hasattr(self._base, "__len__")
        name = type(self._base).__qualname__ + by(self._id_fn)
        return Fingerprint("torch-map", name, len(self._base) if sized else None)

    def parts(self, shuffle_seed: int | None = None) -> Iterator[Part]:
        """Runs of 4,096 samples, ascending or in the order that a shuffling loader draws from ``shuffle_seed``.

        Every rank gets them all: which of them it needs is known to the loader's sampler only.

        Raises:
            SourceError: for a dataset without a length.
        """
        return map_parts(self._dataset, shuffle_seed) if hasattr(self._data, "__len__") else super().parts()

    def set_epoch(self, epoch: int) -> None:
        """Forwarded to the dataset if it has ``set_epoch``."""
        if hasattr(self._data, "set_epoch"):
            self._data.set_epoch(epoch)

    def set_shuffle(self, seed: int) -> None:
        """Nothing to tell: the loader's sampler shuffles."""


def _from_pandas(data: Any) -> bool:
    return any(kind.__module__.partition(".")[0] == "pandas" for kind in type(data).__mro__)


def empty(data: Any) -> SourceError:
    """The error for a dataset without samples."""
    return SourceError(
        f"This {type(data).__name__} is empty.",
        found="0 samples",
        expected="at least one",
        do="check the path or the filter it was made with",
    )
