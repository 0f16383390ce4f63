"""Feedback: where losses come back. It asks the strategy, remembers in the store, and counts every batch once.

It lives in the main process only. Whatever a worker makes carries the feedback's token, and finds it again there.
"""

from __future__ import annotations

import math
import os
import uuid
import warnings
from typing import Any, Protocol
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weighted_stream.errors import LossError, StrategyError, UnboundError, WindowError
from weighted_stream.later import Later
from weighted_stream.signals import Signals
from weighted_stream.strategies.base import Strategy, mean_one

Positions = NDArray[np.int64] | None

CONSTANT_AFTER = 200
"""Batches after which weights that never varied are reported."""

_live: WeakValueDictionary[str, Feedback] = WeakValueDictionary()


class Memory(Protocol):
    """What the feedback needs of a store."""

    def get(self, ids: Any) -> dict[str, NDArray[Any]]:
        """The records of these ids."""

    def update(self, ids: Any, *, loss: Any = None, weight: Any = None, step: int | None = None) -> None:
        """Remember losses and weights."""

    def stats(self) -> dict[str, float]:
        """Figures over all records and the latest feedback."""


class Batch:
    """What the parts of one batch share.

    Attributes:
        ids: (B,) int64.
        step: the batch's number, given at its first feedback.
        weights: (B,) as last resolved.
        told: whose losses have been counted: all (True), none (False), or (B,) bool.
        scratch: see `Signals`.
    """

    __slots__ = ("ids", "scratch", "step", "told", "weights")

    def __init__(self, ids: NDArray[np.int64]) -> None:
        self.ids = ids
        self.step: int | None = None
        self.weights: Tensor | None = None
        self.told: NDArray[np.bool_] | bool = False
        self.scratch: dict[Any, Any] = {}


