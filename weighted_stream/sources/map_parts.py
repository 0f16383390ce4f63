"""Map-style datasets in parts: runs of the order in which a loader asks for the samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from weighted_stream.sources.parts import Part
from weighted_stream.sources.unreadable import naming

if TYPE_CHECKING:
    from weighted_stream.sources.torch import MapDataset

BLOCK = 4096
"""Samples per part."""


def loader_order(size: int, seed: int) -> NDArray[np.int64]:
    """The order of ``size`` samples that torch's `RandomSampler` draws from a generator seeded with ``seed``.

    Example:
        >>> from torch.utils.data import RandomSampler
        >>> generator = torch.Generator().manual_seed(3)
        >>> loader_order(5, 3).tolist() == list(RandomSampler(range(5), generator=generator))
        True
    """
    generator = torch.Generator().manual_seed(seed)
    order: NDArray[np.int64] = torch.randperm(size, generator=generator, device="cpu").numpy()
    return order


def blocks(size: int, shuffle_seed: int | None) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Name and indices of each part.

    Args:
        size: of the dataset.
        shuffle_seed: of the sampler's generator; None: ascending.

    Example:
        >>> [(name, len(indices)) for name, indices in blocks(5000, None)]
        [('rows 0 to 4095', 4096), ('rows 4096 to 4999', 904)]
    """
    order = None if shuffle_seed is None else loader_order(size, shuffle_seed)
    kind = "rows" if order is None else "shuffled rows"
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        yield f"{kind} {start} to {stop - 1}", np.arange(start, stop) if order is None else order[start:stop]


class MapPart(Part):
    """Some samples of a map-style dataset, one by one as ``dataset[i]`` gives them.

    Args:
        dataset: with ids.
        indices: (n,) int64, which samples.
        name: of the part.
    """

    def __init__(self, dataset: MapDataset, indices: NDArray[np.int64], name: str) -> None:
        self._dataset, self._indices, self.name = dataset, indices, name

    def ids(self) -> NDArray[np.int64] | None:
        """The ids, unless an ``id_fn`` makes them of the samples."""
        return self._dataset.ids_at(self._indices)

    def read(self, wanted: NDArray[np.bool_] | None = None) -> Iterator[tuple[int, Any]]:
        """``(id, dataset[i])``."""
        indices = self._indices if wanted is None else self._indices[wanted]
        for index in indices.tolist():
            with naming(f"sample {index} of this dataset ({self.name})"):
                item = self._dataset[index]
            yield item


def map_parts(dataset: MapDataset, shuffle_seed: int | None) -> Iterator[Part]:
    """The parts of a map-style dataset with ids, in the order of the loader."""
    for name, indices in blocks(len(dataset), shuffle_seed):
        yield MapPart(dataset, indices, name)
