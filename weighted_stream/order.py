"""The order of a stream's loaders: a function of seed and epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import RandomSampler

from weighted_stream.errors import StateError
from weighted_stream.sources.base import Source


class Order:
    """What has to be seeded when an epoch begins.

    Args:
        seed: of all epochs.
        generators: ours; a user's own are left alone.
        drawn: whether one of them draws the order of the samples.
        theirs: the user's, torch's own among them, where they may draw the order.
    """

    def __init__(
        self,
        seed: int,
        generators: Sequence[torch.Generator] = (),
        drawn: bool = False,
        theirs: Sequence[torch.Generator] = (),
    ) -> None:
        self._seed, self._generators, self._drawn, self._theirs = seed, generators, drawn, theirs

    def begin(self, epoch: int) -> int | None:
        """Seed the generators; the seed that the order of the epoch is drawn from, if it is."""
        seed = epoch_seed(self._seed, epoch)
        for generator in self._generators:
            generator.manual_seed(seed)
        return seed if self._drawn else None

    def apart(self, epoch: int) -> torch.Generator:
        """For the seeds of workers, where no other generator may be asked: torch asks once for those that it keeps."""
        return torch.Generator().manual_seed(epoch_seed(self._seed, epoch))

    def random_state(self) -> list[Tensor]:
        """The states of the user's generators: with them, an epoch that begins is the same once more."""
        return [generator.get_state() for generator in self._theirs]

    def set_own_state(self, states: Sequence[Tensor]) -> None:
        """Put the user's generators to where they were when an epoch ended; torch's own is the trainer's to restore."""
        if len(states) == len(self._theirs):
            for generator, state in zip(self._theirs, states, strict=True):
                if generator is not torch.default_generator:
                    generator.set_state(state.cpu())  # torch.load may have put it elsewhere

    def set_random_state(self, states: Sequence[Tensor]) -> None:
        """Put the user's generators back to where they were.

        Raises:
            StateError: if there were others.
        """
        if len(states) != len(self._theirs):
            raise StateError(
                "The order of this loader comes from other generators than that of the state.",
                found=f"{len(self._theirs)} generators of yours",
                expected=f"{len(states)}",
                do="make the loader with the same generator= and sampler=",
            )
        for generator, state in zip(self._theirs, states, strict=True):
            generator.set_state(state.cpu())


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
    theirs = _theirs(arguments)
    if not ours or arguments.get("generator") is not None:
        _set_shuffle(source, arguments, seed, arguments.get("generator"))
        return Order(seed, theirs=theirs)
    # One for the workers' seeds, one for the order: torch does not draw the first in each epoch of workers that stay.
    arguments["generator"], order = torch.Generator(), torch.Generator()
    sampled = arguments.get("sampler") is not None or arguments.get("batch_sampler") is not None
    drawn = _set_shuffle(source, arguments, seed, order)
    return Order(seed, [arguments["generator"], order], drawn, theirs if sampled or source.iterable else ())


def _theirs(arguments: dict[str, Any]) -> list[torch.Generator]:
    batch_sampler = arguments.get("batch_sampler")
    samplers = (arguments.get("sampler"), batch_sampler, getattr(batch_sampler, "sampler", None))
    found = [
        arguments.get("generator"),
        *(getattr(one, "generator", None) for one in samplers),
        torch.default_generator,
    ]
    return list({id(one): one for one in found if isinstance(one, torch.Generator)}.values())


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
