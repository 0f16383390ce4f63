"""Hints: which samples may be worth a look, by rules that are said beside them. Pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from weighted_stream.report.ledger import Account

Places = NDArray[np.int64]

VISITS = 2
"""Visits that a hint about a loss needs."""

NEVER_LEARNED = (
    "At least two visits, and at every one of them its loss was among the highest tenth of that time, and above the "
    "median. The most above the median loss of their time come first."
)

MAYBE_MISLABELLED = (
    "At least two visits; its loss rose from the first to the last while the median loss of its group (of all "
    "samples, where there are no groups) fell, and is above that of its group. The widest gap comes first. Wrong "
    "labels do this, but so do rare, hard and forgotten samples: it is a hint, and says nothing without a look."
)

REPEATED = "The same text to the last character, however often it comes; only texts that were read are compared."


def never_learned(account: Account, most: int) -> Places:
    """Samples whose loss stayed high over all their visits, see `NEVER_LEARNED`: (k,) places, k at most ``most``."""
    found = (account.visits >= VISITS) & (account.high == account.visits)
    return _highest(np.flatnonzero(found), account.above, most)


def maybe_mislabelled(account: Account, most: int) -> Places:
    """Samples whose loss rose while that of others like them fell, see `MAYBE_MISLABELLED`: (k,) places."""
    rise = account.last - account.first
    fall = account.first_alike - account.last_alike
    with np.errstate(invalid="ignore"):
        found = (account.visits >= VISITS) & (rise > 0) & (fall > 0) & (account.last > account.last_alike)
    return _highest(np.flatnonzero(found), rise + fall, most)


def repeated(hashes: NDArray[np.int64]) -> tuple[Places, Places]:
    """Samples whose text occurs more than once.

    Args:
        hashes: (n,), of their texts.

    Returns:
        Their places, (k,), the text that occurs most often first, and all of one text one after the other; and how
        often each of these texts occurs, (k,).

    Example:
        >>> places, times = repeated(np.array([5, 8, 5, 9, 8, 5]))
        >>> places.tolist(), times.tolist()
        ([0, 2, 5, 1, 4], [3, 3, 3, 2, 2])
    """
    if not len(hashes):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    _, which, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    times = counts[which]
    order = np.lexsort((np.arange(len(hashes)), which, -times))
    order = order[times[order] > 1]
    return order, times[order]


def hashed(texts: Sequence[str]) -> NDArray[np.int64]:
    """A hash of each text, (n,) int64: that two different ones share one is not to be expected (2**-64 a pair)."""
    encoded = (text.encode("utf-8", "surrogatepass") for text in texts)
    return np.array([int.from_bytes(blake2b(text, digest_size=8).digest(), "little", signed=True) for text in encoded])


def _highest(places: Places, values: NDArray[np.float64], most: int) -> Places:
    order = np.argsort(-values[places], kind="stable")
    found: Places = places[order[:most]]
    return found
