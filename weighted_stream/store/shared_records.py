"""Records on their way to a server and back, and what several writers together know of a sample. Pure functions."""

from __future__ import annotations

from typing import NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from weighted_stream.errors import StoreError
from weighted_stream.sample_ids import MAX_ID
from weighted_stream.store.record import (
    BLANK,
    GROUP,
    LAST_LOSS,
    LAST_STEP,
    LOSS,
    MARKS,
    RECORD_BYTES,
    SIMILARITY,
    VISITS,
    WEIGHT,
    Floats,
    Ids,
    Words,
)
from weighted_stream.store.shared_scripts import BUCKETS, MOST_SESSIONS

SESSION_BYTES = 8
_SLOT = np.dtype([("session", "V8"), ("words", "<u4", 8)])
_MOST_VISITS = np.int64(2**31 - 1)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(64 - (BUCKETS - 1).bit_length())

Packed: TypeAlias = tuple[bytes, bytes]


def packed_ids(ids: Ids) -> Packed:
    """Ids as 8 bytes each, and the number of the key that each is under, 4 bytes each."""
    # Fibonacci hashing: neighbours and multiples of any power of two are dealt out evenly.
    buckets = (ids.view(np.uint64) * _SPREAD) >> _SHIFT
    return ids.astype("<i8").tobytes(), buckets.astype("<u4").tobytes()


def unpacked_ids(packed: object, most: int) -> Ids:
    """The inverse for the ids.

    Raises:
        StoreError: if these are not at most so many ids.
    """
    if not isinstance(packed, bytes) or len(packed) % 8 or len(packed) > 8 * most:
        _damaged("ids", packed)
    ids = np.frombuffer(packed, "<i8").astype(np.int64)
    if ids.size and int(ids.view(np.uint64).max()) > MAX_ID:
        _damaged("ids", packed)
    return ids


def packed_records(words: Words) -> bytes:
    """Records as 32 bytes each. Groups stay at home: each trainer has numbers of its own for them."""
    out = words.astype("<u4")
    out[:, GROUP] = 0
    return out.tobytes()


def unpacked_records(size: int, counts: object, slots: object) -> Words:
    """What all sessions that the server told of know together of some samples.

    Args:
        size: how many samples.
        counts: (size,) how many sessions know each, 2 bytes each.
        slots: session and record, one after the other.

    Returns:
        Words (size, 8).

    Raises:
        StoreError: if the sizes do not go together, or a record cannot be one.
    """
    if not isinstance(counts, bytes) or len(counts) != 2 * size:
        _damaged("counts", counts)
    each = np.frombuffer(counts, "<u2").astype(np.int64)
    total = int(each.sum())
    if not isinstance(slots, bytes) or len(slots) != total * _SLOT.itemsize or (size and each.max() > MOST_SESSIONS):
        _damaged("records", slots)
    words = np.frombuffer(slots, _SLOT)["words"].astype(np.uint32)
    if not sound(words):
        _damaged("records", slots)
    result = np.zeros((size, 8), np.uint32)
    begin = np.cumsum(each) - each
    for turn in range(int(each.max()) if size else 0):
        rows = np.flatnonzero(each > turn)
        result[rows] = joined(result[rows], words[begin[rows] + turn])
    return result


def sound(words: Words) -> bool:
    """Whether these can be records: steps and visits in their ranges, losses and similarities not infinite."""
    if not words.size:
        return True
    plain = words ^ BLANK
    floats = plain[:, (LOSS, LAST_LOSS, SIMILARITY)].view(np.float32)
    counts = plain.view(np.int32)
    return bool(
        not np.isinf(floats).any()
        and (counts[:, VISITS] >= 0).all()
        and (counts[:, LAST_STEP] >= -1).all()
        and (words[:, MARKS] & 1).all()
        and (np.isnan(floats[:, 0]) == (counts[:, VISITS] == 0)).all()
    )


