"""Feedback: where losses come back. It asks the strategy, remembers in the store, and counts every batch once.

It lives in the main process only. Whatever a worker makes carries the feedback's token, and finds it again there.
"""

from __future__ import annotations

import math
import os
import uuid
import warnings
from collections.abc import Mapping, Sequence
from threading import RLock
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weighted_stream.batch import Batch, Positions
from weighted_stream.errors import RanksError, UnboundError, WindowError
from weighted_stream.groups import SampleGroups
from weighted_stream.loss_checks import Latest, check_ids, check_losses
from weighted_stream.memory import Ahead, Memory, Written, restore_store
from weighted_stream.onlookers import Onlooker
from weighted_stream.position import Position
from weighted_stream.signals import Signals
from weighted_stream.state import check_keys, with_tensors
from weighted_stream.strategies.base import Strategy, no_weights, wrong_shape
from weighted_stream.strategies.parts import parts

Floats: TypeAlias = NDArray[np.float32]

CONSTANT_AFTER, EQUAL = 200, 1e-3
"""Batches after which weights that never varied are reported, and the variation below which they count as equal."""

_live: WeakValueDictionary[str, Feedback] = WeakValueDictionary()


class Feedback:
    """Binds a strategy to a store for the batches of one stream. Threads may share it.

    Args:
        strategy: makes the weights.
        store: remembers; it stays open as long as the feedback lives.
        ahead: scores samples before they come here, if the strategy wants that.
        may_be_alone: whether this process may weigh by itself if it turns out to be one of several ranks.

    Attributes:
        reads_ahead: whether the trainer takes a batch of a loader without a length while it trains on the one before.
        used: whether anybody has asked for a weight since the epoch began.
    """

    def __init__(
        self, strategy: Strategy, store: Written, ahead: Ahead | None = None, *, may_be_alone: bool = True
    ) -> None:
        self.strategy = strategy
        self.store: Memory = store
        self._written: Written | None = store
        self.ahead = ahead
        self.reads_ahead = False
        self.used = False
        self.onlookers: list[Onlooker] = []
        self.token = uuid.uuid4().hex
        self.step = 0
        self._may_be_alone = may_be_alone
        self._latest: Latest | None = None
        self._threads = RLock()
        self._pid = os.getpid()
        self._said: set[str] = set()
        self._lowest, self._highest = math.inf, 0.0  # of the weights so far, if the store does not have them
        self._looks_at = CONSTANT_AFTER + max(part.warmup_steps for part in parts(strategy))
        self._remedy = next((part.remedy for part in parts(strategy) if part.remedy), "")
        _live[self.token] = self

    def resolve(
        self, batch: Batch, positions: Positions, losses: Tensor, ids: Any = None
    ) -> tuple[Tensor, Tensor | None]:
        """Weights for the losses of a batch or of a part of it; see `Weight.resolve`.

        Returns:
            Weights (B,) float32, and a mask of the finite losses, or None if all are.
        """
        self._enter()
        mine = batch.ids_at(positions)
        check_losses(losses, len(mine))
        if ids is not None:
            check_ids(ids, mine)
        self.used = True
        with self._threads:
            if self._latest is not None:
                batch, positions = self._latest.recognise(losses, batch, positions, mine)
            weights, finite = self._resolve(batch, positions, mine, losses)
            self._latest = Latest(losses, batch, positions, mine)
            if self.onlookers and batch.counted:
                for onlooker in self.onlookers:
                    onlooker.over(self.store)
        return weights, finite

    def tensor(self, batch: Batch, positions: Positions) -> Tensor:
        """Weights as last resolved, or from the store alone; see `Weight.tensor`."""
        self._enter()
        self.used = True
        with self._threads:
            self._catch_up()
            kept = batch.kept(positions)
            if kept is not None:
                return kept
            self._tell_scorer(batch, len(batch.ids))
            batch.looked_at = True
            if positions is None or not self.strategy.joint or batch.chosen is not None:
                return self._decide(batch, self._signals(batch, positions, None))[0]
            return self._decide(batch, self._signals(batch, None, None))[0][torch.from_numpy(positions)]

    def begin_epoch(self, epoch: int) -> None:
        """A ``for`` over a loader begins."""

    def set_epoch(self, epoch: int) -> None:
        """The epoch of loaders that the user makes."""

    def go_through(self, position: Position) -> None:
        """It goes through this epoch, and keeps its position up to date."""

    def end_epoch(self) -> None:
        """It has come to its end."""

    def warn_of_no_use(self, epoch: int) -> None:
        """An epoch was handed over, and nobody asked for a weight: say it once."""
        if self.used or self.strategy.constant:
            return
        self._warn(
            "unused",
            f"No weight of epoch {epoch} was used: {type(self.strategy).__name__} has weighed nothing, and learned "
            "nothing. Multiply the losses, loss = (losses * weight).mean(), or weight.resolve(losses); to read without "
            "training, use a DataLoader of the dataset itself, or Uniform().",
        )

    def settle(self) -> None:
        """See to it that all feedback so far is remembered, and learned from."""

    def close(self) -> None:
        """There will be no more feedback."""
        with self._threads:
            for onlooker in list(self.onlookers):
                onlooker.end(self.store)

    @property
    def rank(self) -> int:
        """Which rank this is of those that weigh together."""
        return 0

    def stored(self) -> dict[str, Any]:
        """The store's part of a state."""
        assert self._written is not None
        return {"files": with_tensors(self._written.state_dict()), "later": []}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put the store back to a state that `stored` gave.

        Raises:
            StateError: if it is the state of a rank that does not write its store.
            StoreError: if the store cannot go back to there.
        """
        check_keys("the store's part of a state", state, ("files", "later"))
        assert self._written is not None
        restore_store(self._written, state)

    def places(self) -> list[list[int]]:
        """How far every rank is in the epoch; none if this process is alone."""
        return []

    def go_on_from(self, step: int) -> None:
        """Count batches from there; whatever was weighed last is forgotten."""
        self._enter()
        with self._threads:
            self.step, self._latest = step, None

    def begin_step(self, ids: NDArray[np.int64]) -> int:
        """These samples are about to be chosen from: the step that they are chosen in."""
        self._enter()
        with self._threads:
            self._catch_up()
            step, self.step = self.step, self.step + 1
        if self.ahead is not None:
            self.ahead.meet(Signals(ids, step, None, self.store.get))
        return step

    def pass_over(self, ids: NDArray[np.int64], step: int) -> None:
        """These samples were not chosen: remembered with weight 0 at this step, and no loss."""
        if not len(ids):
            return
        self._remember_passed(ids, step)
        if self.ahead is not None:
            self.ahead.passed(len(ids))

    def learn_groups(self, groups: SampleGroups) -> None:
        """These samples are of these groups: remembered, where the store does not know it."""
        with self._threads:
            self.store.set_groups(groups.ids, groups.names)

    def _catch_up(self) -> None:
        """Learn what has come from elsewhere, before anything is decided."""

    def _resolve(
        self, batch: Batch, positions: Positions, ids: NDArray[np.int64], losses: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        values, host, finite = in_float32(losses)
        if self.strategy.joint and batch.chosen is None and batch.is_part(positions):
            kept = batch.kept(positions)
            if kept is None:
                raise self._needs_all(batch, len(ids))
            return (kept if finite is None else torch.where(finite, kept, 0.0)), finite
        if batch.step is None:
            if not self._may_be_alone:
                self._check_alone()
            batch.step, self.step = self.step, self.step + 1
        if finite is None:
            signals = self._signals(batch, positions, values)
            weights, on_host = self._decide(batch, signals)
        else:
            places = np.arange(len(batch.ids)) if positions is None else positions
            signals = self._signals(batch, places[finite.numpy(force=True)], values[finite], asked=places)
            weights = torch.zeros_like(values)
            weights[finite] = self._decide(batch, signals)[0]
            on_host = host_array(weights)
        self._count(batch, positions, ids, host, on_host, signals)
        batch.keep(positions, weights)
        return weights, finite

    def _signals(self, batch: Batch, places: Positions, losses: Tensor | None, asked: Positions = None) -> Signals:
        if batch.groups is not None:
            self.learn_groups(SampleGroups(batch.ids, batch.groups))
            batch.groups = None
        step = self.step if batch.step is None else batch.step
        known = batch.samples, self._group_names
        return Signals(batch.ids_at(places), step, losses, self.store.get, batch.scratch, places, asked, *known)

    def _group_names(self) -> Sequence[str]:
        return self.store.groups

    def _decide(self, batch: Batch, signals: Signals) -> tuple[Tensor, Floats]:
        """The weights these samples were chosen with, or the strategy's; also on the host."""
        chosen = batch.chosen_at(signals.places, signals.device)
        return self._ask(signals) if chosen is None else (chosen, host_array(chosen))

    def _ask(self, signals: Signals) -> tuple[Tensor, Floats]:
        """The strategy's weights, checked; also on the host."""
        if not len(signals):
            if signals.loss is not None:
                self.strategy.pass_by(signals)
            return torch.ones(0, dtype=torch.float32, device=signals.device), np.ones(0, np.float32)
        if self.ahead is not None:
            self.ahead.meet(signals)
        return self._weights(signals)

    def _weights(self, signals: Signals) -> tuple[Tensor, Floats]:
        count = len(signals)
        weights = self.strategy.weights(signals)
        if not isinstance(weights, Tensor) or weights.shape != (count,):
            raise wrong_shape(self.strategy, weights, count)
        if weights.requires_grad or weights.dtype != torch.float32 or weights.device != signals.device:
            weights = weights.detach().to(signals.device, torch.float32)
        host = host_array(weights)
        low, high = np.minimum.reduce(host), np.maximum.reduce(host)  # NaN if one is
        if not (low >= 0.0 and math.isfinite(high)):
            raise no_weights(self.strategy, f"weights from {low} to {high}", "finite weights of 0 or more")
        if not self.strategy.remembers:
            self._lowest, self._highest = min(self._lowest, float(low)), max(self._highest, float(high))
        bound = self.strategy.bound
        if bound is not None and high > bound:
            self._warn(
                "bound",
                f"A weight of {high:.2f} passes the {bound:g} that the theory behind "
                f"{type(self.strategy).__name__} assumes; a larger r, or Clip, keeps below it.",
            )
        return weights, host

    def _count(
        self,
        batch: Batch,
        positions: Positions,
        ids: NDArray[np.int64],
        losses: Floats,
        weights: Floats,
        signals: Signals,
    ) -> None:
        """Write down what was not counted yet, and let the strategy learn from it."""
        new = batch.uncounted(positions)
        if new is not None and not len(new):
            return
        if new is not None and len(new) < len(ids):
            ids, losses, weights = ids[new], losses[new], weights[new]
            learned = np.isfinite(losses)
            places = (new if positions is None else positions[new])[learned]
            signals = self._signals(batch, places, torch.from_numpy(losses[learned]).to(signals.device))
        self._remember(ids, losses, weights, signals.step)
        batch.count(positions)
        self._tell_scorer(batch, len(ids))
        self._learn(signals)

    def _tell_scorer(self, batch: Batch, count: int) -> None:
        """So many samples of a batch are weighed for the first time; of one that was looked at before, it knows."""
        if self.ahead is not None and not batch.looked_at:
            self.ahead.passed(count)

    def _remember(self, ids: NDArray[np.int64], losses: Floats, weights: Floats, step: int) -> None:
        """Write feedback down."""
        assert self._written is not None
        for onlooker in self.onlookers:
            onlooker.meet(ids, step, self.store)
        self._written.record(ids, losses, weights if self.strategy.remembers else None, step=step)
        for onlooker in self.onlookers:
            onlooker.see(ids, losses, weights, step, self.store)

    def _remember_passed(self, ids: NDArray[np.int64], step: int) -> None:
        assert self._written is not None
        self._written.update(ids, weight=np.zeros(len(ids), np.float32) if self.strategy.remembers else None, step=step)

    def _learn(self, signals: Signals) -> None:
        """Let the strategy learn from feedback; the signals are those of the finite losses."""
        if len(signals):
            self.strategy.observe(signals)
        if signals.step != self._looks_at or self.strategy.constant:
            return
        mean, variation = self._so_far()
        if mean == 0.0:
            self._warn(
                "constant",
                f"The weights of {self.strategy!r} have all been 0 in {self._looks_at} batches: nothing is trained. "
                "Look at the losses (stats(), a StepLog), and at what the strategy compares them to.",
            )
        elif variation < EQUAL:
            self._warn(
                "constant",
                f"The weights of {self.strategy!r} have not varied in {self._looks_at} batches: this is uniform "
                f"training, at another learning rate if they are not 1. {self._remedy}".rstrip(),
            )

    def _so_far(self) -> tuple[float, float]:
        """The mean of the weights so far (or their largest), and how they vary beside it; NaN without any."""
        if self.strategy.remembers:
            stats = self.store.stats()
            return stats["weight_mean"], stats["weight_cv"]
        if self._lowest > self._highest:
            return math.nan, math.nan
        return self._highest, (self._highest - self._lowest) / self._highest if self._highest else math.nan

    def _warn(self, key: str, text: str) -> None:
        if key not in self._said:
            self._said.add(key)
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _enter(self) -> None:
        """Whether anything may be asked here."""
        if self._pid != os.getpid():
            raise UnboundError(
                "A Weight was used in a process that has not got its stream.",
                found="a forked process, probably a DataLoader worker",
                expected="the process that made the WeightedStream",
                do="multiply losses and weight in the training loop, not in a dataset or collate function",
            )

    def _check_alone(self) -> None:
        ranks = torch.distributed.is_available() and torch.distributed.is_initialized()
        if ranks and torch.distributed.get_world_size() > 1:
            raise RanksError(
                "This stream was made before its process became one of several ranks.",
                found=f"a stream of one process, on one of {torch.distributed.get_world_size()} ranks",
                expected="a stream made after init_process_group: one over all ranks",
                do="make the stream after torch.distributed.init_process_group (Composer: dist.initialize_dist), which "
                "trainers do not repeat; or WeightedStream(..., process_group=False), and each rank weighs by itself",
            )
        self._may_be_alone = True

    def _needs_all(self, batch: Batch, count: int) -> WindowError:
        return WindowError(
            f"{self.strategy!r} weighs a sample against its whole batch, and got a part of it.",
            found=f"{count} losses",
            expected=f"all {len(batch.ids)} losses of the batch first",
            do='weight.resolve(all_losses) before the parts, or a strategy with window="running"',
        )


def in_float32(losses: Tensor) -> tuple[Tensor, Floats, Tensor | None]:
    """Losses detached, in float32; the same on the host; and which of them are finite, or None if all are."""
    values = losses.detach()
    if values.dtype != torch.float32:
        values = values.to(torch.float32)
    host = host_array(values)
    # One sum of squares says whether all are finite; it may overflow, so look again if not.
    return values, host, None if math.isfinite(host.dot(host)) else torch.isfinite(values)


def host_array(values: Tensor) -> Floats:
    """A tensor as an array, which shares its memory if it is on the host."""
    return (values if values.is_cpu else values.cpu()).numpy()


def live_feedback(token: str) -> Feedback:
    """The feedback of this token in this process.

    Raises:
        UnboundError: if it does not live here.
    """
    if token not in _live:
        raise UnboundError(
            "A Weight was used in a process that has not got its stream.",
            found="a stream that was deleted, or lives in another process (a DataLoader worker has only its token)",
            expected="the process that made the WeightedStream, and the stream still there",
            do="keep the stream, and multiply losses and weight in the training loop",
        )
    return _live[token]
