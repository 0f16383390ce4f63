"""Watching a loader: what its readers report, and who is stuck or dead, by the names of worker and shard."""

from __future__ import annotations

import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any
from weakref import WeakSet

from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from weighted_stream.errors import WorkerError
from weighted_stream.sources.bad_shards import BadShards
from weighted_stream.sources.board import Board, Desk, SitDown, here, innermost
from weighted_stream.sources.orphans import start_method

REPORT_AFTER = 300.0
"""Seconds without a batch after which a warning says where the readers are, if no ``timeout`` is set. It is doubled
with every warning."""

NAMED = 4
"""So many workers are shown with their stacks."""

_TIMED_OUT = re.compile(r"DataLoader timed out after ")
_PIDS = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")
_boards: WeakSet[Board] = WeakSet()


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
        if self._workers:
            method = start_method(arguments.get("multiprocessing_context"))
            arguments["worker_init_fn"] = SitDown(self._board, arguments.get("worker_init_fn"), method)
        else:
            arguments.pop("timeout", None)
        _boards.add(self._board)

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
        if self._workers:
            _explain_deaths()
        self._thread = threading.get_ident()
        with self._reporting():
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
            except Exception as error:
                if not isinstance(error, WorkerError):  # who is stuck is not waited for
                    _dismiss(iterator)
                raise
            bad.take(board.notes(look=True))

    def _explained(self, error: RuntimeError) -> WorkerError | None:
        """Torch's error for a worker that is stuck or gone, as ours; None for any other."""
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
        return _of_death(f"{text} {error.__cause__}", self._board)

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
    def _reporting(self) -> Iterator[None]:
        """A thread that says when no batch has come for long; it cannot end what hangs."""
        first = self._timeout if self._timeout and not self._workers else REPORT_AFTER
        if self._workers and self._timeout and self._timeout <= first:
            yield  # the loader itself raises before that
            return
        over = threading.Event()
        thread = threading.Thread(target=self._report, args=(over, first), name="weighted_stream.watching", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()

    def _report(self, over: threading.Event, first: float) -> None:
        reported, after = 0.0, first
        while not over.wait(min(first / 4, 30.0)):
            since = self._since
            if since != reported:
                after = first
            waited = monotonic() - since
            if since and waited > after:
                reported, after = since, max(after, waited) * 2
                text = f"No batch has come from the loader for {waited:.0f} seconds; it is waited for.\n{self._where()}"
                warnings.warn(text, RuntimeWarning, stacklevel=2)


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


def _of_death(text: str, board: Board) -> WorkerError | None:
    """The error for a worker that died, made of torch's words for it; None if they are about something else."""
    numbers = _PIDS.search(text)
    if numbers is None:
        return None
    pids = [int(number) for number in re.findall(r"\d+", numbers.group(1))]
    gone = [(pid, board.find(pid)) for pid in pids]
    how = _how(text, pids)
    named, shards = [], []
    for pid, reader in gone:
        shard = "" if reader is None else board.place(reader).shard
        shards += [shard] if shard else []
        named.append(
            f"worker {'?' if reader is None else reader} (pid {pid}), {how}, "
            + (f"while it read {shard}" if shard else "at no shard that is known")
        )
    crash = innermost(board.stack())
    return WorkerError(
        f"A worker of the loader has died ({how})" + (f" while it read {', '.join(shards)}." if shards else "."),
        found="; ".join(named) + (f"\n{crash}" if crash and "Fatal Python error" in crash else ""),
        expected="workers that live as long as the epoch",
        do=_advice(how) + ". What was weighed is in the store; a state goes on where it was",
    )


def _how(text: str, pids: list[int]) -> str:
    """Which signal it was, or which exit code."""
    from multiprocessing import process

    codes = {child.pid: child.exitcode for child in list(process._children)}  # type: ignore[attr-defined]
    code = next((codes[pid] for pid in pids if codes.get(pid) is not None), None)
    if code is None:
        for number in signal.valid_signals():
            if f"killed by signal: {signal.strsignal(number)}" in text:
                code = -number
        exited = re.search(r"exit(?:ed)? (?:unexpectedly with exit )?code (\d+)", text)
        code = int(exited.group(1)) if exited else code
    if code is None:
        return "nobody knows how"
    with suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"killed by signal {-code}"


def _advice(how: str) -> str:
    if "SIGKILL" in how:
        return (
            "SIGKILL is most often the kernel's, as memory ran out (dmesg says so): use fewer workers, a smaller "
            "prefetch_factor, or smaller samples"
        )
    if "SIGBUS" in how:
        return "SIGBUS: shared memory ran out (df /dev/shm; a container's --shm-size), or a mapped file was cut"
    if "exit code" in how:
        return "look at what it printed: something in the dataset ends the process (sys.exit, os._exit)"
    return "a library crashed, probably on this shard: read it alone with num_workers=0 and python -X faulthandler"


def _explain_deaths() -> None:
    """Torch raises in the main process, wherever that is, when a worker dies: say it in our words there, too."""
    if threading.current_thread() is not threading.main_thread():
        return
    handler: Any = signal.getsignal(signal.SIGCHLD)
    if getattr(handler, "__module__", "") != "torch.utils.data._utils.signal_handling":
        return

    def explaining(number: int, frame: Any) -> None:
        try:
            handler(number, frame)
        except RuntimeError as error:
            found = _PIDS.search(str(error))
            pids = [int(pid) for pid in re.findall(r"\d+", found.group(1))] if found else []
            board = next((board for board in _boards if any(board.find(pid) is not None for pid in pids)), None)
            explained = None if board is None else _of_death(str(error), board)
            if explained is None:
                raise
            raise explained from error

    signal.signal(signal.SIGCHLD, explaining)
