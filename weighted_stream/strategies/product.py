"""Products of strategies: each has its say."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import mul
from typing import Any

from torch import Tensor

from weighted_stream.errors import StrategyError
from weighted_stream.signals import Signals
from weighted_stream.state import check_keys
from weighted_stream.strategies.base import Memory, Strategy, mean_one
from weighted_stream.strategies.selecting import check_whole


class Product(Strategy):
    """The product of several strategies' weights, scaled back to average 1 over the batch.

    ``LinUpper() * Frozen()`` is the same. If every factor weighs samples one by one (``joint`` is False) so does the
    product, and nothing is rescaled. Under several ranks, if a factor looks at the model, every factor weighs within
    its rank; the product still averages 1 over all of them.

    Raises:
        StrategyError: if there is no factor, one is not a strategy, one selects, or two have targets of their own.

    Example:
        >>> from weighted_stream import Frozen, LinUpper
        >>> len((LinUpper() * Frozen() * Frozen()).factors)
        3
    """

    def __init__(self, *factors: Strategy) -> None:
        wrong = [factor for factor in factors if not isinstance(factor, Strategy)]
        if not factors or wrong:
            raise StrategyError(
                "A product needs strategies as factors.",
                found=f"{wrong or 'no factor'}",
                expected="one strategy or more",
                do="Product(LinUpper(), Frozen()), or LinUpper() * Frozen()",
            )
        self.factors: tuple[Strategy, ...] = ()
        for factor in factors:
            self.factors += factor.factors if isinstance(factor, Product) else (factor,)
        check_whole("Product", *self.factors)
        self.joint = any(factor.joint for factor in factors)
        self.constant = all(factor.constant for factor in factors)
        self.remembers = all(factor.remembers for factor in factors)
        self.keeps_samples = any(factor.keeps_samples for factor in factors)
        self.local = any(factor.local for factor in factors)
        self.together = any(factor.together for factor in factors)
        self._in_turn = sorted(self.factors, key=lambda factor: not factor.together)
        plans = [factor.scoring for factor in factors if factor.scoring is not None]
        if any(plan != plans[0] for plan in plans):
            raise StrategyError(
                "A product cannot score samples in two ways: the store holds one score of each.",
                found=f"{len(plans)} factors with a target",
                expected="one factor with a target at most",
                do="leave the target out of the others, or score the files first (weighted-stream score)",
            )
        self.scoring = plans[0] if plans else None

    def weights(self, signals: Signals) -> Tensor:
        """(B,) float32."""
        weights = reduce(mul, (factor.weights(signals) for factor in self._in_turn))
        return mean_one(weights, signals) if self.joint else weights

    def observe(self, signals: Signals) -> None:
        """Passed on to every factor."""
        for factor in self.factors:
            factor.observe(signals)

    def pass_by(self, signals: Signals) -> None:
        """Passed on to every factor."""
        for factor in self.factors:
            factor.pass_by(signals)

    def begin_epoch(self, epoch: int, memory: Memory) -> None:
        """Passed on to every factor."""
        for factor in self.factors:
            factor.begin_epoch(epoch, memory)

    def state_dict(self) -> dict[str, Any]:
        """That of every factor, by its place."""
        return {str(place): factor.state_dict() for place, factor in enumerate(self.factors)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Passed on to every factor."""
        check_keys("Product's state", state, map(str, range(len(self.factors))))
        for place, factor in enumerate(self.factors):
            factor.load_state_dict(state[str(place)])
