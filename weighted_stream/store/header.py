"""The header of a store: format, sizes, running counters, and the latest feedback. One small mapped file.

It is written by one process and followed by any number of others. Its cells are aligned 8-byte integers,
each written at once. One of them is odd while an update is under way: so a reader can tell a consistent set
of counters, and a writer can tell that the update before was cut short by an error or by the end of its
process.
"""

from __future__ import annotations

import numpy as np

from weighted_stream.errors import StoreError, StoreMismatchError
from weighted_stream.store.place import HEADER, Place
from weighted_stream.store.record import RECORD_BYTES, Floats, Ids, Tally

FORMAT_VERSION = 1
WINDOW = 4096

# How often a reader tries to fall between two updates, before it takes what it finds.
_PATIENCE = 100

NO_TARGET, REBUILD = 0, -1

_MAGIC = int.from_bytes(b"wstream\n", "little")
_PAGE = 4096
_BYTES = _PAGE + 2 * WINDOW * 4

(
    _MAGIC_CELL,
    _VERSION,
    _RECORD,
    _SEQUENCE,
    _CAPACITY,
    _GENERATION,
    _CLAIMED,
    _LOSSES,
    _WEIGHTS,
    _TALLY,
) = range(10)
_TALLY_END = _TALLY + len(Tally._fields)
_POSITION, _CHAIN, _TARGET, _TARGET_CHECK = range(_TALLY_END, _TALLY_END + 4)

# Numbers of something: never below zero, nor so many that there could not be as many again.
_COUNTS = (_SEQUENCE, _CAPACITY, _GENERATION, _CLAIMED, _LOSSES, _WEIGHTS, *range(_TALLY, _TALLY_END))
_MOST = 1 << 62


