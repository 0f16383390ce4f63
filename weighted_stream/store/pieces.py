"""Arrays of any size to arrays of one size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from weighted_stream.store.record import Ids


def even(pieces: Iterable[Ids], size: int) -> Iterator[Ids]:
    """The same values in arrays of ``size``; the last one may be shorter.

    Example:
        >>> [piece.tolist() for piece in even([np.array([1, 2, 3]), np.array([4, 5, 6, 7])], 3)]
        [[1, 2, 3], [4, 5, 6], [7]]
    """
    held: list[Ids] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += piece.size
        if count >= size:
            whole = np.concatenate(held)
            full = count - count % size
            yield from np.split(whole[:full], full // size)
            held, count = [whole[full:]], count - full
    if count:
        yield np.concatenate(held)
