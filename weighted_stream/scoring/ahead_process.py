"""The process that scores ahead of the trainer: what it does from its first to its last message.

It is spawned, so it imports the user's main script again, and it has the trainer's environment: ``OMP_NUM_THREADS`` or
the encoder itself decide how many threads it takes. It touches a GPU only if the encoder does. Nothing of it stays
behind: it has no files and no names, and it ends when the trainer does, however that ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from weighted_stream.scoring import ahead_faults
from weighted_stream.scoring.ahead_messages import Gone, Kind, Line, Scores, pack_json, pack_scores
from weighted_stream.scoring.ahead_reader import FIRST, Chunk, Reader, Start, batches
from weighted_stream.scoring.base import Scorer, ScoringPlan
from weighted_stream.scoring.fields import NoTextError
from weighted_stream.sources.base import Source

GRACE = 1
"""Seconds in which the process may tidy up when it is told to end."""


def main(connection: Connection, gpu: int | None = None) -> None:
    """All of the process.

    Args:
        connection: to the trainer.
        gpu: the number of the trainer's, or None.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, which ends this process
    signal.signal(signal.SIGTERM, _terminate)
    trainer = multiprocessing.parent_process()
    assert trainer is not None
    threading.Thread(target=_leave_with, args=(trainer,), daemon=True).start()
    _prefer(gpu)
    line = Line(connection)
    with contextlib.suppress(Gone):
        try:
            line.send(Kind.HELLO)
            _work(line)
        except Gone:
            raise
        except Exception as error:
            line.send(Kind.FAULT, contents=pack_json(ahead_faults.describe(error)))
    signal.signal(signal.SIGTERM, _hurry)


def _work(line: Line) -> None:
    source, plan = _load(line.receive().contents)
    start = Start.of(line.receive())
    scorer = plan.make()
    reader = Reader(source, line, plan, start)
    if not scorer.first_pass or _knows_itself(scorer):
        line.send(Kind.WHOSE, contents=pack_json(scorer.identity.to_json()))
    if scorer.first_pass and not (_knows_itself(scorer) and reader.nothing_left()):
        sweep = Sweep(source, start, plan.on_bad_shard == "skip", line)
        try:
            scorer.learn(lambda: iter(sweep))
        except NoTextError as error:
            raise ahead_faults.unscorable([sweep.part], error.at(f"sample {sweep.ids[error.row]}")) from error
        line.send(Kind.WHOSE, contents=pack_json(scorer.identity.to_json()))
    for chunk in reader.chunks():
        if chunk.ids:
            began = time.perf_counter()
            scores = _scores(scorer, chunk)
            seconds = time.perf_counter() - began
            reader.adapt(len(chunk.ids), seconds)
            line.send(Kind.SCORES, contents=pack_scores(np.array(chunk.ids, np.int64), scores, seconds))
        for name, fault in chunk.ended:
            line.send(Kind.PART, contents=pack_json({"name": name, "fault": fault}))
    line.send(Kind.DONE, contents=pack_json({"epoch": reader.finished.epoch}))


def _prefer(gpu: int | None) -> None:
    """Make it the GPU that is meant by "cuda", if the encoder asks for one: on each rank it is another."""
    if gpu is not None:
        # Private, but what else waits until somebody wants a GPU? To choose one at once would take memory there.
        torch.cuda._lazy_call(partial(_use, gpu))  # type: ignore[no-untyped-call]


def _use(gpu: int) -> None:
    if gpu < torch.cuda.device_count():  # CUDA_VISIBLE_DEVICES may leave this process others than the trainer
        torch.cuda.set_device(gpu)


def _load(parcel: bytes) -> tuple[Source, ScoringPlan]:
    try:
        source, plan = pickle.loads(parcel)
    except Exception as error:
        raise ahead_faults.cannot_arrive(error) from error
    return source, plan


def _knows_itself(scorer: Scorer) -> bool:
    """Whether a scorer can tell its identity before it has seen the corpus."""
    try:
        return bool(scorer.identity)
    except Exception:
        return False


def _scores(scorer: Scorer, chunk: Chunk) -> Scores:
    try:
        scores = np.asarray(scorer.score(chunk.samples), np.float32)
        if scores.shape != (len(chunk.ids),):
            raise ahead_faults.no_scores(f"shape {scores.shape}", f"one per sample, shape ({len(chunk.ids)},)")
        finite = np.isfinite(scores)
        if not finite.all():
            raise ahead_faults.no_scores(f"{scores[~finite][0]} for sample {chunk.ids[finite.argmin()]}", "numbers")
    except NoTextError as error:
        raise ahead_faults.unscorable(chunk.shards, error.at(f"sample {chunk.ids[error.row]}")) from error
    except Exception as error:
        raise ahead_faults.unscorable(chunk.shards, error) from error
    return scores


class Sweep:
    """All samples of the dataset, not only this rank's, for a scorer that has to see the corpus first.

    Attributes:
        part, ids: what was given last, and whose samples that were.
    """

    def __init__(self, source: Source, start: Start, skip: bool, line: Line) -> None:
        self._source, self._start, self._skip, self._line = source, start, skip, line
        self.part = ""
        self.ids: Sequence[int] = ()

    def __iter__(self) -> Iterator[Sequence[Any]]:
        self._source.set_epoch(self._start.epoch)
        for part in self._source.corpus():
            self.part = part.name
            try:
                for batch in batches(part.read(), FIRST):
                    self.ids = [number for number, _ in batch]
                    yield [sample for _, sample in batch]
            except Exception as error:
                named = ahead_faults.unreadable(part.name, error)
                if not self._skip:
                    raise named from error
                fault = ahead_faults.describe(named)["problem"]
                self._line.send(Kind.PART, contents=pack_json({"name": part.name, "fault": fault}))


def _terminate(number: int, frame: object) -> None:
    """Told to end: in the midst of work by an exception, which whoever ends already would only stumble over."""
    signal.signal(number, _hurry)
    _hurry(number, frame)
    sys.exit(128 + number)


def _hurry(number: int, frame: object) -> None:
    # Python takes its time to end with all that it has loaded: after the grace the kernel ends it.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(GRACE)


def _leave_with(trainer: Any) -> None:
    """End this process once the trainer has ended, even if it was killed."""
    try:
        # Told by the kernel. The pipes tell it too, but not before the trainer's own workers have let go of them.
        handle = os.pidfd_open(trainer.pid)
    except ProcessLookupError:
        pass
    except (AttributeError, OSError):  # no Linux, or one that forbids it
        trainer.join()
    else:
        ended = select.poll()
        ended.register(handle, select.POLLIN)
        ended.poll()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)
