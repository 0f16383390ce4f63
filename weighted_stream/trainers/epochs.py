"""Epochs: a loader for a trainer that counts its batches, and stops by itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

from weighted_stream.loader import WeightedLoader


class Epochs:
    """A loader whose ``for`` is seen to its end: Composer stops after ``len`` batches, and never asks for more."""

    def __init__(self, loader: WeightedLoader) -> None:
        self._loader = loader
        self._items: Iterator[Any] = iter(())

    def __iter__(self) -> Iterator[Any]:
        self._items = iter(self._loader)
        return self._items

    def end(self) -> None:
        """The epoch is over.

        What workers have beyond ``len`` is a smaller last batch each, if a dataset that they share counts its samples
        together: it is left out. Of a dataset without an end no more is read.
        """
        workers: int = getattr(self._loader, "num_workers", 0)
        deque(islice(self._items, workers + 1), maxlen=0)

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_loader" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._loader, name)
