"""Chance: one uniform number for each sample and step, the same whoever asks, in whatever order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def chance(ids: NDArray[np.int64], seed: int, step: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), a function of seed, step and sample: the parts of a batch and a batch run again agree.

    The 64-bit finalizer of splitmix64 (Steele et al., OOPSLA 2014) on the id, xored with a hash of seed and step.

    Args:
        ids: (n,) int64.
        seed: >= 0.
        step: >= 0.

    Returns:
        (n,) float64.

    Example:
        >>> a, b = chance(np.arange(6), 0, 7), chance(np.arange(5, -1, -1), 0, 7)
        >>> bool((a == b[::-1]).all())
        True
    """
    shift = np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0]
    mixed = ids.astype(np.uint64) ^ shift
    for right, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(right))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    uniform: NDArray[np.float64] = (mixed >> np.uint64(11)) * 2.0**-53
    return uniform
