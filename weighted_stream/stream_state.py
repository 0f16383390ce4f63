"""The state of a stream: what is in it, and whether it may be loaded here."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from weighted_stream.errors import StateError, WeightedStreamError
from weighted_stream.feedback import Feedback
from weighted_stream.position import Position
from weighted_stream.sources.base import Fingerprint
from weighted_stream.sources.sharding import replica
from weighted_stream.state import check_keys
from weighted_stream.state_kinds import check_kinds
from weighted_stream.strategies.base import Strategy

VERSION = 2
_KEYS = ("version", "dataset", "strategy", "step", "next_epoch", "position", "store")


def take(feedback: Feedback, dataset: Fingerprint, next_epoch: int, position: Position | None) -> dict[str, Any]:
    """The state of a stream, see `WeightedStream.state_dict`."""
    strategy = feedback.strategy
    feedback.settle()
    reached = None if position is None else position.state_dict(feedback.places())
    if position is not None and reached is None:
        next_epoch = position.epoch  # it was begun, and has given nothing: it comes whole
    return {
        "version": VERSION,
        "dataset": dataset.to_json(),
        "strategy": {"name": type(strategy).__name__, "options": repr(strategy), "learned": strategy.state_dict()},
        "step": feedback.step,
        "next_epoch": next_epoch,
        "position": reached,
        "store": feedback.stored(),
    }


def load(feedback: Feedback, dataset: Fingerprint, state: Mapping[str, Any]) -> Position | None:
    """Put strategy and store back to a state, if it is one of theirs.

    Returns:
        The position to go on from; None: at the beginning of an epoch.

    Raises:
        StateError: for a state of another version, dataset or strategy; nothing has changed then.
    """
    if isinstance(state, Mapping) and isinstance(state.get("version"), int) and state["version"] != VERSION:
        raise StateError(
            "This state was saved by another version of the library.",
            found=f"version {state['version']}",
            expected=f"version {VERSION}",
            do="load it with the version that saved it",
        )
    check_keys("a stream's state", state, _KEYS)
    check_keys("a strategy's state", state["strategy"], ("name", "options", "learned"))
    check_kinds(state)
    conflict = Fingerprint.from_json(state["dataset"]).conflict(dataset)
    if conflict is not None:
        raise StateError(
            "This state is of another dataset.",
            found=conflict,
            expected="the dataset that the state was saved with; shards may be added",
            do="wrap that dataset, or begin anew without a state",
        )
    _check_strategy(feedback, state["strategy"])
    position = None if state["position"] is None else Position.from_state(state["position"], *replica())
    feedback.settle()  # or the strategy would learn from what is on its way, after it has gone back
    before = feedback.strategy.state_dict()
    try:
        _teach(feedback.strategy, state["strategy"]["learned"])
        feedback.restore(state["store"])
    except BaseException:
        feedback.strategy.load_state_dict(before)
        raise
    feedback.go_on_from(int(state["step"]))
    return position


def _teach(strategy: Strategy, learned: Mapping[str, Any]) -> None:
    try:
        strategy.load_state_dict(learned)
    except WeightedStreamError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise StateError(
            "What the strategy had learned cannot be taken from this state.",
            found=f"{type(error).__name__}: {error}",
            expected=f"what state_dict() of {strategy!r} gave",
            do="load a state that was saved whole, by the same version of the library",
        ) from error


def _check_strategy(feedback: Feedback, saved: Mapping[str, Any]) -> None:
    strategy = feedback.strategy
    if saved["name"] != type(strategy).__name__:
        raise StateError(
            "This state is of another strategy.",
            found=saved["options"],
            expected=repr(strategy),
            do="make the stream with the strategy that the state was saved with, or begin anew without a state",
        )
    if saved["options"] != repr(strategy):
        warnings.warn(
            f"The state was saved with {saved['options']}; it goes on with {strategy!r}.", RuntimeWarning, stacklevel=4
        )
