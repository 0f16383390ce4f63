"""Kakurenbo: what is surely learnt is hidden for an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor, inf, log, nan
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weighted_stream.selection import Candidates, Choice
from weighted_stream.signals import Records, Signals
from weighted_stream.state import check_keys
from weighted_stream.strategies.base import Memory, Strategy
from weighted_stream.strategies.chance import chance
from weighted_stream.strategies.epochs import no_epoch
from weighted_stream.strategies.options import check_choice, check_integer, check_number
from weighted_stream.strategies.selecting import not_chosen

_DECAY = ((0.3, 0.8), (0.6, 0.6), (0.8, 0.4))
"""From this part of the epochs on, this part of the share is hidden: the published schedule of ImageNet-1K."""


class Hidden(NamedTuple):
    """Which samples are hidden for an epoch.

    Attributes:
        below: all with a smaller loss are; NaN: none.
        ties: of those with this very loss, each with this probability.
        share: how many of all samples that is.
    """

    below: float
    ties: float
    share: float


def kakurenbo(losses: NDArray[np.float32], count: int, share: float = 0.3, confidence: float = 0.7) -> Hidden:
    """The ``share`` of lowest losses, of which those are moved back that are not sure. arXiv 2310.10102, section 3.

    A sample is sure if ``exp(-loss) >= confidence``. For the cross-entropy of a classifier and a confidence above 1/2
    that is the published condition: the prediction is right, and its probability is at least ``confidence``.

    Args:
        losses: (m,) latest losses of the samples that may be hidden.
        count: of all samples, at least m.
        share: of all samples to hide at most, in [0, 1).
        confidence: in [0, 1); 0: all are sure.

    Example:
        >>> kakurenbo(np.array([0.1, 0.2, 0.3, 2.0], np.float32), 4, share=0.5)
        Hidden(below=0.20000000298023224, ties=1.0, share=0.5)
        >>> kakurenbo(np.array([0.1, 0.4, 0.5, 2.0], np.float32), 4, share=0.5).share
        0.25
    """
    sure = np.sort(losses[losses <= (-log(confidence) if confidence else inf)])
    most = min(len(sure), floor(share * count + 1e-9))
    if not most:
        return Hidden(nan, 0.0, 0.0)
    last = sure[most - 1]
    less, equal = np.searchsorted(sure, last, "left"), (sure == last).sum()
    return Hidden(float(last), float((most - less) / equal), most / count)


class Kakurenbo(Strategy):
    """The samples of lowest loss that are surely learnt are left out of an epoch; the others weigh for them.

    Source: arXiv 2310.10102 (NeurIPS 2023). When an epoch begins, at most ``share`` of the samples is hidden: those of
    lowest latest loss, but for those that are not classified right with a probability of ``confidence``, see
    `kakurenbo`. The learning rate is divided by the share that is not hidden: here the weights are. With ``epochs``
    given, the share falls to 0.8, 0.6 and 0.4 of itself after 30%, 60% and 80% of them.

    As published, hidden samples are left out, which is what saves time: ``prune=True``. By default they stay in their
    batch with weight 0: for comparisons and for loops that need whole batches. With ``prune=True`` a loader's batches
    get smaller (published: fewer steps of whole batches); the weights of the k that are left of n are scaled by k / n,
    so that ``(losses * weight).mean()`` is what it would be with weight 0.

    Ours: confidence is read off the stored loss. Published, the hidden are run through the model after each epoch, for
    their new loss; here a sample that was left out of one epoch takes part in the next, which gives it one. Samples of
    equal loss at the limit are hidden by chance. Samples never seen are not hidden, so the first epoch is plain
    training. Known at hand-over time: ``weight.tensor()`` works without losses. When an epoch begins, the losses
    up to ``-log(confidence)`` are gathered: four bytes each.

    Args:
        epochs: how many epochs the training has, >= 1. None: nobody knows, and the share stays.
        share: of all samples, to hide at most, 0 < share < 1.
        confidence: 0 < confidence < 1; for the mean cross-entropy of a text it is the (geometric) mean probability of
            its tokens. None: nothing is moved back.
        prune: hand over only samples with a weight above 0; of a batch of which nothing is left, one with weight 0.
        seed: of the draws among samples of equal loss.

    Raises:
        StrategyError: for an option outside its range; while weighing, if no epoch was begun.

    Example:
        >>> from weighted_stream import Kakurenbo, WeightedStream
        >>> stream = WeightedStream(torch.tensor([0.1, 0.2, 0.5, 3.0]), Kakurenbo(share=0.5))
        >>> for _ in range(2):
        ...     for losses, weight in stream.loader(batch_size=4):
        ...         print(weight.resolve(losses))
        tensor([1., 1., 1., 1.])
        tensor([0., 0., 2., 2.])
    """

    remedy = "Kakurenbo hides samples from the second epoch on, and only those whose loss is below -log(confidence)."

    def __init__(
        self,
        epochs: int | None = None,
        share: float = 0.3,
        confidence: float | None = 0.7,
        prune: bool = False,
        seed: int = 0,
    ) -> None:
        self.epochs = None if epochs is None else check_integer("Kakurenbo", "epochs", epochs, least=1)
        self.share = check_number("Kakurenbo", "share", share, above=0, below=1)
        number = confidence is not None
        self.confidence = check_number("Kakurenbo", "confidence", confidence, above=0, below=1) if number else None
        self.prune = check_choice("Kakurenbo", "prune", prune, (False, True))
        self.seed = check_integer("Kakurenbo", "seed", seed, least=0)
        self.budget = 1.0 if prune else None
        self._epoch: int | None = None
        self._memory: Memory | None = None
        self._hidden = Hidden(nan, 0.0, 0.0)

    @property
    def hidden(self) -> float:
        """The share of the samples that is hidden in this epoch."""
        return self._of_epoch().share

    def begin_epoch(self, epoch: int, memory: Memory) -> None:
        """Whom an epoch hides is decided by the losses stored when it begins."""
        self._epoch, self._memory = epoch, memory

    def weights(self, signals: Signals) -> Tensor:
        """(B,) float32: 0, or 1 / (1 - share hidden)."""
        if self.prune:
            raise not_chosen(repr(self))
        known = {name: signals.first_known(name) for name in ("last_loss", "weight")}
        return torch.from_numpy(self._weigh(signals.ids, known)).to(signals.device)

    def choose(self, candidates: Candidates) -> Choice:
        """With ``prune=True``: the candidates that are not hidden."""
        weights = self._weigh(candidates.ids, candidates.records(candidates.ids))
        places = np.flatnonzero(weights)
        if not len(places):
            places = np.zeros(1, np.int64)
        return Choice(places, torch.from_numpy(weights[places]) * (len(places) / len(weights)))

    def state_dict(self) -> dict[str, Any]:
        """The epoch, and whom it hides."""
        return {"epoch": self._epoch, "hidden": list(self._of_epoch())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in that epoch.

        Raises:
            StateError: for a state of another kind of strategy.
        """
        check_keys("Kakurenbo's state", state, ("epoch", "hidden"))
        self._epoch, self._hidden, self._memory = state["epoch"], Hidden(*state["hidden"]), None

    def _weigh(self, ids: NDArray[np.int64], known: Records) -> NDArray[np.float32]:
        if self._epoch is None:
            raise no_epoch("Kakurenbo")
        below, ties, share = self._of_epoch()
        losses = known["last_loss"]
        hidden = losses < below
        equal = losses == np.float32(below)
        if equal.any():
            hidden |= equal & (chance(ids, self.seed, self._epoch) < ties)
        hidden &= ~self._rested(known)
        return np.where(hidden, 0.0, 1.0 / (1.0 - share)).astype(np.float32)

    def _rested(self, known: Records) -> NDArray[np.bool_]:
        """Who was left out last time, so that its loss is old."""
        rested: NDArray[np.bool_] = (known["weight"] == 0) & self.prune
        return rested

    def _of_epoch(self) -> Hidden:
        if self._memory is not None:
            memory, self._memory = self._memory, None
            self._hidden = self._decided(memory)
        return self._hidden

    def _decided(self, memory: Memory) -> Hidden:
        share, confidence, limit = self.share, self.confidence or 0.0, inf
        if self.epochs is not None and self._epoch is not None:
            share *= min((factor for start, factor in _DECAY if self._epoch >= start * self.epochs), default=1.0)
        if confidence:
            limit = -log(confidence)
        losses, count = [np.zeros(0, np.float32)], 0
        for _, records in memory():
            known = records["visits"] > 0
            count += int(known.sum())
            losses.append(records["last_loss"][known & (records["last_loss"] <= limit) & ~self._rested(records)])
        return kakurenbo(np.concatenate(losses), count, share, confidence)
