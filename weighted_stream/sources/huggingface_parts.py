"""Hugging Face datasets in parts: rows of the table as they are stored, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weighted_stream.sources.map_parts import MapPart, blocks
from weighted_stream.sources.parts import Part
from weighted_stream.sources.torch import MapDataset, Rows
from weighted_stream.sources.unreadable import naming

# Rows asked for at once: one row costs some ten microseconds more by itself.
CHUNK = 256


class HuggingFacePart(MapPart):
    """Some rows of a `datasets.Dataset`, without the format and the transform that were set on it.

    Args:
        dataset: with ids.
        indices: (n,) int64, which samples of it.
        name: of the part.
        table: the `datasets.Dataset` to read, as stored.
        rows: the row there of each sample of ``dataset``; None where they agree.
    """

    def __init__(
        self, dataset: MapDataset, indices: NDArray[np.int64], name: str, table: Any, rows: Rows | None
    ) -> None:
        super().__init__(dataset, indices, name)
        self._table, self._rows = table, rows

    def read(self, wanted: NDArray[np.bool_] | None = None) -> Iterator[tuple[int, Any]]:
        """``(id, row)``; ids that are made of samples are made of those that the trainer sees."""
        indices = self._indices if wanted is None else self._indices[wanted]
        for start in range(0, len(indices), CHUNK):
            chunk = indices[start : start + CHUNK]
            with naming(f"this dataset ({self.name})"):
                rows = self._table.__getitems__((chunk if self._rows is None else self._rows[chunk]).tolist())
                known = self._dataset.ids_at(chunk)
                ids = [*self._dataset.__getitems__(chunk.tolist())[0]] if known is None else known.tolist()
            yield from zip(ids, rows, strict=True)


def huggingface_parts(dataset: MapDataset, base: Any, rows: Rows | None, shuffle_seed: int | None) -> Iterator[Part]:
    """The parts of a `datasets.Dataset` with ids, in the order of the loader.

    Args:
        dataset: with ids.
        base: the `datasets.Dataset` under it, with whatever format.
        rows: the row of ``base`` of each sample; None where they agree.
        shuffle_seed: of the loader's generator, if it shuffles.
    """
    table = base.with_format(None)
    for name, indices in blocks(len(dataset), shuffle_seed):
        yield HuggingFacePart(dataset, indices, name, table, rows)
