"""Drawing: so many rows, each as likely as any other, of those that come in blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Draw:
    """Keeps rows drawn at random without replacement; all of them as long as they fit.

    Args:
        most: rows that are kept.
        rng: draws.

    Attributes:
        seen: rows that came.

    Example:
        >>> draw = Draw(2, np.random.default_rng(0))
        >>> draw.add(np.arange(5), np.arange(5) * 10)
        >>> ids, values = draw.rows()
        >>> len(ids), (values == ids * 10).all().item(), draw.seen
        (2, True, 5)
    """

    def __init__(self, most: int, rng: np.random.Generator) -> None:
        self.most, self.seen = most, 0
        self._rng = rng
        # Each row draws a key; those of the lowest keys stay, however many come.
        self._highest = np.inf
        self._keys: list[NDArray[np.float64]] = []
        self._columns: list[tuple[NDArray[Any], ...]] = []
        self._held = 0

    def add(self, *columns: NDArray[Any]) -> None:
        """More rows: columns of (n,) each, as many and of the same kind every time."""
        count = len(columns[0])
        self.seen += count
        keys = self._rng.random(count)
        if self._highest < np.inf:
            low = keys < self._highest
            keys, columns = keys[low], tuple(column[low] for column in columns)
        self._keys.append(keys)
        self._columns.append(columns)
        self._held += len(keys)
        if self._held > 2 * self.most:
            self._shrink()

    def rows(self) -> tuple[NDArray[Any], ...]:
        """The columns of what is kept, in the order in which it came; none if nothing ever came."""
        self._shrink()
        return self._columns[0] if self._columns else ()

    @property
    def all(self) -> bool:
        """Whether every row that came is kept."""
        return self.seen <= self.most

    def _shrink(self) -> None:
        if not self._columns:
            return
        keys = np.concatenate(self._keys)
        columns = tuple(np.concatenate(parts) for parts in zip(*self._columns, strict=True))
        if len(keys) > self.most:
            kept = np.sort(np.argpartition(keys, self.most)[: self.most])
            keys, columns = keys[kept], tuple(column[kept] for column in columns)
            self._highest = float(keys.max())
        self._keys, self._columns, self._held = [keys], [columns], len(keys)
