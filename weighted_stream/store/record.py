"""The record of one sample: 32 bytes, and what an observation does to it. Pure functions.

In the file a record is xored with `BLANK`, the record of a sample that was never touched. So a hole in a
sparse file (zero bytes) reads as NaN losses and weight, no visits, step -1 and group -1, with nothing to
look up.

In memory, records are *words*: an uint32 array (n, 8), as they lie in the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Ids: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float32]
Words: TypeAlias = npt.NDArray[np.uint32]
Records: TypeAlias = npt.NDArray[np.void]

RECORD = np.dtype((np.void, 32))
RECORD_BYTES = 32
_WORDS = np.dtype((np.uint32, 8))

# The words of a record. MARKS: bit 0 set once anything was written, the other bits count non-finite losses.
LOSS, LAST_LOSS, WEIGHT, SIMILARITY, VISITS, LAST_STEP, GROUP, MARKS = range(8)
_TOUCHED = np.uint32(1)
_ONE_NONFINITE = np.uint32(2)
_ONE = np.uint32(1)

_NAN = np.uint32(0x7FC00000)
_MINUS_ONE = np.uint32(0xFFFFFFFF)
BLANK = np.array([_NAN, _NAN, _NAN, _NAN, 0, _MINUS_ONE, _MINUS_ONE, 0], np.uint32)
_BLANK_COLUMN = BLANK[:, None].copy()
_AT_ONCE = 2048
_BLANKS = np.tile(BLANK, (_AT_ONCE, 1))

# The loss average is the mean of the first 10 losses; from then on each one moves it by a tenth of the way.
AVERAGE_VISITS = 10
_RATE = np.array([1.0, *(1.0 / visit for visit in range(1, AVERAGE_VISITS + 1))], np.float32)

# A loss beyond this counts as infinite: the average of two such would overflow float32.
LARGEST_LOSS = np.float32(1e38)


class Change(NamedTuple):
    """What one `update` writes: arrays of one value per id, or None.

    Attributes:
        loss: new losses.
        bad: which of them may not enter an average, (n,) bool; None if all may.
        weight, similarity, group: new values.
        step: the step they belong to, one int, or (n,) uint32.
    """

    loss: Floats | None
    bad: npt.NDArray[np.bool_] | None
    weight: Floats | None
    similarity: Floats | None
    group: Ids | None
    step: int | npt.NDArray[np.uint32] | None

    def pick(self, which: Ids | npt.NDArray[np.bool_]) -> Change:
        """The same change for some of the ids."""
        loss, bad, weight, similarity, group, step = self
        return Change(
            None if loss is None else loss[which],
            None if bad is None else bad[which],
            None if weight is None else weight[which],
            None if similarity is None else similarity[which],
            None if group is None else group[which],
            step[which] if isinstance(step, np.ndarray) else step,
        )


class Tally(NamedTuple):
    """Counts over records: touched samples, visits, scored, visited but not scored, non-finite losses."""

    samples: int
    visits: int
    scored: int
    unscored: int
    nonfinite: int


NOTHING = Tally(0, 0, 0, 0, 0)


def total(tallies: Iterable[Tally]) -> Tally:
    """The sum of tallies.

    Example:
        >>> total([Tally(1, 2, 3, 4, 5), Tally(1, 1, 1, 1, 1)])
        Tally(samples=2, visits=3, scored=4, unscored=5, nonfinite=6)
    """
    return Tally(*map(sum, zip(NOTHING, *tallies, strict=True)))


def words_of(records: Records) -> Words:
    """Records as words, not a copy."""
    return records.view(_WORDS)


def fields(records: Records) -> dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]]:
    """Records as the arrays `WeightStore.get` returns, (n,) each."""
    columns = np.bitwise_xor(words_of(records).T, _BLANK_COLUMN, order="C")
    floats = columns.view(np.float32)
    visits, last_step, group = columns[VISITS : GROUP + 1].view(np.int32).astype(np.int64)
    return {
        "loss": floats[LOSS],
        "last_loss": floats[LAST_LOSS],
        "weight": floats[WEIGHT],
        "similarity": floats[SIMILARITY],
        "visits": visits,
        "last_step": last_step,
        "group": group,
        "nonfinite": (columns[MARKS] >> _ONE).astype(np.int64),
    }


def groups_of(records: Records) -> Ids:
    """The groups of records alone, (n,)."""
    return (words_of(records)[:, GROUP] ^ _MINUS_ONE).view(np.int32).astype(np.int64)


def unusable(loss: Floats) -> npt.NDArray[np.bool_] | None:
    """Which losses may not enter an average (NaN, infinite, beyond `LARGEST_LOSS`); None if there is none."""
    # Quicker, and nearly always so; vdot, as dot of newer NumPy warns where the sum overflows.
    if loss.size <= _AT_ONCE and np.vdot(loss, loss) <= LARGEST_LOSS:
        return None
    good = np.abs(loss) <= LARGEST_LOSS
    return None if np.count_nonzero(good) == good.size else ~good


def flip(words: Words) -> None:
    """From what lies in the file to what it means, or back, in place: xor with `BLANK`."""
    n = len(words)
    if n <= _AT_ONCE:
        np.bitwise_xor(words, _BLANKS[:n], out=words)
        return
    for first in range(0, n, _AT_ONCE):
        flip(words[first : first + _AT_ONCE])


def advance(average: Floats, visits: Words, loss: Floats) -> None:
    """One visit more, with a usable loss each, in place: (n,) all of them."""
    visits += _ONE
    # mode="clip" is min(visits, AVERAGE_VISITS).
    average += _RATE.take(visits, mode="clip") * (loss - average)


def observe(floats: Floats, visits: Words, loss: Floats, *, first: bool = True) -> None:
    """Enter one usable loss per record, in place: last loss, visits, average.

    Args:
        floats: distinct records, flipped, as float32 (n, 8).
        visits: their visits, (n,), not a copy.
        loss: one per record.
        first: whether any of the records may have no visit yet.
    """
    average = floats[:, LOSS]
    if first:
        # NaN until now: the first loss is the average.
        np.copyto(average, loss, where=visits == 0)
    advance(average, visits, loss)
    floats[:, LAST_LOSS] = loss


def apply(words: Words, change: Change) -> Tally:
    """Write a change into the words of as many distinct records, in place.

    Returns:
        What it adds to the tally of the store.
    """
    loss, bad, weight, similarity, group, step = change
    visits = words[:, VISITS]
    first = np.count_nonzero(visits) < len(words)
    if not first and bad is None and similarity is None:
        # Nothing new to count but visits: the usual case from the second epoch on.
        more = NOTHING if loss is None else Tally(0, len(words), 0, 0, 0)
    else:
        more = added(words, change)
        words[:, MARKS] |= _TOUCHED
    flip(words)
    floats = words.view(np.float32)
    if loss is not None and bad is None:
        observe(floats, visits, loss, first=first)
    elif loss is not None and bad is not None:
        words[bad, MARKS] += _ONE_NONFINITE
        part = words[~bad]
        observe(part.view(np.float32), part[:, VISITS], loss[~bad])
        words[~bad] = part
    if weight is not None:
        floats[:, WEIGHT] = weight
    if similarity is not None:
        floats[:, SIMILARITY] = similarity
    if group is not None:
        words[:, GROUP] = group.astype(np.int32).view(np.uint32)
    if step is not None:
        words[:, LAST_STEP] = step
    flip(words)
    return more


def apply_in_turn(words: Words, change: Change, rounds: list[Ids], last: Ids) -> Tally:
    """Write a change of more rows than there are records, which come again, in place.

    Args:
        words: distinct records, those first that come most often.
        change: what to write.
        rounds: its rows of the first occurrences, but for those that are the last, of the second ones, and so on.
        last: its rows of the last occurrences, (n,).

    Returns:
        What it adds to the tally of the store.
    """
    loss, again = change.loss, words[: rounds[0].size if rounds else 0]
    if loss is None or change.bad is not None or np.count_nonzero(again[:, VISITS]) < len(again):
        earlier = [apply(again[: rows.size], change.pick(rows)) for rows in rounds]
    else:
        # What they write but visits and averages is written over by the last.
        visits, average = again[:, VISITS].copy(), again[:, LOSS] ^ _NAN
        for rows in rounds:
            advance(average[: rows.size].view(np.float32), visits[: rows.size], loss[rows])
        again[:, VISITS], again[:, LOSS] = visits, average ^ _NAN
        earlier = [Tally(0, loss.size - last.size, 0, 0, 0)]
    return total([*earlier, apply(words, change.pick(last))])


def added(words: Words, change: Change) -> Tally:
    """What a change will add to the tally: to be asked before it is applied."""
    loss, bad, _, similarity, _, _ = change
    n = len(words)
    unvisited, had_no_score = words[:, VISITS] == 0, words[:, SIMILARITY] == 0
    seen = scored = unscored = nonfinite = 0
    if loss is not None:
        nonfinite = 0 if bad is None else np.count_nonzero(bad)
        seen = n - nonfinite
    if similarity is not None:
        scored = np.count_nonzero(had_no_score)
        unscored = -np.count_nonzero(had_no_score & ~unvisited)
    elif loss is not None:
        newly = had_no_score & unvisited
        unscored = np.count_nonzero(newly if bad is None else newly & ~bad)
    return Tally(n - np.count_nonzero(words[:, MARKS]), seen, scored, unscored, nonfinite)


def count(words: Words) -> Tally:
    """Count over records."""
    visits, unscored = words[:, VISITS], words[:, SIMILARITY] == 0
    return Tally(
        samples=np.count_nonzero(words[:, MARKS]),
        visits=int(visits.sum(dtype=np.int64)),
        scored=np.count_nonzero(~unscored),
        unscored=np.count_nonzero((visits != 0) & unscored),
        nonfinite=int((words[:, MARKS] >> _ONE).sum(dtype=np.int64)),
    )
