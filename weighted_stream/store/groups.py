"""The names of the groups of a store's samples: a group is a small number, its name stands in the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from weighted_stream.errors import StoreError
from weighted_stream.store import manifest
from weighted_stream.store.place import Place
from weighted_stream.store.record import Ids

MOST_GROUPS = 4096


class Groups:
    """Gives numbers to names, in the order in which they turn up; a number once given stays.

    Args:
        place: of the store.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self.names: tuple[str, ...] = ()
        """Those known to this object, by number."""
        self._numbers: dict[str, int] = {}
        self.read()

    def read(self) -> None:
        """Know what stands in the manifest."""
        self._know(manifest.groups(self._place))

    def numbers(self, names: Sequence[str]) -> Ids:
        """The numbers of groups; names that are new get the next ones, and are written to the manifest.

        Raises:
            StoreError: if there are more than `MOST_GROUPS`, or one is no string.
        """
        if not self._numbers.keys() >= set(names):
            self._add(name for name in dict.fromkeys(names) if name not in self._numbers)
        return np.fromiter(map(self._numbers.__getitem__, names), np.int64, len(names))

    def _add(self, new: Iterable[str]) -> None:
        names = (*self.names, *new)
        wrong = [name for name in names[len(self.names) :] if not isinstance(name, str)]
        if wrong:
            raise StoreError(
                "A group is known by its name.",
                found=f"{wrong[0]!r}, of type {type(wrong[0]).__name__}",
                expected="a string",
                do="pass str(group); group_fn may return numbers, the stream makes names of them",
            )
        if len(names) > MOST_GROUPS:
            raise StoreError(
                "There are too many groups.",
                found=f"more than {MOST_GROUPS:,}, among them {', '.join(map(repr, names[-3:]))}",
                expected=f"at most {MOST_GROUPS:,}: a group is a domain, a language, a source, not a sample",
                do="let group_fn name something coarser",
            )
        manifest.put_groups(self._place, names)
        self._know(names)

    def _know(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._numbers = {name: number for number, name in enumerate(names)}
