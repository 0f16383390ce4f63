"""Iterable torch datasets: identified by a key inside the sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import IterableDataset

from weighted_stream.sources.base import Fingerprint, Source
from weighted_stream.sources.keys import IdFn, by, identify, no_key
from weighted_stream.sources.wrapping import Forwarding, Stateful, is_stateful


class _StatefulIterator:
    """Tags samples, and keeps the position of an iterator that can save it."""

    def __init__(self, samples: Any, id_fn: IdFn) -> None:
        self._wrapped, self._id_fn, self._position = samples, id_fn, 0

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        return self

    def __next__(self) -> tuple[int, Any]:
        sample = next(self._wrapped)
        number = identify(self._id_fn, sample, self._position)
        self._position += 1
        return number, sample

    def state_dict(self) -> Any:
        return self._wrapped.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self._wrapped.load_state_dict(state)


class TaggedIterable(Forwarding, IterableDataset[tuple[int, Any]]):
    """An iterable dataset with ids: items are ``(id, sample)``.

    Args:
        data: the user's dataset.
        id_fn: sample -> int or str.
        read: gives the samples of the dataset.
    """

    def __init__(self, data: Any, id_fn: IdFn, read: Callable[[Any], Iterator[Any]] = iter) -> None:
        self._wrapped, self._id_fn, self._read = data, id_fn, read

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        samples = self._read(self._wrapped)
        if is_stateful(samples):
            return _StatefulIterator(samples, self._id_fn)
        return ((identify(self._id_fn, sample, i), sample) for i, sample in enumerate(samples))

    def __len__(self) -> int:
        return len(self._wrapped)  # a TypeError, as without this method, if the dataset has no length


class _StatefulTaggedIterable(Stateful, TaggedIterable):
    pass


def tag(data: Any, id_fn: IdFn, read: Callable[[Any], Iterator[Any]] = iter) -> TaggedIterable:
    """``data`` with ids, and with a state if it has one."""
    return (_StatefulTaggedIterable if is_stateful(data) else TaggedIterable)(data, id_fn, read)


class IterableSource(Source):
    """An iterable dataset: a sample's id is what ``id_fn`` makes of it.

    The order of delivery names nothing (it changes with the worker count), so there is no default. The
    dataset splits itself over workers and ranks, as without us.

    Args:
        data: an iterable dataset; ``state_dict``, ``set_epoch`` and other attributes are forwarded to it.
        id_fn: sample -> int or str, unique per sample; `content_id` makes an id of the content.

    Raises:
        SampleIdError: without ``id_fn``.

    Example:
        >>> from weighted_stream.sources.keys import Column
        >>> class Letters(IterableDataset):
        ...     def __iter__(self):
        ...         return iter([{"uid": 5, "text": "a"}, {"uid": 9, "text": "b"}])
        >>> [number for number, sample in IterableSource(Letters(), Column("uid")).dataset]
        [5, 9]
    """

    def __init__(self, data: Any, id_fn: IdFn | None = None) -> None:
        if id_fn is None:
            raise no_key(type(data).__name__)
        self._data, self._id_fn, self._dataset = data, id_fn, tag(data, id_fn)

    @staticmethod
    def matches(data: Any) -> bool:
        """Whether ``data`` is a torch `IterableDataset`."""
        return isinstance(data, IterableDataset)

    @property
    def dataset(self) -> TaggedIterable:
        """The dataset with ids."""
        return self._dataset

    def fingerprint(self) -> Fingerprint:
        """The class of the dataset, and what its ids are made of."""
        return Fingerprint("torch-iterable", type(self._data).__qualname__ + by(self._id_fn))

    def set_epoch(self, epoch: int) -> None:
        """Forwarded to the dataset if it has ``set_epoch``; running (persistent) workers do not see it."""
        if hasattr(self._data, "set_epoch"):
            self._data.set_epoch(epoch)
