"""What the readers of a loader tell its main process, past the batches: what they read, what was wrong with it.

A board is memory without a name, shared with the workers: nothing of it is left when the processes are gone, however
they ended. A reader writes the name of its shard whenever it goes to another one, which costs less than a microsecond,
and appends notes, a line of JSON each, which the main process finds between two batches.
"""

from __future__ import annotations

import faulthandler
import json
import mmap
import os
import signal
import tempfile
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import active_children, reduction
from struct import Struct
from time import monotonic, sleep
from typing import Any, NamedTuple

from weighted_stream.small_tensors import send_small_tensors_by_value
from weighted_stream.sources.orphans import leave_with_trainer

SLOT = 1024
"""Bytes of the board for each reader."""

ASKS = getattr(signal, "SIGRTMIN", 0) + 11 if hasattr(signal, "SIGRTMIN") else None
"""The signal that asks a worker for its stack: one that nobody uses for anything else."""

STACK_WAIT = 1.0
"""Seconds that a worker is given to write its stack."""

_HEAD = Struct("qd")  # process, since when it reads its shard
_SINCE = Struct("d")
_NAMED = SLOT - _HEAD.size - 1


class Place(NamedTuple):
    """Where a reader is.

    Attributes:
        pid: its process; 0: it has not begun.
        since: when it came to this shard, on the clock of `time.monotonic`.
        shard: its name; empty: none yet.
    """

    pid: int
    since: float
    shard: str


