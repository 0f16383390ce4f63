"""What the strategies share that weigh by the score the store holds of each sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from torch import Tensor

from weighted_stream.errors import StrategyError
from weighted_stream.scoring.base import Scorer, ScoringPlan
from weighted_stream.scoring.identity import ScoreIdentity
from weighted_stream.signals import Signals
from weighted_stream.strategies.options import check_choice, check_integer

OnBadShard: TypeAlias = Literal["raise", "skip"]


def stored_scores(signals: Signals) -> tuple[Tensor, Tensor | None]:
    """The stored scores of these samples, and which samples have one: a mask, or None if all have.

    They stay on the host, where the store is: weights made there need no device to wait for.
    """
    scores = signals.history("similarity", device="cpu")
    known = ~scores.isnan()
    return scores, None if known.all() else known


def filled(weights: Tensor, known: Tensor | None, neutral: float) -> Tensor:
    """The weights of the known samples among those of all, (B,): ``neutral`` for the others."""
    if known is None:
        return weights
    return weights.new_full(known.shape, neutral).masked_scatter_(known, weights)


def scoring_plan(
    method: str,
    make: Callable[[], Scorer] | None,
    *,
    ahead: int,
    wait: bool,
    on_bad_shard: OnBadShard,
    progress: bool,
    whose: ScoreIdentity | None = None,
    **for_target: Any,
) -> ScoringPlan | None:
    """The plan of a strategy that has a target, or None for one that takes the scores as the store holds them.

    Args:
        method: the strategy's name, for errors.
        make: gives the scorer; None without a target.
        ahead: see `ScoringPlan`, as all that follows.
        wait: as there.
        on_bad_shard: as there.
        progress: as there.
        whose: as there.
        **for_target: other options that mean nothing without a target; None if not given.

    Raises:
        StrategyError: for an option outside its range, or one that needs a target where there is none.
    """
    plan = ScoringPlan(
        make or _no_scorer,
        check_integer(method, "ahead", ahead, least=1),
        check_choice(method, "wait", wait, (False, True)),
        check_choice(method, "on_bad_shard", on_bad_shard, ("raise", "skip")),
        check_choice(method, "progress", progress, (False, True)),
        whose,
    )
    if make is not None:
        return plan
    given = for_target | {name: value for name, value in vars(plan).items() if value != vars(_UNTOUCHED)[name]}
    useless = [f"{name}={value!r:.40}" for name, value in given.items() if value is not None]
    if useless:
        raise StrategyError(
            f"{method} without a target scores nothing, so it cannot use these options.",
            found=", ".join(useless),
            expected="a target to score by, or none of these options",
            do=f"pass target= a TargetSet, a list of samples or a file; {method}() takes the scores the store holds",
        )
    return None


def _no_scorer() -> Scorer:
    raise NotImplementedError


_UNTOUCHED = ScoringPlan(_no_scorer)
