"""The rest of an epoch: what a sampler or a dataset has left when some of it was delivered before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain, islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, RandomSampler, Sampler

from weighted_stream.collate import ids_of
from weighted_stream.drawn import IndicesIn, of_a_sample
from weighted_stream.selection import cut
from weighted_stream.signals import Records
from weighted_stream.sources.wrapping import Forwarding


class Rest(Sampler[Any]):
    """A sampler (or batch sampler) without the first samples that it draws, whose drawing can be begun beforehand.

    Args:
        sampler: draws samples or batches.
        skip: how many samples to leave out.
        indices_in: what is in an item.

    Attributes:
        skipped: the indices left out, once begun.

    Example:
        >>> from weighted_stream.drawn import of_a_batch
        >>> list(Rest([4, 2, 7, 1], 3)), list(Rest([[4, 2], [7, 1]], 3, of_a_batch))
        ([1], [[1]])
    """

    def __init__(self, sampler: Any, skip: int, indices_in: IndicesIn = of_a_sample) -> None:
        self._sampler, self._skip, self._indices_in = sampler, skip, indices_in
        self._items: Iterator[Any] | None = None
        self.skipped: list[Any] = []

    def begin(self) -> None:
        """Draw what is left out; a sampler draws its random numbers then."""
        if self._items is not None:
            return
        items = iter(self._sampler)
        self._items = items
        while len(self.skipped) < self._skip:
            drawn = next(items, None)
            if drawn is None:
                return
            indices = self._indices_in(drawn)
            if indices is None:
                self.skipped.append(drawn)
                continue
            room = self._skip - len(self.skipped)
            self.skipped += indices[:room]
            if len(indices) > room:
                left = drawn[room:] if isinstance(drawn, (Tensor, np.ndarray)) else indices[room:]
                self._items = chain([left], items)

    def __iter__(self) -> Iterator[Any]:
        self.begin()  # not before the first item is asked for: a loader draws the seed of its workers first
        assert self._items is not None
        yield from self._items

    def __len__(self) -> int:
        return max(0, len(self._sampler) - self._skip)


def draws_again(sampler: Any) -> bool:
    """Whether a sampler, or the one in a batch sampler, may draw a sample more than once in an epoch.

    Example:
        >>> draws_again(RandomSampler(range(4), replacement=True)), draws_again(RandomSampler(range(4)))
        (True, False)
    """
    inner = getattr(sampler, "sampler", sampler)
    with suppress(AttributeError, TypeError):  # a subclass may have its own ways
        if isinstance(inner, RandomSampler) and inner.num_samples > len(inner.data_source):
            return True
    return bool(getattr(inner, "replacement", False))


def up_to(batches: Iterator[Any], samples: int, size: int | None) -> Iterator[Any]:
    """As many batches as it takes for so many samples.

    Args:
        batches: as a loader gives them, ``(ids, batch)``.
        samples: how many.
        size: samples that a batch counts for; None: those in it.

    Example:
        >>> list(up_to(iter([([1, 2], "a"), ([3, 4], "b"), ([5], "c")]), 3, None))
        [([1, 2], 'a'), ([3, 4], 'b')]
    """
    while samples > 0:
        item = next(batches, None)
        if item is None:
            return
        samples -= size or len(ids_of(item))
        yield item


class First:
    """A loader that reads the rest of an epoch first, and then, each time it is gone through, everything.

    Args:
        rest: the loader of the rest.
        everything: the loader of all.
        goes_on: where nothing is left of the rest, go through everything at once.

    Example:
        >>> loader = First([3], [1, 2, 3], goes_on=True)
        >>> list(loader), list(loader)
        ([3], [1, 2, 3])
    """

    def __init__(self, rest: Any, everything: Any, *, goes_on: bool) -> None:
        self._rest: Any = rest
        self._everything, self._goes_on = everything, goes_on

    def __iter__(self) -> Iterator[Any]:
        rest, self._rest = self._rest, None
        if rest is not None:
            nothing = True
            for item in rest:
                nothing = False
                yield item
            if not (nothing and self._goes_on):
                return
        yield from self._everything


class LeftOut:
    """What is left out of the rest of an epoch.

    Args:
        ids: (n,) int64, ascending.
        once: each of them once; otherwise whenever it comes.

    Example:
        >>> out = LeftOut(np.array([3, 9]), once=True)
        >>> [out.has(number) for number in (3, 5, 3)]
        [True, False, False]
    """

    def __init__(self, ids: NDArray[np.int64], once: bool) -> None:
        self._ids, self._once = ids, once
        self._due = np.ones(len(ids), bool)

    def has(self, number: int) -> bool:
        """Whether this sample is left out now."""
        place = int(np.searchsorted(self._ids, number))
        if place == len(self._ids) or self._ids[place] != number or not self._due[place]:
            return False
        self._due[place] = not self._once
        return True


class Undrawn(Sampler[Any]):
    """A sampler (or batch sampler) without the samples that were delivered before, wherever it draws them.

    Args:
        sampler: draws samples or batches.
        delivered: (n,) int64, ascending: their ids.
        ids_drawn: the ids of a list of indices.
        indices_in: what is in an item.
        once: leave each of them out once; otherwise whenever it is drawn.

    Example:
        >>> from weighted_stream.drawn import of_a_batch
        >>> list(Undrawn([[4, 2], [7, 1]], np.array([2, 7]), np.asarray, of_a_batch))
        [[4], [1]]
        >>> list(Undrawn([4, 2, 4], np.array([4]), np.asarray, once=True))
        [2, 4]
    """

    def __init__(
        self,
        sampler: Any,
        delivered: NDArray[np.int64],
        ids_drawn: Callable[[list[Any]], NDArray[np.int64]],
        indices_in: IndicesIn = of_a_sample,
        once: bool = False,
    ) -> None:
        self._sampler, self._delivered, self._ids_drawn = sampler, delivered, ids_drawn
        self._indices_in, self._once = indices_in, once

    def __iter__(self) -> Iterator[Any]:
        out = LeftOut(self._delivered, self._once)
        for drawn in self._sampler:
            indices = self._indices_in(drawn)
            if indices is None:
                if not out.has(int(self._ids_drawn([drawn])[0])):
                    yield drawn
                continue
            ids = self._ids_drawn(indices).tolist()
            left = [index for index, number in zip(indices, ids, strict=True) if not out.has(number)]
            if left:
                yield left

    def __len__(self) -> int:
        return len(self._sampler)


class Counted(Iterator[Any]):
    """An iterator that starts again behind what it gave, for loaders that save the state of their iterators.

    Example:
        >>> items = Counted(iter("abcd"))
        >>> next(items), next(items)
        ('a', 'b')
        >>> again = Counted(iter("abcd"))
        >>> again.load_state_dict(items.state_dict())
        >>> list(again)
        ['c', 'd']
    """

    def __init__(self, items: Iterator[Any]) -> None:
        self._items, self._given = items, 0

    def __next__(self) -> Any:
        item = next(self._items)
        self._given += 1
        return item

    def state_dict(self) -> dict[str, Any]:
        """How many items it has given."""
        return {"given": self._given}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Read and drop as many, in an iterator that has given none."""
        for _ in islice(self._items, state["given"]):
            self._given += 1


