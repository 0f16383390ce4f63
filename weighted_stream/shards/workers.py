"""Processes that score shards, each with a scorer of its own; shards are dealt to whoever is free."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeAlias

import torch

from weighted_stream.errors import ScoringError, SourceError, WeightedStreamError
from weighted_stream.scoring.identity import ScoreIdentity
from weighted_stream.shards.job import ScoringJob, score_shard


@dataclass(frozen=True)
class Samples:
    """So many samples more were scored."""

    count: int


@dataclass(frozen=True)
class Done:
    """The side file of a shard is written."""

    shard: str
    samples: int


@dataclass(frozen=True)
class Bad:
    """A shard cannot be read."""

    shard: str
    error: SourceError


@dataclass(frozen=True)
class _Ready:
    identity: ScoreIdentity


@dataclass(frozen=True)
class _Failed:
    error: Exception


Event: TypeAlias = "Samples | Done | Bad"


class Workers:
    """Score shards of a job in processes of their own.

    Args:
        job: what is to be scored.
        devices: one per process, None for what the encoder chooses.

    Raises:
        ScoringError: if a process ends before its work does.
    """

    def __init__(self, job: ScoringJob, devices: Sequence[str | None]) -> None:
        context = get_context("spawn")  # CUDA does not survive a fork
        self._processes: dict[Connection, BaseProcess] = {}
        self._doing: dict[Connection, str | None] = {}  # the shard, or None: not ready yet
        for device in devices:
            ours, theirs = context.Pipe()
            # A daemon: it ends with this process; if this one is killed, its pipe breaks.
            process = context.Process(target=_work, args=(theirs, job, device, len(devices)), daemon=True)
            process.start()
            theirs.close()
            self._processes[ours], self._doing[ours] = process, None
        self._ready: list[Connection] = []
        self._identity: ScoreIdentity | None = None

    def identity(self) -> ScoreIdentity:
        """Whose scores they will be; waits for the first process that knows."""
        while self._identity is None:
            for _ in self._events():
                pass
        return self._identity

    def run(self, shards: Sequence[str]) -> Iterator[Event]:
        """Score these shards.

        Raises:
            ScoringError: if a sample cannot be scored, or a process ends before its work does.
        """
        left = list(reversed(shards))
        while left or any(self._doing.values()):
            while left and self._ready:
                connection = self._ready.pop()
                try:
                    connection.send(left[-1])
                except (BrokenPipeError, ConnectionResetError):
                    raise self._gone(connection) from None
                self._doing[connection] = left.pop()
            yield from self._events()

    def close(self) -> None:
        """End the processes; a shard in flight is lost."""
        for connection, process in self._processes.items():
            process.terminate()
            connection.close()
        for process in self._processes.values():
            process.join()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _events(self) -> Iterator[Event]:
        """What the processes have to say, at least one of them."""
        for connection in wait(list(self._processes)):
            assert isinstance(connection, Connection)
            try:
                event = connection.recv()
            except (EOFError, ConnectionResetError):
                raise self._gone(connection) from None
            if isinstance(event, _Failed):
                raise event.error
            if isinstance(event, _Ready):
                self._check(event.identity)
            if isinstance(event, (_Ready, Done, Bad)):
                self._doing[connection] = None
                self._ready.append(connection)
            if isinstance(event, (Samples, Done, Bad)):
                yield event

    def _check(self, identity: ScoreIdentity) -> None:
        reason = None if self._identity is None else self._identity.conflict(identity)
        if reason is not None:
            raise ScoringError(
                f"The processes do not agree on the scores: {reason}.",
                found="encoders that differ between processes or devices",
                expected="one encoder",
                do="check that the encoder is deterministic",
            )
        self._identity = self._identity or identity

    def _gone(self, connection: Connection) -> ScoringError:
        process = self._processes[connection]
        process.join()
        shard = self._doing[connection]
        return ScoringError(
            "A process that scores shards has ended.",
            found=f"exit code {process.exitcode}, " + (f"while scoring {shard}" if shard else "while it had no shard"),
            expected="that it lives until all shards are scored",
            do="look for its last words above; if memory ran out, use fewer --processes. What is done stays done",
        )


def _work(connection: Connection, job: ScoringJob, device: str | None, processes: int) -> None:
    """What a process does: score shard after shard, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who deals
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))
    try:
        with connection:
            _serve(connection, job, device)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the one who deals is gone, or wants no more


def _serve(connection: Connection, job: ScoringJob, device: str | None) -> None:
    try:
        scorer = job.spec.make(device)
        opened = job.open()
        shards = {shard.name: shard for shard in opened.shards}
        connection.send(_Ready(scorer.identity))
        while True:
            name: str = connection.recv()
            answer: Any
            try:
                samples = score_shard(
                    shards[name], opened, scorer, job.folder(opened), lambda count: connection.send(Samples(count))
                )
                answer = Done(name, samples)
            except SourceError as error:
                answer = Bad(name, error)
            connection.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:
        connection.send(_Failed(error if _is_ours(error) else _foreign(error)))


def _is_ours(error: Exception) -> bool:
    """Whether it is the library's own; others need not come out of the pipe as what went in, or at all."""
    return isinstance(error, WeightedStreamError) and type(error).__module__.startswith("weighted_stream.")


def _foreign(error: Exception) -> ScoringError:
    return ScoringError(
        "The scoring failed.",
        found="".join(traceback.format_exception(error)).rstrip(),
        expected="an encoder that takes all texts",
        do="mend the encoder, or what is wrong above; what is done stays done",
    )