class Header:
    """The header of an open store.

    Args:
        place: where the store is.
        write: whether to map it for writing.
        create: begin a new one.

    Raises:
        StoreError: if the file cannot be opened or is no header.
        StoreMismatchError: if it is the header of another format version.
    """

    def __init__(self, place: Place, *, write: bool, create: bool = False) -> None:
        self.file = place.open(HEADER, write=write, create=create)
        if create:
            # Written, not only grown: the header must not be a hole that a full disk cannot fill.
            first = np.zeros(_BYTES // 8, np.int64)
            first[[_MAGIC_CELL, _VERSION, _RECORD]] = _MAGIC, FORMAT_VERSION, RECORD_BYTES
            self.file.write(first.tobytes())
        self._map = self.file.map(_BYTES)
        self._cells = memoryview(self._map)[:_PAGE].cast("q")
        _check(self._cells, least=0 if create else 1)
        rings = np.frombuffer(self._map, np.float32, offset=_PAGE).reshape(2, WINDOW)
        self._losses, self._weights = rings

    @property
    def capacity(self) -> int:
        """Records in the file of dense ids."""
        return self._cells[_CAPACITY]

    @capacity.setter
    def capacity(self, records: int) -> None:
        self._cells[_CAPACITY] = records

    @property
    def generation(self) -> int:
        """Which table of hashed ids is the current one; 0: there is none yet."""
        return self._cells[_GENERATION]

    @generation.setter
    def generation(self, generation: int) -> None:
        self._cells[_GENERATION] = generation

    @property
    def claimed(self) -> int:
        """Keys in the table of hashed ids."""
        return self._cells[_CLAIMED]

    @claimed.setter
    def claimed(self, keys: int) -> None:
        self._cells[_CLAIMED] = keys

    @property
    def sequence(self) -> int:
        """Odd while an update is under way, and after one that was cut short."""
        return self._cells[_SEQUENCE]

    def begin(self) -> bool:
        """An update begins. Returns whether the one before was cut short: then the counters must be set anew."""
        cells = self._cells
        sequence = cells[_SEQUENCE]
        cells[_SEQUENCE] = sequence | 1
        return bool(sequence & 1)

    def end(
        self, more: Tally, losses: Floats | None, weights: Floats | None, mark: tuple[int, int] | None = None
    ) -> None:
        """An update ends: add to the counters, and to the window of the latest losses and weights.

        Args:
            mark: position and chain of its entry in the journal, if there is one.
        """
        cells = self._cells
        for cell, count in enumerate(more, _TALLY):
            if count:
                cells[cell] += count
        if losses is not None:
            cells[_LOSSES] = _push(self._losses, cells[_LOSSES], losses)
        if weights is not None:
            cells[_WEIGHTS] = _push(self._weights, cells[_WEIGHTS], weights)
        if mark is not None:
            # In this order: should the process be killed in between, the position is still that of the entry before.
            cells[_CHAIN] = mark[1]
            cells[_POSITION] = mark[0]
        cells[_SEQUENCE] += 1

    @property
    def mark(self) -> tuple[int, int]:
        """Position and chain of the last entry of the journal that the records have in them."""
        return self._cells[_POSITION], self._cells[_CHAIN]

    @mark.setter
    def mark(self, mark: tuple[int, int]) -> None:
        self._cells[_POSITION], self._cells[_CHAIN] = mark

    @property
    def target(self) -> int:
        """1 + the position that the records are being rolled back to; `REBUILD`, or `NO_TARGET`.

        Of the base of a journal: the position of the entry that went into it last, or is about to.

        Raises:
            StoreError: if it is damaged: it would cost what came after that position.
        """
        target = self._cells[_TARGET]
        if target != NO_TARGET and self._cells[_TARGET_CHECK] != ~target:
            raise _damaged(f"an end of a roll-back of {target}", "the one that was written")
        return target

    @target.setter
    def target(self, target: int) -> None:
        if target != NO_TARGET:  # in this order, as the process may be killed in between
            self._cells[_TARGET_CHECK] = ~target
        self._cells[_TARGET] = target

    @property
    def pushed(self) -> tuple[int, int]:
        """How many losses and weights were ever given."""
        return self._cells[_LOSSES], self._cells[_WEIGHTS]

    @property
    def counters(self) -> list[int]:
        """`tally` and `pushed`, one after the other."""
        cells = self._cells
        return [*cells[_TALLY:_TALLY_END], cells[_LOSSES], cells[_WEIGHTS]]

    def overwritten(self, losses: int, weights: int) -> tuple[Floats, Floats]:
        """What so many more losses and weights will take the place of: at most `WINDOW` each, perhaps not copied."""
        begin, other = self.pushed
        return _at(self._losses, begin, losses), _at(self._weights, other, weights)

    def restore(self, tally: Tally, pushed: tuple[int, int], losses: Floats, weights: Floats) -> None:
        """Counters and window as they were: the inverse of `end`, with what `overwritten` returned before."""
        self.tally = tally
        self._losses[_places(pushed[0], losses.size)] = losses
        self._weights[_places(pushed[1], weights.size)] = weights
        self._cells[_LOSSES], self._cells[_WEIGHTS] = pushed

    def window(self) -> tuple[tuple[int, int], Floats, Floats]:
        """`pushed`, and copies of the latest losses and weights as they lie there (`WINDOW` each)."""
        return self.pushed, self._losses.copy(), self._weights.copy()

    @property
    def tally(self) -> Tally:
        """The running counters."""
        return Tally(*self._cells[_TALLY:_TALLY_END])

    @tally.setter
    def tally(self, tally: Tally) -> None:
        for cell, count in enumerate(tally, _TALLY):
            self._cells[cell] = count

    def snapshot(self) -> tuple[Tally, Floats, Floats]:
        """The counters, and copies of the latest losses and weights (at most `WINDOW` each, in no order)."""
        for _ in range(_PATIENCE):
            before = self.sequence
            losses = self._losses[: min(self._cells[_LOSSES], WINDOW)].copy()
            weights = self._weights[: min(self._cells[_WEIGHTS], WINDOW)].copy()
            counts = self.tally
            if before == self.sequence and not before & 1:
                break
        return counts, losses, weights

    def set_window(self, pushed: tuple[int, int], losses: Floats, weights: Floats) -> None:
        """Take over what `window` returned."""
        self._losses[:], self._weights[:] = losses, weights
        self._cells[_LOSSES], self._cells[_WEIGHTS] = pushed

    def flush(self) -> None:
        """Put it on the disk."""
        self._map.flush()


def _places(begin: int, count: int) -> Ids:
    """Where values go that are written at ``begin``, the last ones if they are more than the ring has places."""
    return np.arange(begin, begin + min(count, WINDOW)) % WINDOW


def _at(ring: Floats, begin: int, count: int) -> Floats:
    begin, count = begin % WINDOW, min(count, WINDOW)
    end = begin + count
    return ring[begin:end] if end <= WINDOW else np.concatenate([ring[begin:], ring[: end - WINDOW]])


def _push(ring: Floats, position: int, values: Floats) -> int:
    """Write into a ring at ``position`` (all values ever written), and return the new position."""
    count = values.size
    end = position + count
    begin = position % WINDOW
    if begin + count <= WINDOW:
        ring[begin : begin + count] = values
    else:
        values = values[-WINDOW:]
        begin = (end - values.size) % WINDOW
        first = WINDOW - begin
        ring[begin:] = values[:first]
        ring[: values.size - first] = values[first:]
    return end


def _check(cells: memoryview[int], least: int) -> None:
    """Refuse what is no header, or cannot be right; ``least`` is the smallest capacity."""
    if cells[_MAGIC_CELL] != _MAGIC:
        raise _damaged(f"magic number {cells[_MAGIC_CELL] & (2**64 - 1):#018x}", f"{_MAGIC:#018x}")
    if (cells[_VERSION], cells[_RECORD]) != (FORMAT_VERSION, RECORD_BYTES):
        raise StoreMismatchError(
            "This store has another format.",
            found=f"version {cells[_VERSION]} with records of {cells[_RECORD]} bytes",
            expected=f"version {FORMAT_VERSION} with records of {RECORD_BYTES} bytes",
            do="use the version of weighted-stream that made it, or begin a new store",
        )
    for cell in _COUNTS:
        if not 0 <= cells[cell] <= _MOST:
            raise _damaged(f"{cells[cell]:,} in cell {cell}", f"0 to {_MOST:,}")
    if cells[_CAPACITY] < least:
        raise _damaged(f"a capacity of {cells[_CAPACITY]:,} records", f"{least} or more")


def _damaged(found: str, expected: str) -> StoreError:
    return StoreError(
        f"{HEADER} is not the header of a store, or it is damaged.",
        found=found,
        expected=expected,
        do="WeightStore.rebuild(path) if the store has a journal; else restore it from a copy, or begin a new one",
    )
