"""In the trainer: a thread that answers the scorer's process, and writes its scores into the store."""

from __future__ import annotations

import contextlib
from multiprocessing.process import BaseProcess
from threading import Condition
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from weighted_stream.errors import WeightedStreamError
from weighted_stream.scoring import ahead_faults
from weighted_stream.scoring.ahead_messages import (
    Gone,
    Ids,
    Kind,
    Line,
    Message,
    pack_json,
    unpack_ids,
    unpack_json,
    unpack_scores,
)
from weighted_stream.scoring.ahead_progress import Progress
from weighted_stream.scoring.identity import ScoreIdentity


class Memory(Protocol):
    """What scoring ahead needs of a store."""

    def get(self, ids: Any) -> dict[str, NDArray[Any]]:
        """The records of these ids."""

    def update(self, ids: Any, *, similarity: Any) -> None:
        """Remember scores."""

    def bind_scores(self, identity: ScoreIdentity) -> None:
        """Refuse scores of another identity than those there are."""

    def check_scores(self, identity: ScoreIdentity) -> None:
        """The same, as long as the identity may lack its centroid."""


class Desk:
    """What scorer and trainer both look at; the scorer comes and goes, the desk stays.

    The look-ahead: `outstanding` counts samples that the scorer was told to score and the trainer has not made up for
    by samples it weighed. The scorer gets no more while they are more than ``limit``; unless the trainer waits for a
    score, or meets a sample without one, for then the two do not go in the same order, and holding back does harm.

    Args:
        store: which this thread writes scores to.
        limit: of the look-ahead, in samples.
        progress: shows how far it is, or None.

    Attributes:
        running: whether there is a process.
        done: the epoch whose pass has come to its end, or None.
        error: what stopped the scorer, or None.
        bad: the unreadable shards, with what was wrong.
    """

    def __init__(self, store: Memory, limit: int, progress: Progress | None = None) -> None:
        self._store, self._limit, self._progress = store, limit, progress
        self._changed = Condition()
        self._line: Line | None = None
        self._number = 0
        self._start: dict[str, Any] = {}
        self._held: int | None = None
        self._outstanding = self._waiting = 0
        self._scored = self._parts = 0
        self._seconds = 0.0
        self._closing = self._listening = self._vouched = False
        self.running = False
        self.done: int | None = None
        self.error: WeightedStreamError | None = None
        self.bad: dict[str, str] = {}

    def begin(self, epoch: int, shuffle_seed: int | None) -> None:
        """Have the dataset scored in the order of this epoch from now on."""
        start = {"epoch": epoch, "shuffle_seed": shuffle_seed}
        with self._changed:
            if start != self._start:
                self._start, self._held = start, None
                self._number += 1
                if self._listening:
                    self._send(Kind.START, self._number, pack_json(start))

    def begin_anew(self) -> None:
        """After `close`, once there is no process: another one may come, which does not know this dataset yet."""
        with self._changed:
            self._start, self._outstanding = {}, 0
            self._closing = self._vouched = False
            self.done = None

    def passed(self, count: int) -> None:
        """The trainer has weighed so many samples."""
        with self._changed:
            self._outstanding = max(0, self._outstanding - count)
            self._let_go()

    def hurry(self) -> None:
        """The trainer has met a sample without a score: what was scored ahead is not what it needs."""
        if self._held is not None:
            with self._changed:
                self._outstanding = 0
                self._let_go()

    def wait_until_vouched(self) -> None:
        """Wait until it is known that the scores there are belong to this scorer, or there is no process any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._vouched or not self.running)

    def wait_for(self, ids: Ids) -> Ids:
        """Wait until these samples have a score, or there is no process any more.

        Returns:
            Those that have none.
        """
        with self._changed:
            self._waiting += 1
            try:
                self._let_go()
                while True:
                    ids = self._unscored(ids)
                    if not ids.size or not self.running:
                        return ids
                    self._changed.wait()
            finally:
                self._waiting -= 1

    def stats(self) -> dict[str, float]:
        """See `ScoringAhead.stats`."""
        return {
            "scored_ahead": float(self._scored),
            "scorer_rate": self._scored / self._seconds if self._seconds else 0.0,
            "scorer_parts": float(self._parts),
            "scorer_bad_parts": float(len(self.bad)),
        }

    def close(self) -> None:
        """Whatever ends from now on was meant to."""
        self._closing = True

    def serve(self, line: Line, process: BaseProcess, parcel: bytes) -> None:
        """The thread: answer a process until it ends.

        Args:
            line: to the process.
            process: started just now.
            parcel: source and plan, pickled.
        """
        self._line = line
        began = finished = False
        error: WeightedStreamError | None = None
        try:
            while True:
                message = line.receive()
                if message.kind is Kind.HELLO:
                    began = True
                    line.send(Kind.PARCEL, contents=parcel)
                    self._listen()
                elif message.kind is Kind.FAULT:
                    error = ahead_faults.revive(unpack_json(message.contents))
                elif message.kind is Kind.DONE:
                    finished, self.done = True, unpack_json(message.contents)["epoch"]
                else:
                    self._answer(line, message)
        except Gone:
            pass
        except WeightedStreamError as refused:
            error = refused
        except Exception as unexpected:
            error = ahead_faults.revive(ahead_faults.describe(unexpected))
        line.close()
        if error is not None:
            process.terminate()
        process.join()
        self._end(error if error or finished else ahead_faults.ended(process.exitcode, began=began))

    def _listen(self) -> None:
        with self._changed:
            self._listening = True
            self._send(Kind.START, self._number, pack_json(self._start))

    def _answer(self, line: Line, message: Message) -> None:
        kind, number, contents = message
        if kind is Kind.WHICH:
            ids = unpack_ids(contents)
            line.send(Kind.WANTED, number, np.isnan(self._store.get(ids)["similarity"]).tobytes())
        elif kind is Kind.MAY:
            with self._changed:
                if number == self._number:
                    self._held = int.from_bytes(contents, "little")
                    self._let_go()
        elif kind is Kind.SCORES:
            ids, scores, seconds = unpack_scores(contents)
            with self._changed:  # counted first: who finds the last score in the store finds it counted
                self._scored += len(ids)
                self._seconds += seconds
            self._store.update(ids, similarity=scores)
            with self._changed:
                self._changed.notify_all()
            self._show()
        elif kind is Kind.WHOSE:
            self._store.bind_scores(ScoreIdentity.from_json(unpack_json(contents)))
            with self._changed:
                self._vouched = True
                self._changed.notify_all()
        elif kind is Kind.PART:
            part = unpack_json(contents)
            self._parts += 1
            if part["fault"] is not None:
                self.bad.setdefault(part["name"], part["fault"])

    def _end(self, error: WeightedStreamError | None) -> None:
        self._show(last=True)
        with self._changed:
            self.error = None if self._closing else error
            self._listening = self.running = False
            self._line = self._held = None
            self._changed.notify_all()

    def _show(self, *, last: bool = False) -> None:
        if self._progress is not None and self._scored:
            self._progress.show(self.stats(), self._outstanding, last=last)

    def _let_go(self) -> None:
        """Tell the scorer to go on, if it has asked and may."""
        held = self._held
        if held is not None and (self._waiting or self._outstanding + held <= self._limit):
            self._held = None
            self._outstanding += held
            self._send(Kind.GO, self._number)

    def _send(self, kind: Kind, number: int, contents: bytes = b"") -> None:
        # If nobody is there any more, the thread finds out, and why.
        if self._line is not None:
            with contextlib.suppress(Gone):
                self._line.send(kind, number, contents)

    def _unscored(self, ids: Ids) -> Ids:
        unscored: Ids = ids[np.isnan(self._store.get(ids)["similarity"])]
        return unscored
