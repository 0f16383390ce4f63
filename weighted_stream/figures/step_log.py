"""StepLog: figures of a stream while it trains, for people and for loggers."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Sequence
from os import PathLike
from types import TracebackType
from typing import Any, Self

from weighted_stream.errors import StrategyError
from weighted_stream.figures.batch_figures import BatchFigures
from weighted_stream.figures.destinations import Figures, destination
from weighted_stream.figures.sender import Sender
from weighted_stream.memory import Memory
from weighted_stream.store.record import Floats, Ids
from weighted_stream.strategies.options import check_integer
from weighted_stream.stream import WeightedStream

AT_CLOSE, AT_EXIT = 30.0, 5.0
"""Seconds that the lines still under way get when a log is closed, or when a program ends without that."""


class StepLog(BatchFigures):
    """Logs what the weights of a stream do: one dict of figures every few batches.

    ::

        stream = WeightedStream(dataset, LinUpper(), store="run/weights")
        StepLog(stream, "run/log.jsonl", every=10)                   # a file of JSON lines
        StepLog(stream, SummaryWriter("run"))                        # TensorBoard
        StepLog(stream, wandb.init(...))                             # Weights & Biases
        StepLog(stream, mlflow)                                      # MLflow, the run that is active
        StepLog(stream, bar)                                         # a tqdm bar shows loss and effective sample size
        StepLog(stream, lambda figures, step: print(step, figures))  # anything else

    The trainers' adapters (`ComposerWeights`, `LightningWeights`, `WeightedTrainerMixin`) log the same figures by
    themselves, as ``weights/…``.

    A line is of the samples that were weighed since the line before: of ``every`` batches, or the 65,536 latest
    samples. Each counts once, also in micro-batches or if its batch is run again. On several ranks rank 0 logs, and its
    figures are of the global batches. With a strategy that selects they are of the chosen. What is not known (NaN) is
    left out.

    - ``step``: batches weighed so far; ``epoch``, from 0; ``window``: samples in this line.
    - ``ess``: effective sample size, (Σw)² / Σw², as a share of them: 1 if all weigh the same. ``weight_mean``,
      ``weight_cv`` (standard deviation over mean), ``weight_q05``, ``weight_q50``, ``weight_q95`` (quantiles).
    - ``loss_mean``, ``loss_q05``, ``loss_q50``, ``loss_q95``: of the finite losses. ``loss_weighted``: Σ w·l / Σ w,
      what is trained on. ``loss_decile_1`` … ``loss_decile_10``: the mean loss of the tenth of the samples that weigh
      least, … most. ``nonfinite_share``: of losses that are NaN or infinite.
    - ``group_share/NAME``: share of a group in the sum of weights; ``group_weight/NAME``: mean weight of its samples.
      The same of each shard, ``shard_…``, for MosaicML streaming and Parquet without ``id_fn``. The first 64 names that
      turn up; all others are ``others``. Characters beyond letters, digits and ``-.`` become ``_``.
    - Of the first batch in the line, before it was weighed: ``staleness``, ``staleness_max``: how many steps ago the
      losses that the store has of its samples were written; ``new_share``: of samples that were never weighed;
      ``unscored_share``: of samples without a similarity.
    - Over the life of the store, as in `WeightedStream.stats`: ``samples``, ``visits``, ``scored``, ``unscored``,
      ``nonfinite``; ``bad_shards``, ``scorer_rate`` … where there are such.

    The trainer never waits for a logger: a thread for each hands the lines on. If one fails, or 1,000 lines wait for
    it, lines are lost, a `RuntimeWarning` says so once, and training goes on. `close`, or that of the stream, waits 30
    seconds for what is under way, a program that ends without it 5. A run that goes on from a checkpoint logs the steps
    since then again.

    Args:
        stream: it keeps the log: a name for it is not needed.
        *to: paths, loggers, functions, see above; none: the figures are in `latest` only. Functions get
            ``(figures: dict[str, float], step: int)``, in a thread of the log. ``run.log`` and ``log_metrics`` are such
            functions; give the run, or mlflow, itself: its steps are then an axis of their own, and its run is the one
            that is active now.
        every: batches from line to line; they come after batches ``every``, ``2 * every`` …, also after a restart.
        prefix: before the names in TensorBoard, W&B, MLflow and other loggers; not in files, and not for functions.

    Attributes:
        latest: the latest line; empty before the first one.

    Raises:
        StrategyError: for a destination or an ``every`` that cannot be.
        StoreError: for a file that cannot be written.

    Example:
        >>> import json, pathlib, tempfile, torch
        >>> from weighted_stream import LinUpper
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "log.jsonl"
        >>> with WeightedStream([1.0, 2.0, 3.0, 5.0], LinUpper(r=0.4)) as stream:
        ...     log = StepLog(stream, path, every=1)
        ...     for losses, weight in stream.loader(batch_size=4):
        ...         loss = (losses * weight).mean()
        >>> line = json.loads(path.read_text())
        >>> line["step"], line["window"], line["loss_mean"], line["ess"]
        (1, 4, 2.75, 0.6714568)
    """

    def __init__(
        self,
        stream: WeightedStream,
        *to: str | PathLike[str] | Callable[[dict[str, float], int], Any] | Any,
        every: int = 10,
        prefix: str = "weights",
    ) -> None:
        if not isinstance(stream, WeightedStream):
            raise StrategyError(
                "StepLog needs a stream.",
                found=type(stream).__name__,
                expected="a WeightedStream",
                do='StepLog(stream, "run/log.jsonl"); with a Trainer of transformers StepLog(trainer.stream, …)',
            )
        self._every = check_integer("StepLog", "every", every, least=1)
        self._next = 0
        self._writes = stream._live().rank == 0
        self.latest: Figures = {}
        names = f"{prefix}/" if prefix else ""
        self._senders = [Sender(destination(one, names)) for one in to] if self._writes else []
        self._said: set[Sender] = set()
        self._ended = False
        self._feedback = weakref.ref(stream._live())
        self._ending = weakref.finalize(self, _end, self._senders)
        if self._writes:
            super().__init__(stream)

    def see(self, ids: Ids, losses: Floats, weights: Floats, step: int, memory: Memory) -> None:
        """Feedback of a batch, or of a part of it."""
        if 0 <= self._seen.last != step:
            self.over(memory)  # some of the batch before never came
        super().see(ids, losses, weights, step, memory)

    def over(self, memory: Memory) -> None:
        """A batch is over."""
        last = self._seen.last
        if last < 0:
            return
        if not self._next or last + 1 < self._next - self._every:  # the first batch; or a state was loaded
            self._next = last // self._every * self._every + self._every
        if last + 1 >= self._next:
            self._next = (last + 1) // self._every * self._every + self._every
            self._say(memory)

    def end(self, memory: Memory) -> None:
        """There will be no more feedback: log what is left."""
        if not self._ended:
            self._ended = True
            self._say(memory)
            self._close(AT_CLOSE)

    def close(self) -> None:
        """Log what is left, wait until it is where it goes, and stop. Closing twice is fine."""
        feedback = self._feedback()
        if feedback is not None and self in feedback.onlookers:
            feedback.onlookers.remove(self)
            self.end(feedback.store)
        self._close(AT_CLOSE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _say(self, memory: Memory) -> None:
        figures = self.take(memory)
        if figures:
            self.latest = figures
            for sender in self._senders:
                sender.put(figures, int(figures["step"]))
                self._warn(sender)

    def _close(self, timeout: float) -> None:
        if self._ending.detach() is not None:
            for sender in self._senders:
                sender.close(timeout)
                self._warn(sender)

    def _warn(self, sender: Sender) -> None:
        if sender.trouble is not None and sender not in self._said:
            self._said.add(sender)
            warnings.warn(
                f"Figures do not get to {sender.destination.name}: {sender.trouble}. Training goes on; "
                f"lines lost so far: {sender.lost:,}.",
                RuntimeWarning,
                stacklevel=2,
            )


def _end(senders: Sequence[Sender]) -> None:
    for sender in senders:
        sender.close(AT_EXIT)