class Board:
    """Places and notes of the readers of one loader. It goes to workers that fork, and to those that spawn.

    Args:
        readers: how many; at least one.

    Example:
        >>> board = Board(1)
        >>> desk = Desk(board, 0)
        >>> desk.reads(b"c4/00017.tar")
        >>> board.place(0).shard
        'c4/00017.tar'
        >>> desk.write({"bad": "c4/00017.tar"})
        >>> board.notes(), board.notes()
        ([{'bad': 'c4/00017.tar'}], [])
    """

    def __init__(self, readers: int) -> None:
        self.readers = max(readers, 1)
        self._open(_nameless(), _nameless())
        self._read = self.readers * SLOT + 1  # the places, and a bell that rings when there is a note
        os.ftruncate(self._file, self._read)
        self._map()

    def _open(self, file: int, stacks: int) -> None:
        self._file, self.stack_file = file, stacks

    def _map(self) -> None:
        self.memory = mmap.mmap(self._file, self.readers * SLOT + 1)

    def __getstate__(self) -> dict[str, Any]:
        files = reduction.DupFd(self._file), reduction.DupFd(self.stack_file)
        return {"readers": self.readers, "_read": self._read, "files": files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.readers, self._read = state["readers"], state["_read"]
        self._open(*(file.detach() for file in state["files"]))
        self._map()

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # the module may be gone by then
        for file in (getattr(self, "_file", None), getattr(self, "stack_file", None)):
            if file is not None:
                try:
                    close(file)
                except OSError:
                    continue

    def append(self, line: bytes) -> None:
        """Add a line to the notes."""
        os.write(self._file, line)
        self.memory[-1] = 1

    def notes(self, *, look: bool = False) -> list[dict[str, Any]]:
        """What was written since the last time.

        Args:
            look: also if the bell did not ring: who wrote may have died before it could.
        """
        if not (self.memory[-1] or look):
            return []
        self.memory[-1] = 0  # first: what is written from now on rings again
        size = os.fstat(self._file).st_size
        if size == self._read:
            return []
        text = os.pread(self._file, size - self._read, self._read)
        whole = text.rfind(b"\n") + 1
        self._read += whole
        return [json.loads(line) for line in text[:whole].splitlines()]

    def place(self, reader: int) -> Place:
        """Where a reader is."""
        slot = self.memory[reader * SLOT : (reader + 1) * SLOT]
        pid, since = _HEAD.unpack_from(slot)
        return Place(pid, since, slot[_HEAD.size :].split(b"\0", 1)[0].decode(errors="replace"))

    def find(self, pid: int) -> int | None:
        """The number of the reader in this process."""
        return next((reader for reader in range(self.readers) if self.place(reader).pid == pid), None)

    def clear(self) -> None:
        """Forget places, of readers that are gone."""
        self.memory[:-1] = bytes(self.readers * SLOT)
        os.ftruncate(self.stack_file, 0)

    def ask(self, reader: int) -> str:
        """The stack of a worker, as it is now, of all its threads; why there is none, otherwise."""
        pid = self.place(reader).pid
        # Only a process that is a child and not yet gone: its number is nobody else's.
        if not pid or ASKS is None or pid not in {child.pid for child in active_children()}:
            return "" if pid else "(it has not begun to read)"
        os.ftruncate(self.stack_file, 0)
        os.kill(pid, ASKS)
        given_up, size = monotonic() + STACK_WAIT, 0
        while monotonic() < given_up:
            sleep(0.02)
            before, size = size, os.fstat(self.stack_file).st_size
            if size and size == before:
                break
        return self.stack() or f"(it does not answer; its state is {_state(pid)})"

    def stack(self) -> str:
        """The last stack that a worker wrote: when it was asked, or when it crashed."""
        size = os.fstat(self.stack_file).st_size
        return os.pread(self.stack_file, size, 0).decode(errors="replace").strip()


class Desk:
    """One reader's end of a board.

    Args:
        board: the board.
        reader: its number.
    """

    def __init__(self, board: Board, reader: int) -> None:
        self._board, self._memory = board, board.memory
        self._start = reader * SLOT + _HEAD.size - _SINCE.size
        _HEAD.pack_into(board.memory, reader * SLOT, os.getpid(), monotonic())
        board.memory[reader * SLOT + _HEAD.size] = 0

    def reads(self, shard: bytes) -> None:
        """It goes to this shard."""
        text = _SINCE.pack(monotonic()) + shard[:_NAMED] + b"\0"
        self._memory[self._start : self._start + len(text)] = text

    def write(self, note: dict[str, Any]) -> None:
        """Tell the main process."""
        self._board.append(json.dumps(note).encode() + b"\n")


class _Here:
    """The desk that this process reads at; None: nobody listens."""

    desk: Desk | None = None


here = _Here()


def reads(shard: bytes) -> None:
    """This process goes to this shard now."""
    if here.desk is not None:
        here.desk.reads(shard)


def tell(note: dict[str, Any]) -> bool:
    """Tell the main process of the loader; False: there is none that listens."""
    if here.desk is None:
        return False
    here.desk.write(note)
    return True


class SitDown:
    """A ``worker_init_fn`` that gives a worker its desk, and makes it a worker of ours; the user's own comes after it.

    It can show its stack, does not outlive its trainer, and sends small tensors by value.

    Args:
        board: of the loader.
        then: the user's.
        method: how workers are started; None: in the default way.
    """

    def __init__(self, board: Board, then: Callable[[int], Any] | None, method: str | None = None) -> None:
        self.board, self.then, self._method = board, then, method

    def __call__(self, worker: int) -> None:
        """In the worker, before it reads."""
        leave_with_trainer(self._method)
        send_small_tensors_by_value()
        here.desk = Desk(self.board, worker)
        if ASKS is not None:
            faulthandler.register(ASKS, file=self.board.stack_file, all_threads=True)
        if not faulthandler.is_enabled():  # a crash shows where; torch's own handler comes after it
            faulthandler.enable(file=self.board.stack_file)
        if self.then is not None:
            self.then(worker)


def _nameless() -> int:
    """A file without a name, to which everyone appends."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("weighted_stream")
    else:
        with tempfile.TemporaryFile() as named:
            file = os.dup(named.fileno())
    import fcntl

    fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_APPEND)
    return file


def _state(pid: int) -> str:
    """What the kernel says of a process."""
    with suppress(OSError), open(f"/proc/{pid}/stat") as file:
        letter = file.read().rpartition(")")[2].split()[0]
        return {"D": "D: it waits for a disk or a network file system", "T": "T: stopped"}.get(letter, letter)
    return "unknown"


def innermost(stack: str, most: int = 12) -> str:
    """The innermost calls of each thread; those of threads that wait in Python's own pool of threads are left out."""
    shown: list[str] = []
    for thread in stack.split("\n\n"):
        calls = thread.splitlines()
        if len(calls) > 2 and "in _worker\n" in f"{calls[1]}\n" and "concurrent/futures" in calls[1]:
            continue
        shown += calls[: most + 1]
    return "\n".join(shown)
