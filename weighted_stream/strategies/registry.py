"""Strategies by name: the built-in ones, and those that other packages register through an entry point."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from weighted_stream.errors import StrategyError
from weighted_stream.strategies.adapt_bm25 import AdaptBM25
from weighted_stream.strategies.base import Strategy
from weighted_stream.strategies.dro import Dro
from weighted_stream.strategies.extremes import Extremes
from weighted_stream.strategies.frozen import Frozen
from weighted_stream.strategies.info_batch import InfoBatch
from weighted_stream.strategies.kakurenbo import Kakurenbo
from weighted_stream.strategies.lin_upper import LinUpper
from weighted_stream.strategies.online_data_mixing import OnlineDataMixing
from weighted_stream.strategies.quadratic import Quadratic
from weighted_stream.strategies.similarity import Similarity
from weighted_stream.strategies.small_loss import SmallLoss
from weighted_stream.strategies.uniform import Uniform

ENTRY_POINT_GROUP = "weighted_stream.strategies"

_BUILT_IN: tuple[type[Strategy], ...] = (
    Uniform,
    LinUpper,
    Quadratic,
    Extremes,
    Dro,
    SmallLoss,
    Similarity,
    AdaptBM25,
    Frozen,
    InfoBatch,
    Kakurenbo,
    OnlineDataMixing,
)


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def strategy_names() -> list[str]:
    """The names that `make_strategy` takes, built-in ones first.

    Example:
        >>> strategy_names()[:3]
        ['uniform', 'linupper', 'quadratic']
    """
    return [kind.__name__.lower() for kind in _BUILT_IN] + [e.name for e in entry_points(group=ENTRY_POINT_GROUP)]


def make_strategy(name: str, **options: Any) -> Strategy:
    """A strategy by its name, as commands and configuration files give it.

    Another package adds its own with an entry point in the group ``weighted_stream.strategies`` that names a class (or
    any callable) returning a `Strategy`.

    Args:
        name: e.g. ``"linupper"``; case, ``-`` and ``_`` do not matter.
        **options: the strategy's own arguments.

    Raises:
        StrategyError: for an unknown name, an option the strategy does not have, a value out of range, or an entry
            point that does not give a strategy.

    Example:
        >>> make_strategy("lin-upper", r=0.4).r
        0.4
    """
    makers: dict[str, Callable[..., Any]] = {_plain(kind.__name__): kind for kind in _BUILT_IN}
    if _plain(name) in makers:
        maker = makers[_plain(name)]
    else:
        found = [e for e in entry_points(group=ENTRY_POINT_GROUP) if _plain(e.name) == _plain(name)]
        if not found:
            raise StrategyError(
                "There is no strategy of this name.",
                found=repr(name),
                expected="one of " + ", ".join(strategy_names()),
                do="check the spelling, or install the package that registers it",
            )
        maker = found[0].load()
    parameters = inspect.signature(maker).parameters if options else {}
    unknown = [option for option in options if option not in parameters]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise StrategyError(
            f"The strategy {name!r} does not have these options.",
            found=", ".join(unknown),
            expected="options among " + (", ".join(parameters) or "none at all"),
            do="check the spelling",
        )
    strategy = maker(**options)
    if not isinstance(strategy, Strategy):
        raise StrategyError(
            f"The entry point {name!r} gave no strategy.",
            found=type(strategy).__name__,
            expected="a weighted_stream.Strategy",
            do="subclass weighted_stream.Strategy",
        )
    return strategy
