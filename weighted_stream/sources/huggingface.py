"""Hugging Face datasets: a row of a table is identified by its number, a streamed one by a key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from weighted_stream.errors import SourceError
from weighted_stream.sources.base import Fingerprint, Source
from weighted_stream.sources.huggingface_files import check_files, files_of, samples_of
from weighted_stream.sources.huggingface_parts import huggingface_parts
from weighted_stream.sources.ids import key_id
from weighted_stream.sources.iterable import TaggedIterable, tag
from weighted_stream.sources.keys import IdFn, by, no_key
from weighted_stream.sources.parts import Part
from weighted_stream.sources.torch import MapDataset, Rows, empty, resolve_subset


class HuggingFaceSource(Source):
    """A `datasets.Dataset`, by row, or a `datasets.IterableDataset`, by column or ``id_fn``.

    **Dataset**: the id is the row of the Arrow table under it, so a row keeps its id through ``shuffle``,
    ``sort``, ``filter``, ``select`` of scattered rows and the shuffled ``train_test_split``, and in a torch
    `Subset`. In ``concatenate_datasets`` and ``interleave_datasets`` it is the row of the parts one after the
    other. A contiguous part (``select(range(a, b))``, ``take``, ``skip``, ``shard``, an unshuffled
    ``train_test_split``, ``split="train[:10%]"``) and what ``map`` returns are tables of their own, whose
    rows count from 0: a store tells them from the whole and refuses them. Where parts must share ids, and so
    with ``split_dataset_by_node``, give the rows a key and pass it as ``id_fn``.

    **IterableDataset**: a streamed row has no place that is the same in each epoch and for each worker count,
    so a key is required. What ``interleave_datasets`` or ``concatenate_datasets`` repeats keeps its id. The
    dataset splits itself over workers, and over ranks with ``datasets.distributed.split_dataset_by_node``.

    Args:
        data: the dataset, or a `torch.utils.data.Subset` of a `datasets.Dataset`.
        id_fn: row -> int or str, unique per row.

    Raises:
        SourceError: for a `DatasetDict`, or a dataset without rows.
        SampleIdError: for an `IterableDataset` without ``id_fn``.

    Example:
        >>> import datasets
        >>> words = datasets.Dataset.from_dict({"text": ["a", "b", "c"]})
        >>> HuggingFaceSource(words.select([2, 0])).dataset[0]
        (2, {'text': 'c'})
    """

    def __init__(self, data: Any, id_fn: IdFn | None = None) -> None:
        self._base, rows = resolve_subset(data)
        self._id_fn, self._rows, self._looked = id_fn, rows, False
        self._dataset: MapDataset | TaggedIterable
        kind = _kind(self._base)
        if kind in ("DatasetDict", "IterableDatasetDict"):
            splits = list(self._base)
            raise SourceError(
                f"A {kind} is several datasets.",
                found=f"the splits {splits}",
                expected="one of them",
                do=f"pass data[{splits[0]!r}]" if splits else "load the dataset again",
            )
        if kind == "IterableDataset":
            if id_fn is None:
                raise no_key("datasets.IterableDataset")
            self._dataset = tag(data, id_fn, samples_of)
        else:
            if not len(data):
                raise empty(data)
            self._dataset = MapDataset(data, id_fn, _compose(_table_rows(self._base), rows))

    @staticmethod
    def matches(data: Any) -> bool:
        """Whether ``data`` is of the package ``datasets``, which is not imported for the answer."""
        return _kind(resolve_subset(data)[0]) is not None

    @property
    def dataset(self) -> Dataset[Any]:
        """The dataset with ids."""
        return self._dataset

    def fingerprint(self) -> Fingerprint:
        """Columns, size, first and last row of the table; with ``id_fn`` only what makes the ids."""
        if self._id_fn is not None:
            return Fingerprint("huggingface", by(self._id_fn).strip())
        table = self._base._data
        ends = [table.slice(row, 1).to_pydict() for row in (0, table.num_rows - 1)]
        name = f"{','.join(sorted(table.column_names))} #{key_id(repr(ends)) & 0xFFFFFFFF:08x}"
        return Fingerprint("huggingface", name, table.num_rows)

    def parts(self, shuffle_seed: int | None = None) -> Iterator[Part]:
        """Runs of 4,096 rows in the order of the loader, as the table has them: without ``set_format`` and transforms.

        Every rank gets them all: which of them it needs is known to the loader's sampler only.

        Raises:
            SourceError: for an `IterableDataset`.
        """
        if isinstance(self._dataset, TaggedIterable):
            return super().parts()
        return huggingface_parts(self._dataset, self._base, self._rows, shuffle_seed)

    def check(self) -> None:
        """Look once at the local files of an `IterableDataset`; those listed twice, empty or copied are warned of.

        Raises:
            SourceError: naming one that is not there.
        """
        if isinstance(self._dataset, TaggedIterable) and not self._looked:
            self._looked = True
            check_files(files_of(self._base))

    def set_epoch(self, epoch: int) -> None:
        """Forwarded to an `IterableDataset`, whose running workers see it too."""
        if isinstance(self._dataset, TaggedIterable):
            self._base.set_epoch(epoch)

    def set_shuffle(self, seed: int) -> None:
        """Nothing to tell a `Dataset`: the loader's sampler shuffles.

        Raises:
            SourceError: for an `IterableDataset`, which has ``.shuffle(seed, buffer_size)``.
        """
        if isinstance(self._dataset, TaggedIterable):
            super().set_shuffle(seed)


_KINDS = ("DatasetDict", "IterableDatasetDict", "IterableDataset", "Dataset")


def _kind(data: Any) -> str | None:
    for kind in type(data).__mro__:
        if kind.__module__.partition(".")[0] == "datasets" and kind.__name__ in _KINDS:
            return kind.__name__
    return None


def _table_rows(data: Any) -> Rows | None:
    """The row of the table per item of a `datasets.Dataset`; None where they agree."""
    if data._indices is None:
        return None
    rows: np.ndarray[Any, Any] = data._indices.column(0).to_numpy()
    return rows.astype(np.int64)


def _compose(outer: Rows | None, inner: Rows | None) -> Rows | None:
    if outer is None or inner is None:
        return inner if outer is None else outer
    return outer[inner]
