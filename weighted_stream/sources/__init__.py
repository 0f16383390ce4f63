"""Who gives a sample its id: one file per kind of dataset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from weighted_stream.errors import SampleIdError, SourceError
from weighted_stream.sources.base import Source
from weighted_stream.sources.huggingface import HuggingFaceSource
from weighted_stream.sources.mds import MDSSource
from weighted_stream.sources.parquet import ParquetSource
from weighted_stream.sources.torch import Column, IterableSource, MapSource
from weighted_stream.sources.webdataset import WebDatasetSource

_SOURCES: tuple[type[Any], ...] = (
    MDSSource,
    WebDatasetSource,
    HuggingFaceSource,
    ParquetSource,
    MapSource,
    IterableSource,
)


def source_for(data: Any, id_fn: str | Callable[[Any], int | str] | None = None) -> Source:
    """The source that knows this dataset.

    Args:
        data: a dataset.
        id_fn: the name of a column, or a function sample -> int or str; None: the source's own way.

    Raises:
        SourceError: if no source does.
        SampleIdError: if ``id_fn`` is neither.
    """
    if id_fn is not None and not isinstance(id_fn, str) and not callable(id_fn):
        raise SampleIdError(
            "id_fn does not say who a sample is.",
            found=repr(id_fn),
            expected="the name of a column, or a function sample -> int or str",
            do='for example id_fn="uid", or id_fn=content_id',
        )
    for source in _SOURCES:
        if source.matches(data):
            found: Source = source(data, Column(id_fn) if isinstance(id_fn, str) else id_fn)
            return found
    raise SourceError(
        "WeightedStream does not know how to read this.",
        found=type(data).__name__,
        expected="a torch dataset or DataLoader, a list, a MosaicML StreamingDataset, a WebDataset, a ParquetDataset "
        "or a Hugging Face dataset",
        do="wrap it in a torch Dataset or IterableDataset",
    )
