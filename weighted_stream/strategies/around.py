"""What strategies around another strategy have in common: they pass on what it has to hear."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weighted_stream.signals import Signals
from weighted_stream.strategies.base import Memory, Strategy


class Around(Strategy):
    """A strategy that goes by the weights of another one, ``strategy``."""

    strategy: Strategy

    def observe(self, signals: Signals) -> None:
        """Passed on."""
        self.strategy.observe(signals)

    def pass_by(self, signals: Signals) -> None:
        """Passed on."""
        self.strategy.pass_by(signals)

    def begin_epoch(self, epoch: int, memory: Memory) -> None:
        """Passed on."""
        self.strategy.begin_epoch(epoch, memory)

    def state_dict(self) -> dict[str, Any]:
        """Passed on."""
        return self.strategy.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Passed on."""
        self.strategy.load_state_dict(state)
