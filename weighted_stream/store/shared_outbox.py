"""What is still to be sent to a server, and what was sent last: ids alone, for a record is read when it is sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from threading import Lock

import numpy as np

from weighted_stream.store.record import Ids

MOST_WAITING = 1 << 20
"""Ids that are waited for one by one; beyond, all that is known is sent again. So it takes some 30 MiB at most."""

MOST_SENT = 256
"""Pushes that are remembered, for a server that has lost the last ones."""

MOST_REPEATS = 1 << 16
"""Calls that are kept as they came, and ids that came again, until what is new is made distinct."""

_NOBODY = np.zeros(0, np.int64)


class Outbox:
    """Collects ids. The trainer adds, one other thread takes.

    Whoever asks for its length meanwhile never finds less than is still to be sent.

    Args:
        everything: all ids there are, in arrays; None until something asks for all of them.
        size: how many that is.
    """

    def __init__(self, everything: Callable[[], Iterator[Ids]], size: Callable[[], int]) -> None:
        self._everything, self._size = everything, size
        self._lock = Lock()
        self._new: list[Ids] = []
        self._count = 0  # of `_new`
        self._most = MOST_REPEATS  # of `_count`, until `_new` is made distinct
        self._moving = 0  # on their way from `_new` to `_waiting`
        self._overflow = False
        self._waiting = _NOBODY  # distinct, ascending
        self._rest: Iterator[Ids] | None = None
        self._passed = 0  # of everything
        self._flying = 0
        self._sent: deque[tuple[bytes, Ids]] = deque(maxlen=MOST_SENT)

    def add(self, ids: Ids) -> None:
        """These have changed (copied)."""
        mine = ids.copy()
        with self._lock:
            if self._overflow:
                return  # everything will be sent
            self._new.append(mine)
            self._count += mine.size
            if self._count > self._most or len(self._new) > MOST_REPEATS:
                self._make_distinct()

    def add_all(self) -> None:
        """Everything is to be sent, from the beginning."""
        with self._lock:
            self._forget_new()
            self._moving, self._overflow = 0, False
            self._waiting, self._rest, self._passed = _NOBODY, self._everything(), 0

    def __len__(self) -> int:
        """How many samples are still to be sent, at most: those that changed again meanwhile may count twice."""
        with self._lock:
            if self._overflow:
                return max(1, self._size())
            known = self._count + self._moving + self._waiting.size + self._flying
            if self._rest is None:
                return known
            size = self._size()
            return max(1, min(size, known + size - self._passed))

    @property
    def all_passed(self) -> bool:
        """Whether nothing is left of everything, if it was to be sent."""
        return self._rest is None and not self._overflow

    def many(self, most: int) -> bool:
        """Whether so many different samples are to be sent, or everything; for the thread that takes."""
        if self._rest is None and len(self) >= most:
            self._collect()
        return self._rest is not None or self._waiting.size >= most

    def take(self, most: int) -> Ids:
        """Distinct ids to be sent now, at most so many: they do not wait any more, and count until they have landed."""
        self._collect()
        with self._lock:
            if self._waiting.size:
                taken, self._waiting = self._waiting[:most], self._waiting[most:]
                self._flying += taken.size
                return taken
            rest = self._rest
        taken = next(rest, _NOBODY) if rest is not None else _NOBODY
        with self._lock:
            if self._rest is rest:
                self._flying += taken.size
                self._passed += taken.size
                self._rest = rest if taken.size else None
        return taken

    def put_back(self, ids: Ids) -> None:
        """These were not sent after all."""
        with self._lock:
            self._waiting = np.union1d(self._waiting, ids)

    def sent(self, token: bytes, ids: Ids) -> None:
        """These, which were taken, are about to be sent, by a push of this token."""
        self._sent.append((token, ids))

    def landed(self) -> None:
        """All that was taken has come to its end: it is there, or was put back."""
        with self._lock:
            self._flying = 0

    def forget(self) -> None:
        """What was sent before is of no interest: it will be sent again."""
        self._sent.clear()

    def go_on_after(self, token: bytes) -> bool:
        """The server has the push of this token as the last one: later ones are to be sent again.

        Returns:
            Whether that push is still remembered. If not, nothing has changed.
        """
        if all(known != token for known, _ in self._sent):
            return False
        while self._sent[-1][0] != token:
            self.put_back(self._sent.pop()[1])
        return True

    def _make_distinct(self) -> None:
        """Keep what is new once each: a sample that is seen again and again waits once."""
        distinct = np.unique(np.concatenate(self._new))
        if distinct.size > MOST_WAITING:
            self._forget_new()
            self._overflow = True
        else:
            self._new, self._count = [distinct], distinct.size
            # Twice as many each time, or every call would sort them all.
            self._most = max(MOST_REPEATS, min(2 * distinct.size, distinct.size + MOST_WAITING // 2))

    def _forget_new(self) -> None:
        self._new, self._count, self._most = [], 0, MOST_REPEATS

    def _collect(self) -> None:
        with self._lock:
            new, overflow = self._new, self._overflow
            self._moving = self._count
            self._forget_new()
        if not overflow and new:
            waiting = np.unique(np.concatenate([self._waiting, *new]))
            overflow = waiting.size > MOST_WAITING
            if not overflow:
                with self._lock:
                    self._waiting, self._moving = waiting, 0
        if overflow:
            self.add_all()