def joined(some: Words, others: Words) -> Words:
    """What two parties, who have seen different things of the same samples, know together.

    Visits and losses that were not finite add up. The average loss is that of both, weighted by visits. Last loss,
    weight and last step, as they stand together, are those of the party that has a last loss; of both, the one with the
    later step, at the same step the one with the larger loss. Similarity and group are those of ``some``, where it has
    any. In whatever order more than two parties come together, the outcome is the same (the average but for rounding;
    scores of one store are of one kind).

    Args:
        some, others: words (n, 8).

    Example:
        >>> from weighted_stream.store.record import BLANK, NOTHING, Change, apply
        >>> def seen(losses: list[float], step: int) -> Words:
        ...     words = np.zeros((1, 8), np.uint32)
        ...     for loss in losses:
        ...         _ = apply(words, Change(np.float32([loss]), None, None, None, None, step))
        ...     return words
        >>> both = joined(seen([2.0, 2.0, 2.0], step=7), seen([6.0], step=5)) ^ BLANK
        >>> both.view(np.float32)[0, :2].tolist(), both[0, 4:6].tolist()
        ([3.0, 2.0], [4, 7])
    """
    a, b = some ^ BLANK, others ^ BLANK
    of_a, of_b = a.view(np.float32), b.view(np.float32)
    visits_a, visits_b = a[:, VISITS].astype(np.int64), b[:, VISITS].astype(np.int64)
    visits = np.minimum(visits_a + visits_b, _MOST_VISITS)
    step_a, step_b = a[:, LAST_STEP].view(np.int32), b[:, LAST_STEP].view(np.int32)
    both = np.where(_counts(of_b, of_a, step_b, step_a)[:, None], b, a)
    loss = _known(of_a[:, LOSS]) * visits_a + _known(of_b[:, LOSS]) * visits_b
    mean = np.full(len(a), np.nan, np.float64)
    np.divide(loss, visits_a + visits_b, out=mean, where=visits > 0)
    # Where one of them alone has seen the sample, its average is not to be rounded.
    average = np.where(visits_b == 0, of_a[:, LOSS], np.where(visits_a == 0, of_b[:, LOSS], mean.astype(np.float32)))
    both[:, LOSS] = average.astype(np.float32).view(np.uint32)
    both[:, VISITS] = visits.astype(np.uint32)
    both[:, SIMILARITY] = np.where(some[:, SIMILARITY] == 0, b[:, SIMILARITY], a[:, SIMILARITY])
    both[:, GROUP] = np.where(some[:, GROUP] == 0, b[:, GROUP], a[:, GROUP])
    nonfinite = (a[:, MARKS] >> 1) + (b[:, MARKS] >> 1)
    both[:, MARKS] = (nonfinite << 1) | ((a[:, MARKS] | b[:, MARKS]) & 1)
    both ^= BLANK
    return both


def _counts(
    of_b: Floats, of_a: Floats, step_b: npt.NDArray[np.int32], step_a: npt.NDArray[np.int32]
) -> npt.NDArray[np.bool_]:
    """Where b is what counts: by having a last loss, then by step, last loss and weight."""
    known_b, known_a = ~np.isnan(of_b[:, LAST_LOSS]), ~np.isnan(of_a[:, LAST_LOSS])
    counts: npt.NDArray[np.bool_] = (known_b > known_a) | ((known_b == known_a) & (step_b > step_a))
    same = (known_b == known_a) & (step_b == step_a)
    if same.any():
        for word in (LAST_LOSS, WEIGHT):
            mine, theirs = _lowest(of_a[:, word]), _lowest(of_b[:, word])
            counts |= same & (theirs > mine)
            same &= theirs == mine
    return counts


def _lowest(values: Floats) -> Floats:
    return np.where(np.isnan(values), np.float32(-np.inf), values)


def _known(values: Floats) -> npt.NDArray[np.float64]:
    return np.where(np.isnan(values), 0.0, values.astype(np.float64))


def _damaged(what: str, found: object) -> NoReturn:
    raise StoreError(
        f"What the server holds for this store cannot be {what}.",
        found=f"{len(found):,} bytes" if isinstance(found, bytes) else type(found).__name__,
        expected=f"packed {what}, records of {RECORD_BYTES} bytes",
        do="does anything else write under this name? Take another name=, or delete its keys and let the trainers "
        "send theirs again",
    )
