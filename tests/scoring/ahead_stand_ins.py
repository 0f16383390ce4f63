"""Small parts, scorers and a strategy for the tests of scoring ahead, and the scorer's side in a thread."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weighted_stream.scoring import ahead_faults, ahead_process
from weighted_stream.scoring.ahead_desk import Desk
from weighted_stream.scoring.ahead_messages import Gone, Kind, Line, pack_json
from weighted_stream.scoring.base import Scorer, ScoringPlan
from weighted_stream.scoring.identity import ScoreIdentity
from weighted_stream.sources.base import Fingerprint, Source
from weighted_stream.sources.parts import Part
from weighted_stream.store import WeightStore
from weighted_stream.strategies.base import Strategy


def score_of(sample: str) -> float:
    return float(np.float32(int(sample) / 7))


def identity(target: str = "target", method: str = "mean") -> ScoreIdentity:
    return ScoreIdentity("stand-in", target, method, (1.0, 0.0))


@dataclass
class Numbers(Scorer):
    """Scores a text that is a number by a seventh of it, and keeps a list of what it has scored."""

    log: Path | None = None
    seconds: float = 0.0
    target: str = "target"
    poison: str | None = None

    @property
    def identity(self) -> ScoreIdentity:
        return identity(self.target)

    def score(self, samples: Sequence[str]) -> Any:
        for sample in samples:
            time.sleep(self.seconds)
            if sample == self.poison:
                raise KeyError(f"no likeness of {sample}")
        if self.log is not None:
            with self.log.open("a") as file:
                file.write("".join(f"{sample}\n" for sample in samples))
        return [score_of(sample) for sample in samples]


@dataclass
class Plan:
    """``make`` of a plan, that pickles."""

    scorer: Scorer

    def __call__(self) -> Scorer:
        return self.scorer


def plan(scorer: Scorer, **options: Any) -> ScoringPlan:
    return ScoringPlan(Plan(scorer), **options)


class ListPart(Part):
    """Texts that are numbers, with the number as id."""

    def __init__(
        self, name: str, numbers: Sequence[int], knows: bool, fails_after: int | None, log: Path | None
    ) -> None:
        self.name, self.numbers, self.knows, self.fails_after, self.log = name, numbers, knows, fails_after, log

    def ids(self) -> Any:
        return np.array(self.numbers, np.int64) if self.knows else None

    def read(self, wanted: Any = None) -> Iterator[tuple[int, str]]:
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{self.name}\n")
        for place, number in enumerate(self.numbers):
            if place == self.fails_after:
                raise OSError(5, "the disk is gone")
            if wanted is None or wanted[place]:
                yield number, str(number)


@dataclass
class ListSource(Source):
    """Shards of numbers; epoch 1 reads them backwards."""

    shards: list[list[int]]
    knows: bool = True
    bad: dict[str, int] = field(default_factory=dict)
    log: Path | None = None
    backwards: bool = False

    @property
    def dataset(self) -> Any:
        return self.shards

    def fingerprint(self) -> Fingerprint:
        return Fingerprint("stand-in", "numbers")

    def set_epoch(self, epoch: int) -> None:
        self.backwards = epoch == 1

    def parts(self, shuffle_seed: int | None = None) -> Iterator[Part]:
        named = [(f"shard {place}", numbers) for place, numbers in enumerate(self.shards)]
        for name, numbers in reversed(named) if self.backwards else named:
            order = numbers[::-1] if self.backwards else numbers
            yield ListPart(name, order, self.knows, self.bad.get(name), self.log)


class GrowingSource(ListSource):
    """One more shard every epoch."""

    grown = 1

    def set_epoch(self, epoch: int) -> None:
        self.grown = epoch + 1

    def parts(self, shuffle_seed: int | None = None) -> Iterator[Part]:
        return islice(super().parts(), self.grown)


class Scored(Strategy):
    """The stored score is the weight; 1 without."""

    remembers = False

    def __init__(self, scoring: ScoringPlan) -> None:
        self.scoring = scoring

    def weights(self, signals: Any) -> torch.Tensor:
        return signals.history("similarity").nan_to_num(1.0).clamp_min(0.0)


class InThread:
    """Stands where the process stands, and is a thread."""

    exitcode = 0

    def __init__(self, connection: Any) -> None:
        self.line = Line(connection)
        self.socket = socket.socket(fileno=os.dup(connection.fileno()))
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with contextlib.suppress(Gone):
            try:
                self.line.send(Kind.HELLO)
                ahead_process._work(self.line)
            except Gone:
                pass
            except Exception as error:
                self.line.send(Kind.FAULT, contents=pack_json(ahead_faults.describe(error)))
        self.terminate()
        self.line.close()

    def terminate(self) -> None:
        """Both ends see the pipe closed, as they do when a process ends."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        self.thread.join(10)
        assert not self.thread.is_alive()
        self.socket.close()


@contextlib.contextmanager
def scoring(source: Source, plan: ScoringPlan, store: WeightStore, *, epoch: int = 0, **options: Any) -> Iterator[Desk]:
    """A desk whose scorer is in a thread of this process; source and plan travel as they would to another."""
    desk = Desk(store, plan.ahead, **options)
    desk.begin(epoch, None)
    here, there = Pipe()
    desk.running = True
    process: Any = InThread(there)
    thread = threading.Thread(target=desk.serve, args=(Line(here), process, pickle.dumps((source, plan))), daemon=True)
    thread.start()
    try:
        yield desk
    finally:
        desk.close()
        process.terminate()
        thread.join(10)
        assert not thread.is_alive()


def until(condition: Any, seconds: float = 20.0) -> None:
    """Wait for something that another thread or process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
