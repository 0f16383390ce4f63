"""Reading: how one loader of a stream reads its epochs, and the rest of one that was begun elsewhere."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from weighted_stream.order import Order
from weighted_stream.position import Layout, Position, refuse_other_order
from weighted_stream.rebuild import rebuild
from weighted_stream.rest import Chunks, Rest, Undelivered, weighed
from weighted_stream.sources.base import Source
from weighted_stream.sources.whole import ended_early, lacking

MAY_CHANGE = ("batch_size", "drop_last", "workers")
"""What a loader may do differently from the one whose epoch it finishes."""


class Reading:
    """Makes a loader's batches with ids, ``(ids, batch)``, epoch by epoch.

    Args:
        source: what is read.
        kind: the class of the loader.
        arguments: of the loader, complete.
        order: what is seeded when an epoch begins.
        layout: what the order of its batches depends on.
        around: what goes around the loader inside.
        counts: whether what is around it hands on every sample, once.
    """

    def __init__(
        self,
        source: Source,
        kind: type[DataLoader[Any]],
        arguments: dict[str, Any],
        order: Order,
        layout: Layout,
        around: Callable[[Any], Any],
        counts: bool,
    ) -> None:
        self._source, self._kind, self._arguments = source, kind, arguments
        self._order, self._layout, self._around, self._counts = order, layout, around, counts
        arguments = dict(arguments)
        dataset, self.batching = self._batches(arguments)
        self.loader = self._build(dataset, arguments)

    def begin(self, epoch: int, step: int) -> tuple[int | None, Position, Iterable[Any]]:
        """The epoch's order seed, its position, and its batches."""
        order_seed = self._order.begin(epoch)
        return order_seed, Position(epoch, self._layout, step, self._order.random_state()), self.loader

    def resume(self, position: Position, step: int, store: Chunks) -> tuple[int | None, Iterable[Any]]:
        """The order seed of an epoch that was begun elsewhere, and the batches that are left of it.

        Args:
            position: where it stands; brought up to date if this loader makes its batches in another way.
            step: how many batches the stream has weighed.
            store: knows what was weighed in this epoch.

        Raises:
            StateError: if they come in another order.
        """
        changed = self._layout.differs(position.layout)
        if not set(changed) <= set(MAY_CHANGE):
            raise refuse_other_order(self._layout, position.layout, changed)
        if changed and self._source.iterable:
            position.filtered, position.batches = step, 0
        position.layout = self._layout
        return self._order.begin(position.epoch), self._remaining(position, store)

    def check_whole(self, position: Position, step: int, store: Chunks) -> None:
        """Nothing ends an epoch early in silence.

        Args:
            position: at the end of the loader's epoch.
            step: see `resume`.
            store: see `resume`.

        Raises:
            SourceError: if the loader gave out before the dataset did, naming what was not delivered whole.
        """
        least = self._source.least() if self._counts and position.filtered is None else None
        if least is None:
            return
        layout = self._layout
        if layout.drop_last:
            least -= ((layout.batch_size or 1) - 1) * max(1, layout.workers)
        if position.samples < least:
            shards = self._source.fingerprint().shards if layout.ranks == 1 else {}
            short = lacking(shards, weighed(store, position.first_step, step))
            raise ended_early(position.epoch, position.samples, least, shards, short)

    def _remaining(self, position: Position, store: Chunks) -> Iterator[Any]:
        generators = torch.default_generator.get_state(), random.getstate(), np.random.get_state()
        self._order.set_random_state(position.random)
        items = self._source_items(position, store)
        first = next(items, None)
        # What came before was drawn in the run before: the random state of this one is not to move by it.
        torch.default_generator.set_state(generators[0])
        random.setstate(generators[1])
        np.random.set_state(generators[2])
        if first is not None:
            yield first
            yield from items

    def _source_items(self, position: Position, store: Chunks) -> Iterator[Any]:
        dataset: Any = self._source.dataset
        arguments = {**self._arguments, "persistent_workers": False}
        if not self._source.iterable:
            name = "sampler" if arguments.get("batch_sampler") is None else "batch_sampler"
            drawn = position.samples if name == "sampler" else position.batches
            arguments[name] = Rest(arguments.get(name) or SequentialSampler(dataset), drawn)
            return iter(self._build(dataset, arguments))
        if position.filtered is None:
            dataset, _ = self._batches(arguments)
        else:
            dataset = self._undelivered(position, position.filtered, store)
        return islice(iter(self._build(dataset, arguments)), position.batches, None)

    def _undelivered(self, position: Position, filtered: int, store: Chunks) -> Undelivered:
        delivered = weighed(store, position.first_step, filtered)
        if not position.batches and len(delivered) < position.samples:
            warnings.warn(
                f"{position.samples - len(delivered)} samples of epoch {position.epoch} were read but not weighed, or "
                "more than once. The rest of the epoch, read by a loader that makes its batches differently, has the "
                f"former again, and none of the {len(delivered)} that were weighed.",
                RuntimeWarning,
                stacklevel=2,
            )
        return Undelivered(self._source.dataset, delivered)

    def _batches(self, arguments: dict[str, Any]) -> tuple[Dataset[Any], dict[str, Any]]:
        """The dataset, in whole batches where the source makes them: then with the arguments that they take over."""
        batching = {"batch_size": arguments.get("batch_size", 1), "drop_last": bool(arguments.get("drop_last"))}
        size = batching["batch_size"]
        plain = self._kind is DataLoader and self._source.iterable and size
        whole = self._source.batches(size, batching["drop_last"]) if plain else None
        if whole is None:
            return self._source.dataset, {}
        arguments |= {"batch_size": None, "drop_last": False}
        return whole, batching

    def _build(self, dataset: Any, arguments: dict[str, Any]) -> Any:
        return self._around(rebuild(self._kind, dataset, arguments))