class Undelivered(Forwarding, IterableDataset[tuple[Any, Any]]):
    """An iterable dataset with ids, without the samples that were delivered before.

    Args:
        data: its items are ``(id, sample)``, or ``([id, ...], batch)``.
        delivered: (n,) int64, ascending.
        once: leave each of them out once in each reader, so that a sample which comes several times comes the other
            times; otherwise whenever it comes.

    Example:
        >>> list(Undelivered([(3, "a"), (5, "b"), (9, "c")], np.array([3, 9])))
        [(5, 'b')]
        >>> list(Undelivered([(3, "a"), (5, "b"), (3, "a")], np.array([3]), once=True))
        [(5, 'b'), (3, 'a')]
    """

    def __init__(self, data: Any, delivered: NDArray[np.int64], once: bool = False) -> None:
        self._wrapped, self._delivered, self._once = data, delivered, once

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        out = LeftOut(self._delivered, self._once)
        for ids, sample in self._wrapped:
            if isinstance(ids, int):
                if not out.has(ids):
                    yield ids, sample
                continue
            places = np.flatnonzero(~np.array([out.has(number) for number in ids], bool))
            if len(places) == len(ids):
                yield ids, sample
            elif len(places):
                yield [ids[place] for place in places], cut(sample, places, len(ids))


class Chunks(Protocol):
    """A store that can be gone through."""

    def chunks(self) -> Iterable[tuple[NDArray[np.int64], Records]]:
        """Everything in it: ``(ids, records)``."""


def weighed(store: Chunks, start: int, stop: int) -> NDArray[np.int64]:
    """The ids of the samples last weighed at the steps from ``start`` to before ``stop``: (n,) int64, ascending."""
    found = [np.empty(0, np.int64)]
    for ids, records in store.chunks():
        steps = records["last_step"]
        found.append(ids[(start <= steps) & (steps < stop)])
    return np.sort(np.concatenate(found))
