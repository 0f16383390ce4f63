"""InfoBatch: less of what is learnt already, without a bias in the expected gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weighted_stream.selection import Candidates, Choice
from weighted_stream.signals import Signals
from weighted_stream.state import check_keys
from weighted_stream.strategies.base import Memory, Strategy
from weighted_stream.strategies.chance import chance
from weighted_stream.strategies.epochs import no_epoch
from weighted_stream.strategies.options import check_choice, check_integer, check_number
from weighted_stream.strategies.selecting import not_chosen


def info_batch(
    losses: NDArray[np.float32], mean: float, drawn: NDArray[np.float64], ratio: float = 0.5
) -> NDArray[np.float32]:
    """``w = 0`` with probability r where ``l < mean l``, else ``1 / (1 - r)`` there; 1 elsewhere. arXiv 2303.04947.

    Args:
        losses: (n,) the samples' latest losses; NaN for one never seen, which gets 1.
        mean: of the latest losses of all samples.
        drawn: (n,) uniform in [0, 1).
        ratio: r.

    Returns:
        (n,) float32; the expectation of each is 1.

    Example:
        >>> info_batch(np.array([0.5, 0.5, 2.0, np.nan], np.float32), 1.0, np.array([0.1, 0.6, 0.1, 0.1]))
        array([0., 2., 1., 1.], dtype=float32)
    """
    learnt = np.where(drawn < ratio, 0.0, 1.0 / (1.0 - ratio))
    return np.where(losses < mean, learnt, 1.0).astype(np.float32)


class InfoBatch(Strategy):
    """Samples whose last loss is below the mean of all count for nothing with probability ``ratio``, else for more.

    Source: arXiv 2303.04947 (ICLR 2024). Each weight is 1 on average, so the expected gradient is that of plain
    training. The last ``1 - delta`` of the epochs is plain training, and so is the first, when no losses are known.

    As published, samples of weight 0 are left out, which is what saves time: ``prune=True``. By default they stay in
    their batch with weight 0, so that the number of samples and steps is that of plain training: the same expected
    gradient at no saving, for comparisons and for loops that need whole batches.

    With ``prune=True`` a loader's batches get smaller (the published code fills them up: fewer, larger steps). The
    weights of the k that are left of n are scaled by k / n [ours], so that ``(losses * weight).mean()`` is in
    expectation the mean loss of all n. Of a batch of which nothing is left, one sample is handed over, with weight 0
    [ours].

    Also ours: every sample is drawn for by itself, anew in each batch (published: exactly that share, once an epoch),
    and once for all its copies there; samples never seen count fully and are left out of the mean (published: they
    start with a loss of 3). The mean is taken over the store when an epoch begins; `WeightedStream.loader` tells of
    epochs, for DataLoaders of your own call `WeightedStream.set_epoch`. Known at hand-over time: ``weight.tensor()``
    works without losses.

    Args:
        epochs: how many epochs the training has, >= 1. None: nobody knows, and no plain training comes at the end.
        ratio: probability of weight 0 below the mean, 0 < ratio < 1.
        delta: share of the epochs before plain training, 0 < delta < 1.
        prune: hand over only samples with a weight above 0.
        seed: of the draws, a function of seed, step and sample.

    Raises:
        StrategyError: for an option outside its range; while weighing, if no epoch was begun.

    Example:
        >>> from weighted_stream import InfoBatch, WeightedStream
        >>> stream = WeightedStream(torch.arange(8.0), InfoBatch(epochs=10))
        >>> for _ in range(2):
        ...     for losses, weight in stream.loader(batch_size=8):
        ...         print(weight.resolve(losses))
        tensor([1., 1., 1., 1., 1., 1., 1., 1.])
        tensor([0., 2., 2., 2., 1., 1., 1., 1.])
    """

    remedy = "InfoBatch begins with the second epoch, when losses are known."

    def __init__(
        self, epochs: int | None = None, ratio: float = 0.5, delta: float = 0.875, prune: bool = False, seed: int = 0
    ) -> None:
        self.epochs = None if epochs is None else check_integer("InfoBatch", "epochs", epochs, least=1)
        self.ratio = check_number("InfoBatch", "ratio", ratio, above=0, below=1)
        self.delta = check_number("InfoBatch", "delta", delta, above=0, below=1)
        self.prune = check_choice("InfoBatch", "prune", prune, (False, True))
        self.seed = check_integer("InfoBatch", "seed", seed, least=0)
        self.budget = 1.0 if prune else None
        self._epoch: int | None = None
        self._memory: Memory | None = None
        self._mean = float("nan")

    def begin_epoch(self, epoch: int, memory: Memory) -> None:
        """The mean of an epoch is that of all losses stored when it begins."""
        self._epoch, self._memory = epoch, memory

    def weights(self, signals: Signals) -> Tensor:
        """(B,) float32 of 0, 1 and 1 / (1 - ratio)."""
        if self.prune:
            raise not_chosen(repr(self))
        losses = signals.first_known("last_loss")
        step = signals.scratch.setdefault(InfoBatch, signals.step)  # what it said before the feedback holds
        return torch.from_numpy(self._weigh(signals.ids, losses, step)).to(signals.device)

    def choose(self, candidates: Candidates) -> Choice:
        """With ``prune=True``: the candidates that have a weight."""
        losses = candidates.records(candidates.ids)["last_loss"]
        weights = self._weigh(candidates.ids, losses, candidates.step)
        places = np.flatnonzero(weights)
        if not len(places):
            places = np.zeros(1, np.int64)
        return Choice(places, torch.from_numpy(weights[places]) * (len(places) / len(weights)))

    def state_dict(self) -> dict[str, Any]:
        """The epoch, and the mean loss that it is weighed by."""
        return {"epoch": self._epoch, "mean": float(self._mean_of_epoch())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in that epoch.

        Raises:
            StateError: for a state of another kind of strategy.
        """
        check_keys("InfoBatch's state", state, ("epoch", "mean"))
        self._epoch, self._mean, self._memory = state["epoch"], state["mean"], None

    def _mean_of_epoch(self) -> float:
        if self._memory is not None:
            self._mean, self._memory = _mean_loss(self._memory), None
        return self._mean

    def _weigh(self, ids: NDArray[np.int64], losses: NDArray[np.float32], step: int) -> NDArray[np.float32]:
        if self._epoch is None:
            raise no_epoch("InfoBatch")
        if self.epochs is not None and self._epoch >= self.delta * self.epochs:
            return np.ones(len(ids), np.float32)
        return info_batch(losses, self._mean_of_epoch(), chance(ids, self.seed, step), self.ratio)


def _mean_loss(memory: Memory) -> float:
    """The mean of all last losses; NaN if there is none."""
    total, count = 0.0, 0
    for _, records in memory():
        known = records["last_loss"][records["visits"] > 0]
        total, count = total + float(known.sum(dtype=np.float64)), count + len(known)
    return total / count if count else float("nan")
