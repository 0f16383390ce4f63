"""Scoring ahead of the trainer: the process that does it, as the stream and its feedback see it."""

from __future__ import annotations

import atexit
import copy
import multiprocessing
import os
import pickle
import threading
import warnings
import weakref
from multiprocessing.process import BaseProcess

import numpy as np
import torch

from weighted_stream.errors import WeightedStreamError
from weighted_stream.scoring import ahead_faults, ahead_process
from weighted_stream.scoring.ahead_desk import Desk, Memory
from weighted_stream.scoring.ahead_messages import Ids, Line
from weighted_stream.scoring.ahead_progress import Progress
from weighted_stream.scoring.base import ScoringPlan
from weighted_stream.signals import Signals
from weighted_stream.sources.base import Source

PATIENCE = 2.0
"""Seconds in which the process may end by itself before it is killed."""


class ScoringAhead:
    """Scores a dataset in a process of its own, in the order in which the trainer comes to need the samples.

    The process is started by the first `begin` or `meet`. It gets source and plan, makes the scorer, asks which
    samples have no score, and sends their scores, which a thread of this process writes to the store: so there is one
    writer, and every sample is scored once. It ends when it has been through the dataset, when this object does, when
    the trainer does. Only if samples without a score turn up in a later epoch it is started again. If an epoch begins
    while it runs, it goes on in the order of that epoch.

    Args:
        source: the dataset.
        plan: what to score, how far ahead.
        store: where scores are kept.

    Raises:
        SourceError: if nobody can read the dataset apart from the trainer.
        StoreMismatchError: if the store holds scores of another encoder, target or method.
        MissingExtraError: if progress is asked for and ``tqdm`` is missing.
    """

    def __init__(self, source: Source, plan: ScoringPlan, store: Memory) -> None:
        source.parts()  # nothing is read yet, but refused what cannot be
        if plan.whose is not None:
            store.check_scores(plan.whose)
        self._source, self._plan = source, plan
        self._desk = Desk(store, plan.ahead, Progress() if plan.progress else None)
        self._begun = False
        self._epoch = 0
        self._unscored_batches = 0
        self._warned: set[str] = set()
        self._told = False
        self._stop: weakref.finalize[..., ScoringAhead] | None = None

    def begin(self, epoch: int, shuffle_seed: int | None = None) -> None:
        """An epoch begins.

        Args:
            epoch: from 0.
            shuffle_seed: see `Source.parts`.

        Raises:
            ScoringError: if the process cannot be started, or has stopped.
        """
        self.check()
        self._epoch = epoch
        self._desk.begin(epoch, shuffle_seed)
        if not self._begun:
            self._start()
            self._begun = True

    def begin_anew(self, forgotten: bool) -> None:
        """The store has gone back: what lacks a score is scored again, from the next `begin` or `meet` on.

        Args:
            forgotten: whether scores are gone. If not, and all had one, nothing is begun.
        """
        if self._begun and self._desk.error is None and (forgotten or self._desk.running):
            self._end()
            self._desk.begin_anew()
            self._begun = False

    def set_epoch(self, epoch: int) -> None:
        """The same for loaders that the user makes: the process is started by the first batch, not before."""
        self._epoch = epoch
        if self._begun:
            self.begin(epoch)

    def meet(self, signals: Signals) -> None:
        """The strategy is about to be asked about these samples: with ``wait``, see to it that they have scores.

        Raises:
            ScoringError, StoreMismatchError: if the scorer has stopped, or a sample waited for never gets a score.
        """
        if not self._begun:
            self.begin(self._epoch)
        if self._plan.wait:
            self._desk.wait_until_vouched()  # scores of another target are no scores
        self.check()
        unscored = np.isnan(signals.known("similarity"))
        if not unscored.any():
            return
        if self._plan.wait:
            self._wait_for(signals.ids[unscored])
            signals.forget()
            return
        if not signals.scratch.get(ScoringAhead):
            signals.scratch[ScoringAhead] = True
            self._unscored_batches += 1
        self._desk.hurry()
        if self._missed_the_epoch():
            self._start()

    def passed(self, count: int) -> None:
        """So many samples have been weighed for the first time."""
        self._desk.passed(count)

    def check(self) -> None:
        """Raise what stopped the scorer; warn of shards it could not read.

        Raises:
            ScoringError, StoreMismatchError, StoreError: if it has stopped.
        """
        desk = self._desk
        if len(desk.bad) > len(self._warned):
            self._warn_of_shards()
        if desk.error is not None:
            self._told = True
            error: WeightedStreamError = copy.copy(desk.error)
            raise error from desk.error.__cause__

    def stats(self) -> dict[str, float]:
        """Figures to log.

        Returns:
            ``scored_ahead`` (samples scored by this stream's process), ``scorer_rate`` (samples/s while it scores,
            waiting left out), ``scorer_parts`` and ``scorer_bad_parts`` (shards read, and those that could not be),
            ``unscored_batches`` (batches in which a sample had no score yet).
        """
        return {**self._desk.stats(), "unscored_batches": float(self._unscored_batches)}

    def close(self) -> None:
        """End the process. Warn if something stopped it before, and no batch came to raise it."""
        desk = self._desk
        self._end()
        self._warn_of_shards()
        if desk.error is not None and not self._told:
            self._told = True
            warnings.warn(str(desk.error), RuntimeWarning, stacklevel=2)

    def _end(self) -> None:
        self._desk.close()
        if self._stop is not None:
            self._stop()
            atexit.unregister(self._stop)
            self._stop = None

    def _wait_for(self, ids: Ids) -> None:
        while True:
            ids = self._desk.wait_for(ids)
            self.check()
            if not ids.size:
                return
            if not self._missed_the_epoch():
                raise ahead_faults.never_scored(ids.tolist(), list(self._desk.bad))
            self._start()

    def _missed_the_epoch(self) -> bool:
        """Whether the process has ended with an earlier epoch, which need not have had all samples of this one."""
        desk = self._desk
        return not desk.running and desk.done is not None and desk.done != self._epoch

    def _start(self) -> None:
        try:
            # Plainly: torch's own way would leave tensors in shared memory to be fetched.
            parcel = pickle.dumps((self._source, self._plan))
        except Exception as error:
            raise ahead_faults.cannot_travel(error) from error
        # Spawned: a fork would inherit the trainer's CUDA state and threads, which no child can use.
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        gpu = torch.cuda.current_device() if initialized else None
        process = context.Process(
            target=ahead_process.main, args=(there, gpu), name="weighted_stream scorer", daemon=True
        )
        try:
            process.start()
        except (RuntimeError, AssertionError) as error:  # multiprocessing's, from a child that may have none
            here.close()
            raise ahead_faults.cannot_start(error) from error
        finally:
            there.close()
        desk = self._desk
        desk.running = True
        thread = threading.Thread(
            target=desk.serve, args=(Line(here), process, parcel), name="weighted_stream scorer", daemon=True
        )
        thread.start()
        self._stop = weakref.finalize(self, _stop, os.getpid(), desk, process, thread)
        # At the end of the program this must come before multiprocessing waits for its children.
        self._stop.atexit = False
        atexit.register(self._stop)

    def _warn_of_shards(self) -> None:
        for name, fault in list(self._desk.bad.items()):
            if name not in self._warned:
                self._warned.add(name)
                warnings.warn(f"The samples of {name} are left without a score: {fault}", RuntimeWarning, stacklevel=3)


def _stop(owner: int, desk: Desk, process: BaseProcess, thread: threading.Thread) -> None:
    """End the process, and wait until nothing of it is left."""
    if os.getpid() != owner:
        return  # a fork has neither the thread nor a say
    desk.close()
    process.terminate()
    if thread is threading.current_thread():
        return  # collected by the thread itself, which ends with the process
    thread.join(PATIENCE)
    if thread.is_alive():
        process.kill()
        thread.join()
