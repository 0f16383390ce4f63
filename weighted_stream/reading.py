"""Reading: how one loader of a stream reads its epochs, and the rest of one that was begun elsewhere."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from weighted_stream.collate import ids_of
from weighted_stream.drawn import Drawn, digest_of_keys
from weighted_stream.order import Order
from weighted_stream.position import Layout, Position, digest_of, drawn_differently, ids_unknown, refuse_other_order
from weighted_stream.rebuild import rebuild
from weighted_stream.rest import Chunks, First, Rest, Undelivered, Undrawn, draws_again, up_to, weighed
from weighted_stream.sampling import Sampling
from weighted_stream.sources.base import Recurs, Source
from weighted_stream.sources.webdataset_epochs import repeats, samples_of_epoch, sizes_known
from weighted_stream.sources.whole import ended_early, lacking
from weighted_stream.watching import Watch

RANKS = ("rank", "ranks")
MAY_CHANGE = ("batch_size", "drop_last", "workers", "in_order", *RANKS)
"""What a loader may do differently from the one whose epoch it finishes."""

UNWEIGHED = "What was weighed is left out of the rest of the epoch, which is in an order of its own."
LEFT: dict[Recurs | None, str] = {
    "again": "Samples come more than once in an epoch of this dataset: each that was weighed is left out of the rest "
    "once, by each reader, however often it came. The rest, in an order of its own, may lack some repeats, or have "
    "more of them.",
    "drawn": "Samples are drawn, and may come more than once in an epoch: none is left out of the rest, which is in an "
    "order of its own, so those that were weighed may come again.",
}
"""What is left of an epoch in another order; otherwise what was not weighed."""


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
        reorders: whether its collate function may change the order of the samples.
        watch: over its batches.
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
        reorders: bool,
        watch: Watch,
    ) -> None:
        self._watch = watch
        self._source, self._kind, self._arguments = source, kind, arguments
        self._order, self._layout, self._around = order, layout, around
        self._counts, self._reorders = counts, reorders
        arguments = dict(arguments)
        rows: Any = source.dataset
        self._sampling = None if source.iterable else Sampling(arguments, rows)
        self._sampler: Drawn | None = None
        if self._sampling is not None and self._sampling.given and (reorders or rows.ids_drawn([]) is None):
            arguments[self._sampling.name] = self._sampler = self._sampling.remembered(self._sampling.sampler)
        dataset, self.batching = self._batches(arguments)
        self.loader = self._build(dataset, arguments)
        self._keeps_workers = bool(arguments.get("persistent_workers")) and not source.iterable
        self._elsewhere = False
        """Whether workers that are kept would be there, had the epochs before not been in another process."""

    def begin(self, epoch: int, step: int, random: Sequence[Tensor] = ()) -> tuple[int | None, Position, Iterable[Any]]:
        """The epoch's order seed, its position, and its batches; ``random`` as the epoch before left it."""
        order_seed = self._order.begin(epoch)
        self._order.set_own_state(random)
        here = getattr(self.loader, "_iterator", None) is not None
        self._elsewhere = self._elsewhere or bool(random)
        kept = self._keeps_workers and (here or self._elsewhere)
        if kept and not here:
            self.loader.generator = self._order.apart(epoch)
        position = Position(
            epoch, self._layout, step, self._order.random_state(), kept_workers=kept, sampler=self._sampler
        )
        return order_seed, position, self._watch.over(self.loader)

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
        elsewhere = not set(changed).isdisjoint(RANKS)
        mixed = not position.layout.in_order and not self._source.iterable
        # What came again since then is no longer known to have been weighed before.
        anew = position.filtered is not None and self._recurs == "again"
        if (changed and (self._source.iterable or elsewhere)) or anew or mixed:
            position.filter(step)
            if self._recurs in LEFT:
                text = f"Epoch {position.epoch} goes on in another order than it began in. {LEFT[self._recurs]}"
                warnings.warn(text, RuntimeWarning, stacklevel=4)
        position.layout, self._elsewhere = self._layout, True
        order_seed = self._order.begin(position.epoch)
        with trainers_random_state():
            self._order.set_random_state(position.random)
            if self._source.iterable:
                rest = self._iterable_rest(position, step, store)
            elif position.filtered is None:
                rest = self._drawn_rest(position)
            else:
                position.filter(step)
                rest = self._undrawn(position, step, store)
        return order_seed, rest

    def end(self, position: Position, step: int, store: Chunks) -> None:
        """The loader has come to the end of its epoch. Nothing ends one early in silence.

        Args:
            position: where it stands; over, now.
            step: see `resume`.
            store: see `resume`.

        Raises:
            SourceError: if the loader gave out before the dataset did, naming what was not weighed whole.
        """
        position.over, position.random = True, self._order.random_state()
        least = self._source.least() if self._counts and position.filtered is None else None
        if least is None:
            return
        layout = self._layout
        least -= self._watch.lacking
        if layout.drop_last:
            least -= ((layout.batch_size or 1) - 1) * max(1, layout.workers)
        if position.drawn < least:
            shards = self._source.fingerprint().shards if layout.ranks == 1 else {}
            short = lacking(shards, weighed(store, position.first_step, step))
            raise ended_early(position.epoch, position.drawn, least, shards, short)

    def _drawn_rest(self, position: Position) -> Iterator[Any]:
        """The batches that are left of what a sampler draws."""
        assert self._sampling is not None
        arguments, sampling = self._arguments_of_rest(position), self._sampling
        arguments[sampling.name] = rest = Rest(sampling.sampler, position.drawn, sampling.indices_in)
        if self._sampler is not None:
            arguments[sampling.name] = position.sampler = sampling.remembered(rest)
        items = self._watch.over(iter(self._build(self._source.dataset, arguments)))
        rest.begin()
        if not self._drew(position, rest.skipped):
            raise drawn_differently(position)
        return items

    def _drew(self, position: Position, indices: list[Any]) -> bool:
        """Whether these are what was drawn for the batches that were handed over, as far as can be told."""
        if position.sampler is not None:
            return digest_of_keys(indices) == position.digest
        if self._reorders:
            return True
        dataset: Any = self._source.dataset
        ids = dataset.ids_drawn(indices)
        if ids is None or len(ids) > position.samples:  # of its last batch, it may have drawn less than is skipped
            return True
        return len(ids) == position.samples and digest_of(ids) == position.digest

    def _arguments_of_rest(self, position: Position) -> dict[str, Any]:
        arguments = {**self._arguments, "persistent_workers": False}
        if position.kept_workers:
            arguments["generator"] = self._order.apart(position.epoch)
        return arguments

    def _undrawn(self, position: Position, step: int, store: Chunks) -> Iterator[Any]:
        """The batches of what a sampler draws and was not delivered, by any rank.

        If it may draw samples more than once, they are as many as this rank had left.
        """
        dataset: Any = self._source.dataset
        assert self._sampling is not None
        arguments, sampling = self._arguments_of_rest(position), self._sampling
        rest: Sampler[Any]
        if self._recurs == "drawn":
            rest = Rest(sampling.sampler, position.drawn, sampling.indices_in)
        elif dataset.ids_drawn([]) is None:
            raise ids_unknown()
        else:
            out, once = weighed(store, position.first_step, step), self._recurs == "again"
            rest = Undrawn(sampling.sampler, out, dataset.ids_drawn, sampling.indices_in, once)
        return self._watch.over(iter(self._build(dataset, {**arguments, sampling.name: rest})))

    def _iterable_rest(self, position: Position, step: int, store: Chunks) -> Iterator[Any]:
        """The batches left of a dataset that is read in order: what was handed over is read again, and dropped.

        If it is not the same again, the samples that were weighed are left out, wherever they come.
        """
        items = self._iterable_items(position, store)
        digest = 0
        for item in islice(items, position.batches):
            digest = digest_of(ids_of(item), digest)
        if digest == position.digest:
            return self._no_longer(items, position)
        warnings.warn(
            f"The samples of epoch {position.epoch} do not come again in the order that they came in before: the "
            f"dataset has changed, or shuffles without a seed. {LEFT.get(self._recurs, UNWEIGHED)}",
            RuntimeWarning,
            stacklevel=6,
        )
        position.filter(step)
        self._source.rewind(position.epoch)
        self._order.begin(position.epoch)
        return self._no_longer(self._iterable_items(position, store), position)

    def _iterable_items(self, position: Position, store: Chunks) -> Iterator[Any]:
        arguments = {**self._arguments, "persistent_workers": False}
        dataset: Any
        if position.filtered is None or self._recurs == "drawn":
            dataset, _ = self._batches(arguments)
            return self._watch.over(iter(self._build(dataset, arguments)))
        rest: Any = rebuild(self._kind, self._undelivered(position, position.filtered, store), arguments)
        if repeats(self.loader):  # a WebLoader: what was weighed is left out of one pass over the data, not of each
            dataset, _ = self._batches(arguments)
            rest = First(rest, rebuild(self._kind, dataset, arguments), goes_on=self._items() is not None)
        return self._watch.over(iter(self._around(rest)))

    def _no_longer(self, items: Iterator[Any], position: Position) -> Iterator[Any]:
        """In another order, where a number says how long an epoch is: not longer than that, to within a batch."""
        if position.filtered is None:
            return items
        most, each = self._items(), self._source.draws()
        if most is not None:  # of a WebLoader, whose stages make batches of their own
            return up_to(items, most - position.samples, None)
        if each is None:
            return items
        layout = self._layout
        most = each * max(1, layout.workers)
        if self._reorders:  # its collate function may leave samples out
            return up_to(items, most - position.drawn, layout.batch_size)
        return up_to(items, most - position.samples, None)

    def _items(self) -> int | None:
        """How many samples a WebLoader's ``with_epoch`` lets through, if its stages say how many that is."""
        return samples_of_epoch(self.loader) if sizes_known(self.loader) else None

    def _undelivered(self, position: Position, filtered: int, store: Chunks) -> Undelivered:
        delivered = weighed(store, position.first_step, filtered)
        if not position.batches and len(delivered) < position.samples and self._recurs != "again":
            warnings.warn(
                f"{position.samples - len(delivered)} samples of epoch {position.epoch} were read but not weighed, or "
                "more than once. The rest of the epoch, in an order of its own, has the former again, and lacks the "
                f"{len(delivered)} that were weighed, each once.",
                RuntimeWarning,
                stacklevel=6,
            )
        return Undelivered(self._source.dataset, delivered, once=self._recurs != "never")

    @cached_property
    def _recurs(self) -> Recurs | None:
        if self._sampling is not None:
            dataset: Any = self._source.dataset
            return "drawn" if draws_again(self._sampling.sampler) else "again" if dataset.repeats() else None
        found = self._source.recurs()
        return "again" if found != "drawn" and repeats(self.loader) else found

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


@contextmanager
def trainers_random_state() -> Iterator[None]:
    """Leave torch's, NumPy's and Python's random state as it was: what comes in here was drawn in the run before."""
    states = torch.default_generator.get_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
