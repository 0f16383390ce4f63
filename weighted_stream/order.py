"""The order of a stream's loaders: a function of seed and epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import RandomSampler

from weighted_stream.sources.base import Source


class Order:
    """What has to be seeded when an epoch begins.

    Args:
        seed: of all epochs.
        generators: ours; a user's own are left alone.
        drawn: whether one of them draws the order of the samples.
    """

    def __init__(self, seed: int, generators: list[torch.Generator], drawn: bool) -> None:
        self._seed, self._generators, self._drawn = seed, generators, drawn

    def begin(self, epoch: int) -> int | None:
        """Seed the generators; the seed that the order of the epoch is drawn from, if it is."""
        seed = epoch_seed(self._seed, epoch)
        for generator in self._generators:
            generator.manual_seed(seed)
        return seed if self._drawn else None


def epoch_seed(seed: int, epoch: int) -> int:
    """One 63-bit seed for each pair of seed and epoch."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> 1)


def set_order(source: Source, arguments: dict[str, Any], seed: int, *, ours: bool) -> Order:
    """Set up ``shuffle=True`` and the generators, among the arguments of a loader.

    Args:
        source: what is read.
        arguments: of a `DataLoader`; changed.
        seed: of the order with ``shuffle=True``, and of the workers.
        ours: whether the loader is; one that was wrapped keeps its own generator, as it does one among the arguments.

    Raises:
        SourceError: for shuffling of a dataset that cannot be reordered from outside.
    """
    if not ours or arguments.get("generator") is not None:
        _set_shuffle(source, arguments, seed, arguments.get("generator"))
        return Order(seed, [], False)
    # One for the workers' seeds, one for the order: torch does not draw the first in each epoch of workers that stay.
    arguments["generator"], order = torch.Generator(), torch.Generator()
    return Order(seed, [arguments["generator"], order], _set_shuffle(source, arguments, seed, order))


def _set_shuffle(source: Source, arguments: dict[str, Any], seed: int, order: torch.Generator | None) -> bool:
    """Whether the generator will draw the order."""
    shuffle = arguments.pop("shuffle", None)
    if shuffle and source.iterable:
        source.set_shuffle(seed)
    elif shuffle and (arguments.get("sampler") is not None or arguments.get("batch_sampler") is not None):
        arguments["shuffle"] = True  # torch has a clear error for this
    elif shuffle:
        dataset: Any = source.dataset
        arguments["sampler"] = RandomSampler(dataset, generator=order)
        return True
    return False
