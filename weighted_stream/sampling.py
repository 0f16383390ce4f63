"""How a loader of a map-style dataset draws: samples or batches, by a sampler of the user's or in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.data import SequentialSampler

from weighted_stream.drawn import Drawn, IndicesIn, of_a_batch, of_a_sample


class Sampling:
    """What the arguments of a loader say of its drawing.

    Args:
        arguments: of a `DataLoader`, complete.
        dataset: with ids: a `MapDataset`.

    Attributes:
        name: of the argument that the sampler is.
        given: whether there is one.
        sampler: it, or one that draws in order.
        indices_in: what is in an item of it.
    """

    def __init__(self, arguments: Mapping[str, Any], dataset: Any) -> None:
        whole, size = arguments.get("batch_sampler") is not None, arguments.get("batch_size", 1)
        self.name = "batch_sampler" if whole else "sampler"
        self.given = arguments.get(self.name) is not None
        self.sampler: Any = arguments[self.name] if self.given else SequentialSampler(dataset)
        self.indices_in: IndicesIn = of_a_batch if whole else of_a_sample if size is not None else dataset.several
        self._items = 1 if whole or size is None else int(size)

    def remembered(self, sampler: Any) -> Drawn:
        """A sampler in place of the user's that remembers what it draws."""
        return Drawn(sampler, self.indices_in, self._items)
