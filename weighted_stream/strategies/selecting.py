"""What selecting strategies have in common, and who may not stand around one."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from weighted_stream.errors import StrategyError
from weighted_stream.selection import Candidates, Choice
from weighted_stream.signals import Signals
from weighted_stream.strategies.base import Strategy


class Selecting(Strategy):
    """A strategy that chooses samples before they are handed over, and weighs the chosen.

    Subclasses write `choose`. The weights it returns are those the trainer gets, whatever the losses.

    Args:
        budget: the share of the candidates to choose, 0 < budget <= 1.

    Raises:
        StrategyError: for another budget.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> class Longest(Selecting):
        ...     def choose(self, candidates):
        ...         lengths = (candidates.batch != 0).sum(1)
        ...         places = lengths.topk(candidates.count).indices.sort().values
        ...         return Choice(places.numpy(), torch.ones(len(places)))
        >>> from weighted_stream import WeightedStream
        >>> stream = WeightedStream([torch.arange(8) < n for n in range(8)], Longest(budget=0.25))
        >>> for batch, weight in stream.loader(batch_size=2):
        ...     print(weight.ids)
        tensor([6, 7])
    """

    def __init__(self, budget: float) -> None:
        self.budget = check_budget(type(self).__name__, budget)

    @abstractmethod
    def choose(self, candidates: Candidates) -> Choice:
        """The chosen, and their weights."""

    def weights(self, signals: Signals) -> Tensor:
        """Not asked of samples that were chosen: they have their weights.

        Raises:
            StrategyError: always: these samples were never chosen.
        """
        raise not_chosen(repr(self))


def check_budget(method: str, budget: Any) -> float:
    """A budget as a float.

    Raises:
        StrategyError: if it is no share.
    """
    number = isinstance(budget, (int, float)) and not isinstance(budget, bool)
    if not number or not 0 < budget <= 1:
        raise StrategyError(
            f"{method} cannot work with this budget.",
            found=f"budget={budget!r}",
            expected="a share of the candidates, above 0 and at most 1",
            do=f"for one sample of ten: {method}(..., budget=0.1)",
        )
    return float(budget)


def not_chosen(strategy: str) -> StrategyError:
    """The error for samples that never went through `choose`, or long ago."""
    return StrategyError(
        f"{strategy} chooses samples before they are handed over, and has not chosen these.",
        found="samples from a DataLoader of your own, or ids that are not of one of the latest batches",
        expected="batches of stream.loader(batch_size=...), each with its weight",
        do="let stream.loader(...) make the loader; with as_dict, ask stream.weight(ids) before the next batches",
    )


def check_whole(method: str, *strategies: Strategy) -> None:
    """Refuse to change the weights of a selecting strategy: they belong to its choice.

    Raises:
        StrategyError: if one of the strategies selects.
    """
    for strategy in strategies:
        if strategy.budget is not None:
            raise StrategyError(
                f"{method} cannot change what a selecting strategy decides.",
                found=repr(strategy),
                expected="strategies that weigh the samples they get",
                do="use the selecting strategy alone; its choice and its weights belong together",
            )
