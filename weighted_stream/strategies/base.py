"""A strategy turns the signals of a batch into weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weighted_stream.errors import LossError, StrategyError
from weighted_stream.scoring.base import ScoringPlan
from weighted_stream.selection import Candidates, Choice
from weighted_stream.signals import Records, Signals
from weighted_stream.state import check_keys

Memory: TypeAlias = Callable[[], Iterator[tuple[NDArray[np.int64], Records]]]
"""Goes through everything in the store."""


class Strategy(ABC):
    """Signals in, weights out. Subclass it to add a method; nothing else in the library has to change.

    Weights are (B,), float32, detached, finite and not negative; by convention they average 1 over the window, so that
    ``(losses * weight).mean()`` has the scale of the plain loss.

    Attributes:
        joint: whether a sample's weight depends on the other samples of its batch. A joint strategy refuses a part of
            a batch whose other losses it has not seen; one that is not joint weighs each sample by itself.
        bound: the largest weight the method's theory allows, or None. Passing it warns once.
        constant: whether equal weights are what the strategy is for, so that nobody need be told of them.
        remembers: whether the store keeps the weights; not if they come from there.
        keeps_samples: whether the strategy looks at the samples themselves when it weighs them: then a loader keeps the
            batch as long as its `Weight`, and shows it as ``signals.samples``.
        local: whether the strategy looks at more of a sample than its loss, its group and what the store remembers: at
            the model's hidden states or gradients, or at the sample itself. Under several ranks it is asked about this
            rank's samples, then; any other is asked about the samples of all ranks at once, and learns from all.
        together: whether ranks do something together by its own means when it weighs or passes by: of the factors of a
            product it is asked first, as a rank without a finite loss does nothing else.
        warmup_steps: of the first so many batches the weights are all but equal, and meant to be.
        remedy: what to change if the weights never vary; a sentence for the warning.
        scoring: what the stream shall score ahead of the trainer for this strategy, or None.
        budget: None, or the share of the candidates that a selecting strategy chooses, 0 < budget <= 1: then the loader
            draws ``batch_size / budget`` candidates, asks `choose`, and hands over the chosen with their weights.
            Subclass `Selecting` for such a strategy.

    Example:
        >>> class HalfTheBatch(Strategy):
        ...     '''Only the samples with a loss above the median count.'''
        ...     joint = True
        ...     def weights(self, signals):
        ...         losses = self.losses(signals)
        ...         return 2.0 * (losses > losses.median()).float()
    """

    joint: bool = False
    bound: float | None = None
    constant: bool = False
    remembers: bool = True
    keeps_samples: bool = False
    local: bool = False
    together: bool = False
    warmup_steps: int = 0
    remedy: str = ""
    scoring: ScoringPlan | None = None
    budget: float | None = None

    @abstractmethod
    def weights(self, signals: Signals) -> Tensor:
        """The weights of these samples: (B,) float32 on ``signals.device``."""

    def observe(self, signals: Signals) -> None:
        """Learn from the finite losses just weighed. Called once per sample and batch, a retry not counted."""

    def pass_by(self, signals: Signals) -> None:
        """A batch, or a part of one, of which no loss is finite: nobody is weighed. For what all ranks do together.

        Args:
            signals: of no sample.
        """

    def begin_epoch(self, epoch: int, memory: Memory) -> None:
        """An epoch of the stream begins, or `WeightedStream.set_epoch` tells of one.

        Args:
            epoch: from 0.
            memory: goes through all there is in the store: ``(ids, records)``, some at a time.
        """

    def state_dict(self) -> dict[str, Any]:
        """What it has learned since it was made, for a stream's `state_dict`; by default there is nothing.

        Numbers, strings, None, tensors, and lists and dicts of these; copies, as training goes on. What `begin_epoch`
        decided belongs to it: when a stream goes on in the middle of an epoch, that is not called again.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there: in a strategy made with the same arguments, the same weights from now on, bit for bit.

        Raises:
            StateError: for a state that is not this strategy's.
        """
        check_keys(f"{type(self).__name__}'s state", state, ())

    def choose(self, candidates: Candidates) -> Choice:
        """Choose among candidates before they are handed over; asked of a strategy with a `budget`."""
        raise StrategyError(
            f"{type(self).__name__} does not choose samples.",
            found=f"budget={self.budget}, and no choose()",
            expected="budget=None, or a strategy that has choose()",
            do="write choose(candidates) -> Choice",
        )

    def losses(self, signals: Signals) -> Tensor:
        """This step's losses.

        Raises:
            LossError: at hand-over time, when there are none yet.
        """
        if signals.loss is None:
            raise LossError(
                f"{type(self).__name__} weighs a batch by its losses of this very step.",
                found="no losses yet",
                expected="losses (B,)",
                do="multiply: losses * weight, or call weight.resolve(losses); tensor() works afterwards",
            )
        return signals.loss

    def __mul__(self, other: Strategy) -> Strategy:
        from weighted_stream.strategies.product import Product

        return Product(self, other) if isinstance(other, Strategy) else NotImplemented

    def __repr__(self) -> str:
        traits = ("joint", "bound", "constant", "remembers", "scoring", "keeps_samples", "local", "together")
        options = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if k[0] != "_" and k not in traits)
        return f"{type(self).__name__}({options})"


def wrong_shape(strategy: Strategy, weights: Any, count: int) -> StrategyError:
    """The error for what is no vector of so many weights."""
    found = f"shape {tuple(weights.shape)}" if isinstance(weights, Tensor) else type(weights).__name__
    return no_weights(strategy, found, f"a tensor of shape ({count},)")


def no_weights(strategy: Strategy, found: str, expected: str) -> StrategyError:
    """The error for what a strategy returned in place of weights."""
    return StrategyError(
        f"{strategy!r} returned no weight per sample.",
        found=found,
        expected=expected,
        do="mend the strategy's weights(); Clip keeps weights in a range",
    )


def mean_one(weights: Tensor, signals: Signals | None = None) -> Tensor:
    """Scaled to average 1; all zero stays all zero.

    Args:
        weights: (B,).
        signals: of these samples, to average over all ranks: for joint strategies that are ``local``.
    """
    total: Tensor = weights.sum()
    count: Tensor | int = weights.numel()
    if signals is not None and signals.add_up is not None:
        total, count = signals.add_up(torch.stack([total, total.new_tensor(count)]))
    return torch.where(total > 0, weights * (count / total), weights)
