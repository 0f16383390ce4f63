"""Watching a loader: what its readers report, and who is stuck or dead, by the names of worker and shard."""

from __future__ import annotations

import re
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any
from weakref import ref

from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from weighted_stream.errors import WorkerError
from weighted_stream.sources.bad_shards import BadShards
from weighted_stream.sources.board import Board, Desk, SitDown, here, innermost
from weighted_stream.sources.orphans import start_method
from weighted_stream.worker_deaths import boards, death_of, explain_deaths, gone, let_go, unlock

REPORT_AFTER = 300.0
"""Seconds without a batch after which a warning says where the readers are, if no ``timeout`` is set. It is doubled
with every warning."""

DEAD_AFTER = 7.0
"""Seconds that a loader may wait for a batch while one of its workers is dead. Torch itself looks every five seconds,
where it can."""

NAMED = 4
"""So many workers are shown with their stacks."""

_TIMED_OUT = re.compile(r"DataLoader timed out after ")


class Watch:
    """Over the batches of one loader.

    Args:
        arguments: of the loader; the workers are given desks by its ``worker_init_fn``. Without workers ``timeout`` is
            taken out of them: torch knows none there.
        bad: takes what readers report.
    """

    def __init__(self, arguments: dict[str, Any], bad: BadShards) -> None:
        self._workers = int(arguments.get("num_workers") or 0)
        self._timeout = float(arguments.get("timeout") or 0)
        self._board, self._bad = Board(self._workers), bad
        self._since = 0.0  # when the batch was asked for that has not come
        self._thread = 0
        self._death: WorkerError | None = None  # for which the wait was ended
        if self._workers:
            method = start_method(arguments.get("multiprocessing_context"))
            arguments["worker_init_fn"] = SitDown(self._board, arguments.get("worker_init_fn"), method)
        else:
            arguments.pop("timeout", None)
        boards.add(self._board)

    @property
    def lacking(self) -> int:
        """How many samples of the epoch were left out with bad shards."""
        return self._bad.lacking_now

    def over(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches, watched.

        Raises:
            WorkerError: if a worker has died, or gave nothing for ``timeout`` seconds.
            SourceError: for too many bad shards.
        """
        board, bad = self._board, self._bad
        if not self._workers:
            board.clear()
        desk = None if self._workers else Desk(board, 0)
        iterator = iter(batches)
        ending = sys.is_finalizing  # by then there may be no modules to ask
        if self._workers:
            explain_deaths()
        self._thread, self._death = threading.get_ident(), None
        with self._reporting(iterator):
            try:
                while True:
                    here.desk, self._since = desk, monotonic()
                    try:
                        item = next(iterator)
                    except StopIteration:
                        break
                    except RuntimeError as error:
                        explained = self._explained(error)
                        bad.take(board.notes(look=True))
                        if explained is None:
                            raise
                        raise explained from (error if explained is not error.__cause__ else None)
                    finally:
                        here.desk, self._since = None, 0.0
                    notes = board.notes()
                    if notes:
                        bad.take(notes)
                    yield item
            except BaseException as error:
                if not ending():
                    unlock(iterator)
                if isinstance(error, Exception) and not isinstance(error, WorkerError):  # who is stuck: not waited for
                    _dismiss(iterator)
                raise
            bad.take(board.notes(look=True))

    def _explained(self, error: RuntimeError) -> WorkerError | None:
        """Torch's error for a worker that is stuck or gone, as ours; None for any other."""
        if self._death is not None:
            return self._death
        text = str(error)
        if _TIMED_OUT.search(text):
            return WorkerError(
                f"No batch came from the loader's workers for {self._timeout:g} seconds (timeout={self._timeout:g}).",
                found=self._where(),
                expected="a batch within that time",
                do="look at where they are stuck: a server or file system that does not answer, a lock that was held "
                "when they forked (then: multiprocessing_context='spawn'). If they are only slow, set a longer timeout",
            )
        if isinstance(error.__cause__, WorkerError):  # said already, where torch heard of the death
            return error.__cause__
        return death_of(f"{text} {error.__cause__}", self._board)

    def _where(self) -> str:
        """Each reader, its shard, and its stack; those that only wait for work are left out."""
        board = self._board
        if not self._workers:
            frame = sys._current_frames().get(self._thread)
            return _shown("the main process", board, 0, "".join(traceback.format_stack(frame)[-12:]).rstrip())
        found = [(reader, board.ask(reader)) for reader in range(board.readers)]
        busy = [(reader, stack) for reader, stack in found if not idle(stack)] or found
        named = [
            _shown(f"worker {reader} (pid {board.place(reader).pid})", board, reader, innermost(stack))
            for reader, stack in busy[:NAMED]
        ]
        waiting = len(found) - len(busy)
        return "\n".join(named + ([f"and {waiting} that wait for work"] if waiting else []))

    @contextmanager
    def _reporting(self, iterator: Any) -> Iterator[None]:
        """A thread that says when no batch has come for long. It cannot end what hangs, but for a wait for the dead."""
        first = self._timeout if self._timeout and not self._workers else REPORT_AFTER
        if self._workers and self._timeout and self._timeout <= first:
            first = float("inf")  # the loader itself raises before that
        over = threading.Event()
        arguments = (over, first, ref(iterator) if hasattr(iterator, "_workers") else None)
        thread = threading.Thread(target=self._report, args=arguments, name="weighted_stream.watching", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()

    def _report(self, over: threading.Event, first: float, iterator: ref[Any] | None) -> None:
        reported, after, missed = 0.0, first, float("inf")
        while not over.wait(min(first / 4, 30.0 if iterator is None else 1.0)):
            since = self._since
            if iterator is not None and since:
                unlock(iterator())
                missed = self._bury(iterator(), since, missed)
            if since != reported:
                after = first
            waited = monotonic() - since
            if since and waited > after:
                reported, after = since, max(after, waited) * 2
                text = f"No batch has come from the loader for {waited:.0f} seconds; it is waited for.\n{self._where()}"
                warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _bury(self, iterator: Any, since: float, missed: float) -> float:
        """End a wait for a batch that a dead worker has sent half of; since when one is missed."""
        pids = gone(iterator) if self._death is None and not getattr(iterator, "_pin_memory", True) else []
        if not pids:
            return float("inf")
        now = monotonic()
        missed = min(missed, now)
        if now - max(since, missed) > DEAD_AFTER:
            self._death = death_of(f"DataLoader worker (pid(s) {', '.join(map(str, pids))})", self._board)
            let_go(iterator)
        return missed


def _dismiss(iterator: Any) -> None:
    """End the workers of an epoch that an error has ended.

    Torch leaves that to the garbage collector, as its error refers to itself; by then nobody tells the workers any
    more, and each is waited for five seconds.
    """
    if isinstance(iterator, _MultiProcessingDataLoaderIter) and not iterator._persistent_workers:
        iterator._shutdown_workers()  # type: ignore[no-untyped-call]


def idle(stack: str) -> bool:
    """Whether a worker only waits for the main process to ask for something."""
    return "_worker_loop" in stack and "in get\n" in stack and "fetch" not in stack


def _shown(who: str, board: Board, reader: int, stack: str) -> str:
    place = board.place(reader)
    where = f"at {place.shard} for {monotonic() - place.since:.1f} s" if place.shard else "at no shard that is known"
    return f"{who}, {where}:\n{stack}"
