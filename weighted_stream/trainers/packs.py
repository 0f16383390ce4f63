"""Packs: rows of several samples, whose tokens keep the ids of the samples that they are of."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import IterableDataset

from weighted_stream.collate import SAMPLE_ID
from weighted_stream.errors import SourceError
from weighted_stream.sources import source_for
from weighted_stream.sources.keys import identify


def packed(prepare: Callable[[Any, Any], Any], dataset: Any, args: Any, id_fn: Any) -> Any:
    """A dataset, prepared and packed as TRL's SFTTrainer does it, with the id of each token in ``sample_id``.

    Args:
        prepare: the SFTTrainer's own preparation of a dataset, by these arguments, without packing.
        dataset: of samples, as it was given.
        args: the SFTConfig, with ``packing=True``.
        id_fn: see `WeightedStream`.

    Raises:
        SampleIdError: for a dataset that is read in order, without ``id_fn``.
    """
    from trl import pack_dataset  # type: ignore[attr-defined, unused-ignore]

    whole = copy.copy(args)
    whole.max_length, whole.packing, whole.shuffle_dataset = None, False, False  # packing cuts, and shuffles before
    on_many = {"num_proc": args.dataset_num_proc} if hasattr(dataset, "__len__") else {}
    with args.main_process_first():  # the others find it in the cache
        named = _with_ids(dataset, id_fn)
    samples = prepare(named, whole)
    with args.main_process_first():
        samples = samples.map(_an_id_each, **on_many).select_columns(["input_ids", "labels", SAMPLE_ID])
        if args.shuffle_dataset:
            samples = samples.shuffle(seed=args.seed)
        packs = pack_dataset(samples, args.max_length, args.packing_strategy, dict(on_many))
        return packs.shuffle(seed=args.seed) if args.shuffle_dataset else packs


def are_packs(dataset: Any) -> bool:
    """Whether the rows of this dataset say by themselves whose each of their tokens is.

    Example:
        >>> are_packs([{"input_ids": [4, 5, 6], "sample_id": [0, 0, 1]}]), are_packs([{"input_ids": [4]}])
        (True, False)
    """
    features = getattr(dataset, "features", None)
    if features is not None:
        return type(features.get(SAMPLE_ID)).__name__ in ("List", "LargeList", "Sequence")
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__") or not len(dataset):
        return False  # torch's own have a __getitem__, all of them
    first = dataset[0]
    return isinstance(first, dict) and hasattr(first.get(SAMPLE_ID), "__len__")


def _with_ids(dataset: Any, id_fn: Any) -> Any:
    """The dataset with a column of ids."""
    if SAMPLE_ID in (dataset.column_names or ()):
        raise SourceError(
            f"The dataset has a column {SAMPLE_ID!r} already.",
            found=f"columns {sorted(dataset.column_names)}",
            expected="none of that name, as the ids of the samples get it",
            do='rename it, and name it in id_fn="…" if it says who a sample is',
        )
    source = source_for(dataset, id_fn)
    if hasattr(dataset, "__len__") and id_fn is None:
        rows: Any = source.dataset
        return dataset.map(_Numbered(rows.ids_at(np.arange(len(dataset)))), with_indices=True)
    keyed: Any = source.dataset
    return dataset.map(_Keyed(keyed._id_fn))


class _Numbered:
    """A row with its id, by its index."""

    def __init__(self, ids: NDArray[np.int64]) -> None:
        self._ids = ids

    def __call__(self, row: Any, index: int) -> dict[str, int]:
        return {SAMPLE_ID: int(self._ids[index])}


class _Keyed:
    """A row with its id, from inside of it."""

    def __init__(self, id_fn: Any) -> None:
        self._id_fn = id_fn

    def __call__(self, row: Any) -> dict[str, int]:
        return {SAMPLE_ID: identify(self._id_fn, row, "that is packed")}


def _an_id_each(row: Any) -> dict[str, list[int]]:
    return {SAMPLE_ID: [row[SAMPLE_ID]] * len(row["input_ids"])}
