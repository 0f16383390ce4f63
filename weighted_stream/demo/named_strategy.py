"""A strategy as the command line names it: what the demo calls it, and how it is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from weighted_stream.scoring.target_set import TargetSet
from weighted_stream.shards.webdataset import as_row
from weighted_stream.strategies import Strategy, make_strategy

TOLD_OF_THE_TARGET = frozenset({"similarity", "adaptbm25"})
"""Strategies, as plain names, that are shown examples of the target."""


@dataclass(frozen=True)
class NamedStrategy:
    """A strategy and its options, as the command line gave them.

    Example:
        >>> named = NamedStrategy("linupper", {"r": 0.4})
        >>> named.label, named.needs_target, named.make([]).r
        ('linupper r=0.4', False, 0.4)
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What tables and plots call it."""
        return " ".join([self.name, *(f"{name}={value}" for name, value in self.options.items())])

    @property
    def needs_target(self) -> bool:
        """Whether it has to be told what training should become good at."""
        return self.name.lower().replace("-", "").replace("_", "") in TOLD_OF_THE_TARGET

    def make(self, examples: Sequence[str]) -> Strategy:
        """The strategy. It waits for scores, so that the same seed gives the same numbers.

        Args:
            examples: texts of the target, for a strategy that needs them.

        Raises:
            StrategyError, ScoringError: for an unknown name or an option that cannot be.
        """
        told = {"target": TargetSet(examples), "text": text_of, "wait": True} if self.needs_target else {}
        return make_strategy(self.name, **(told | dict(self.options)))

    def check(self) -> None:
        """Find out whether it can be made and used, before any work is done for it.

        Raises:
            StrategyError, ScoringError: as `make`.
            MissingExtraError: if a package it needs is not installed.
        """
        plan = self.make(["text to try it on"]).scoring
        if plan is not None:
            _ = plan.make().identity


def text_of(sample: Mapping[str, Any]) -> Any:
    """The text of a sample of the demo as its shard holds it; in a tar file it is a part of a JSON member.

    Example:
        >>> text_of({"text": "one", "kind": "readme"}), text_of({"__key__": "7", "json": b'{"text": "one"}'})
        ('one', 'one')
    """
    return (as_row(sample) if "__key__" in sample else sample)["text"]