class Feedback:
    """Binds a strategy to a store for the batches of one stream.

    Args:
        strategy: makes the weights.
        store: remembers; it stays open as long as the feedback lives.
    """

    def __init__(self, strategy: Strategy, store: Memory) -> None:
        self.strategy = strategy
        self.token = uuid.uuid4().hex
        self.step = 0
        self._store = store
        self._later = Later()
        self._pid = os.getpid()
        self._said: set[str] = set()
        _live[self.token] = self

    @property
    def store(self) -> Memory:
        """The store, with all feedback so far in it."""
        self._later.flush(self._write)
        return self._store

    def resolve(
        self, batch: Batch, positions: Positions, losses: Tensor, ids: Any = None
    ) -> tuple[Tensor, Tensor | None]:
        """Weights for the losses of a batch or of a part of it; see `Weight.resolve`.

        Returns:
            Weights (B,) float32, and a mask of the finite losses, or None if all are.
        """
        self._check_process()
        batch = self._check_losses(batch, positions, losses, ids)
        values = losses.detach().to(torch.float32)
        finite = _finite(values)
        part = positions is not None and len(positions) < len(batch.ids)
        if part and self.strategy.joint:
            if batch.weights is None:
                raise self._needs_all(batch, losses)
            return batch.weights[torch.from_numpy(positions).to(batch.weights.device)], finite
        if batch.step is None:
            batch.step, self.step = self.step, self.step + 1
        mine = batch.ids if positions is None else batch.ids[positions]
        signals = self._signals(batch, mine, values if finite is None else _filled(values, finite))
        weights = self._ask(signals)
        if finite is not None:
            weights = torch.where(finite, weights, 0.0)
            weights = mean_one(weights) if self.strategy.joint else weights
            signals.loss = values
        self._keep(batch, positions, weights)
        self._tell(batch, positions, signals, weights)
        return weights, finite

    def tensor(self, batch: Batch, positions: Positions) -> Tensor:
        """Weights as last resolved, or from the store alone; see `Weight.tensor`."""
        self._check_process()
        told = np.broadcast_to(batch.told, len(batch.ids))
        if batch.weights is not None and (told if positions is None else told[positions]).all():
            return batch.weights if positions is None else batch.weights[torch.from_numpy(positions)]
        return self._ask(self._signals(batch, batch.ids if positions is None else batch.ids[positions], None))

    def _signals(self, batch: Batch, ids: NDArray[np.int64], losses: Tensor | None) -> Signals:
        return Signals(ids, self.step if batch.step is None else batch.step, losses, self._records, batch.scratch)

    def _records(self, ids: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        return self.store.get(ids)

    def _ask(self, signals: Signals) -> Tensor:
        self._warn_of_ranks()
        weights = self.strategy.weights(signals) if len(signals) else torch.ones(0, device=signals.device)
        if not isinstance(weights, Tensor) or weights.shape != (len(signals),):
            raise StrategyError(
                f"{self.strategy!r} returned no weight per sample.",
                found=f"shape {tuple(weights.shape)}" if isinstance(weights, Tensor) else type(weights).__name__,
                expected=f"a tensor of shape ({len(signals)},)",
                do="mend the strategy's weights()",
            )
        if weights.requires_grad or weights.dtype != torch.float32:
            weights = weights.detach().to(torch.float32)
        return weights

    def _keep(self, batch: Batch, positions: Positions, weights: Tensor) -> None:
        if positions is None:
            batch.weights = weights
            return
        if batch.weights is None:
            batch.weights = torch.full((len(batch.ids),), torch.nan, device=weights.device)
        batch.weights[torch.from_numpy(positions).to(weights.device)] = weights

    def _tell(self, batch: Batch, positions: Positions, signals: Signals, weights: Tensor) -> None:
        """Count what has not been counted: let the strategy learn from it and write it down."""
        if batch.told is True or not len(signals.ids):
            return
        if batch.told is False and positions is None:
            batch.told = True
        else:
            where = np.arange(len(batch.ids)) if positions is None else positions
            told = np.array(np.broadcast_to(batch.told, len(batch.ids)))
            new = np.unique(where, return_index=True)[1]  # a part may name a sample twice
            new = np.sort(new[~told[where[new]]])
            told[where] = True
            batch.told = bool(told.all()) or told
            if not len(new):
                return
            if len(new) < len(where):
                assert signals.loss is not None
                which = torch.from_numpy(new).to(weights.device)
                signals = self._signals(batch, signals.ids[new], signals.loss[which])
                weights = weights[which]
        self.strategy.observe(signals)
        assert signals.loss is not None
        self._later.call(self._write, signals.ids, signals.loss, weights, signals.step)

    def _write(self, ids: NDArray[np.int64], losses: Any, weights: Any, step: int) -> None:
        """On the host: check the weights, store the feedback, warn where it must be said."""
        low, high = np.minimum.reduce(weights), np.maximum.reduce(weights)
        if not (low >= 0.0 and math.isfinite(high)):
            raise StrategyError(
                f"{self.strategy!r} returned weights that are none.",
                found=f"from {low} to {high}",
                expected="finite weights of 0 or more",
                do="mend the strategy's weights(); Clip keeps weights in a range",
            )
        self._store.update(ids, loss=losses, weight=weights, step=step)
        bound = self.strategy.bound
        if bound is not None and high > bound and "bound" not in self._said:
            self._warn(
                "bound",
                f"A weight of {high:.2f} passes the {bound:g} that the theory behind "
                f"{type(self.strategy).__name__} assumes; a larger r, or Clip, keeps below it.",
            )
        if step == CONSTANT_AFTER and not self.strategy.constant:
            self._warn_if_constant()

    def _warn_if_constant(self) -> None:
        if self._store.stats()["weight_cv"] < 1e-3:
            self._warn(
                "constant",
                f"The weights of {self.strategy!r} have not varied in {CONSTANT_AFTER} batches: "
                "this is uniform training, at another learning rate if they are not 1.",
            )

    def _warn_of_ranks(self) -> None:
        """Until losses are gathered over ranks, a joint weight is normalised over this rank's part: say it."""
        if "ranks" in self._said or not self.strategy.joint:
            return
        ranks = torch.distributed.is_available() and torch.distributed.is_initialized()
        if ranks and torch.distributed.get_world_size() > 1:
            self._warn("ranks", "Weights are normalised over this rank's batch, not over the global one.")

    def _warn(self, key: str, text: str) -> None:
        self._said.add(key)
        warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise UnboundError(
                "A Weight was used in a process that has not got its stream.",
                found="a forked process, probably a DataLoader worker",
                expected="the process that made the WeightedStream",
                do="multiply losses and weight in the training loop, not in a dataset or collate function",
            )

    def _check_losses(self, batch: Batch, positions: Positions, losses: Any, ids: Any) -> Batch:
        """Raise unless these are the losses of this batch; the batch they were counted under, if they were."""
        count = len(batch.ids) if positions is None else len(positions)
        if not isinstance(losses, Tensor) or not losses.is_floating_point():
            found = f"{losses.dtype} tensor" if isinstance(losses, Tensor) else type(losses).__name__
            raise _wrong_losses(found, count, "multiply the weight by the losses of its batch, and by nothing else")
        if losses.ndim != 1:
            hint = {
                0: "compute the loss per sample: reduction='none', or per_sample_cross_entropy(logits, labels)",
                2: "reduce over tokens within each sample: per_sample_cross_entropy, or losses.mean(1)",
            }.get(losses.ndim, "reduce all but the first dimension")
            raise _wrong_losses(f"shape {tuple(losses.shape)}", count, hint)
        if losses.shape[0] != count:
            raise _wrong_losses(f"{losses.shape[0]} losses", count, "use the weight that came with this batch, whole")
        mine = batch.ids if positions is None else batch.ids[positions]
        if ids is not None and not np.array_equal(np.asarray(ids), mine):
            raise LossError(
                "These losses belong to another batch.",
                found=f"ids {np.asarray(ids)[:4].tolist()} …",
                expected=f"ids {mine[:4].tolist()} …",
                do="use the weight that came out of the loader together with the batch",
            )
        earlier: tuple[Batch, Any] | None = getattr(losses, "_weighted_batch", None)
        if earlier is not None and earlier[0] is not batch:
            if not np.array_equal(earlier[1], mine):
                raise LossError(
                    "These very losses were already weighed as another batch's.",
                    found=f"losses of ids {earlier[1][:4].tolist()} …",
                    expected=f"losses of ids {mine[:4].tolist()} …",
                    do="use the weight that came out of the loader together with the batch",
                )
            if positions is None:
                return earlier[0]
        losses._weighted_batch = (batch, mine)  # type: ignore[attr-defined]
        return batch

    def _needs_all(self, batch: Batch, losses: Tensor) -> WindowError:
        return WindowError(
            f"{self.strategy!r} weighs a sample against its whole batch, and got a part of it.",
            found=f"{len(losses)} losses",
            expected=f"all {len(batch.ids)} losses of the batch first",
            do='weight.resolve(all_losses) before the parts, or a strategy with window="running"',
        )


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


def _finite(values: Tensor) -> Tensor | None:
    """A mask of the finite values; None if all are, where that costs no wait for a device."""
    if values.device.type == "cpu" and math.isfinite(values.sum().item()):
        return None
    return torch.isfinite(values)


def _filled(values: Tensor, finite: Tensor) -> Tensor:
    """Non-finite losses in the place of the smallest finite one, so that they move no strategy's range."""
    smallest = torch.where(finite, values, torch.inf).amin() if len(values) else values.new_zeros(())
    return torch.where(finite, values, torch.where(torch.isfinite(smallest), smallest, 0.0))


def _wrong_losses(found: str, count: int, do: str) -> LossError:
    return LossError(
        "These are not the losses of this batch.", found=found, expected=f"float losses of shape ({count},)", do=do
    )
