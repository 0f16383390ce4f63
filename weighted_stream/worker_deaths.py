"""Workers that died: said in our words, and nobody waits for what they left half sent.

Torch looks after its workers while its pipe is empty. A batch of more than the pipe holds is half in it as long as the
trainer is busy, and its worker holds a lock: if that dies, the trainer reads on for ever, and no other worker can send.
Another lock is that of the event which tells workers to end: if one dies as it looks, torch waits there for ever.
"""

from __future__ import annotations

import re
import signal
import threading
from contextlib import suppress
from multiprocessing import connection
from typing import Any
from weakref import WeakSet

from torch._C import _remove_worker_pids

from weighted_stream.errors import WorkerError
from weighted_stream.sources.board import Board, innermost

_PIDS = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")

LOCK_HELD = 1.0
"""Seconds after which one that is held to look at a flag is held by nobody who lives."""

boards: WeakSet[Board] = WeakSet()
"""Of the loaders whose workers' deaths are explained."""


def gone(iterator: Any) -> list[int]:
    """The processes that a loader's iterator still counts on, and that are no more; none if its kind has no workers."""
    counted = dict(zip(getattr(iterator, "_workers", []), getattr(iterator, "_workers_status", []), strict=False))
    return [worker.pid for worker in _ended(iterator) if counted.get(worker)]


def _ended(iterator: Any) -> list[Any]:
    workers = getattr(iterator, "_workers", [])
    ended = connection.wait([worker.sentinel for worker in workers], 0) if workers else []
    return [worker for worker in workers if worker.sentinel in ended]


def let_go(iterator: Any) -> None:
    """End what is left of an iterator one of whose workers died: who reads its pipe comes to an end there."""
    if getattr(iterator, "_worker_pids_set", False):  # torch would raise once more, for those that end here
        _remove_worker_pids(id(iterator))
        iterator._worker_pids_set = False
    for worker in iterator._workers:
        worker.kill()
    iterator._worker_result_queue._writer.close()


def unlock(iterator: Any) -> None:
    """Free the lock of the event by which torch ends workers, if it was held by one that died."""
    event = getattr(iterator, "_workers_done_event", None)
    if event is None or all(worker.exitcode == 0 for worker in _ended(iterator)):
        return
    lock = event._cond._lock._semlock
    held = not lock.acquire(True, LOCK_HELD)
    with suppress(ValueError):  # two threads of ours may have found it held
        lock.release()
        if held:
            lock._after_fork()  # it counts how often this process has it: a release of what another had is none of ours


def death_of(text: str, board: Board) -> WorkerError | None:
    """The error for a worker that died, made of torch's words for it; None if they are about something else."""
    numbers = _PIDS.search(text)
    if numbers is None:
        return None
    pids = [int(number) for number in re.findall(r"\d+", numbers.group(1))]
    dead = [(pid, board.find(pid)) for pid in pids]
    how = _how(text, pids)
    named, shards = [], []
    for pid, reader in dead:
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


def explain_deaths() -> None:
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
            board = next((board for board in boards if any(board.find(pid) is not None for pid in pids)), None)
            explained = None if board is None else death_of(str(error), board)
            if explained is None:
                raise
            raise explained from error

    signal.signal(signal.SIGCHLD, explaining)
