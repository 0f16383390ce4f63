"""Checks of the strategies' options: what was found, what is allowed."""

from __future__ import annotations

import math
from operator import index
from typing import Any, TypeVar

from weighted_stream.errors import StrategyError

T = TypeVar("T")


def _wrong(method: str, option: str, value: object, expected: str) -> StrategyError:
    return StrategyError(
        f"{method} cannot work with this {option}.",
        found=f"{option}={value!r}",
        expected=expected,
        do=f"pass another {option} to {method}(...)",
    )


def check_number(method: str, option: str, value: Any, *, above: float = -math.inf, below: float = math.inf) -> float:
    """A finite float with ``above < value < below``."""
    limits = " and ".join([f"above {above}"] * (above > -math.inf) + [f"below {below}"] * (below < math.inf))
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not (math.isfinite(number) and above < number < below):
        raise _wrong(method, option, value, f"a finite number {limits}".strip())
    return number


def check_integer(method: str, option: str, value: Any, *, least: int) -> int:
    """An int of at least ``least``."""
    try:
        number = None if isinstance(value, bool) else index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise _wrong(method, option, value, f"an integer of at least {least}")
    return number


def check_choice(method: str, option: str, value: T, choices: tuple[T, ...]) -> T:
    """One of ``choices``."""
    if value not in choices:
        raise _wrong(method, option, value, "one of " + ", ".join(map(repr, choices)))
    return value


def check_either(method: str, temperature: str, value: Any, share: str, size: Any) -> tuple[float | None, float | None]:
    """A temperature above 0, or an effective sample size between 0 and 1 that it is found by, or neither."""
    if value is not None and size is not None:
        raise StrategyError(
            f"{method} takes a temperature, or finds it.",
            found=f"{temperature}={value!r} and {share}={size!r}",
            expected=f"{temperature} or {share}",
            do=f"leave out one of them; {share} carries over between data and batch sizes",
        )
    return (
        None if value is None else check_number(method, temperature, value, above=0),
        None if size is None else check_number(method, share, size, above=0, below=1),
    )
