"""How often a model's parameters were stepped, seen from outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, finalize

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from weighted_stream.probes.taps import Tap, remove
from weighted_stream.state import check_keys


class OptimizerSteps:
    """Counts the optimizer steps of a model, whoever makes them: hooks on all optimizers of the process.

    Only optimizers that hold a parameter of the model count. Several that share the model out among them are one: the
    count is that of the busiest. A step that a gradient scaler skips is none (but of a
    fused optimizer, which skips it by itself, unseen).

    Args:
        model: whose parameters.

    Example:
        >>> import torch
        >>> model, other = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> with OptimizerSteps(model) as steps:
        ...     for parameters in (model.parameters(), other.parameters()):
        ...         torch.optim.SGD(parameters).step()
        ...     steps.count
        1
    """

    def __init__(self, model: nn.Module) -> None:
        self.ever = False
        """Whether any step was seen since this was made."""
        self.count = 0
        """Steps since `reset`, or since this was made."""
        self._before_now = 0
        self._model = model
        self._counts: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()
        self._ours: WeakSet[Optimizer] = WeakSet()
        self._begun: WeakSet[Optimizer] = WeakSet()
        before = register_optimizer_step_pre_hook(Tap(self._before))
        after = register_optimizer_step_post_hook(Tap(self._after))
        self._remove = finalize(self, remove, [before, after])

    def reset(self) -> None:
        """Count from 0 again."""
        self._counts.clear()
        self.count = self._before_now = 0

    def state_dict(self) -> dict[str, Any]:
        """The count, for all optimizers as one."""
        return {"ever": self.ever, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Count on from there."""
        check_keys("a count of optimizer steps", state, ("ever", "count"))
        self.reset()
        self.ever, self.count = bool(state["ever"]), int(state["count"])
        self._before_now = self.count

    def close(self) -> None:
        """Remove the hooks; also done when this is collected."""
        self._remove()

    def __enter__(self) -> OptimizerSteps:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _before(self, optimizer: Optimizer, *rest: Any) -> None:
        self._begun.add(optimizer)

    def _after(self, optimizer: Optimizer, *rest: Any) -> None:
        # A step() that calls its parent's step() ends twice, but counts once.
        if optimizer in self._begun and self._steps_model(optimizer):
            self.ever = True
            self._counts[optimizer] = self._counts.get(optimizer, 0) + 1
            self.count = max(self.count, self._before_now + self._counts[optimizer])
        self._begun.discard(optimizer)

    def _steps_model(self, optimizer: Optimizer) -> bool:
        if optimizer not in self._ours:
            parameters = {id(parameter) for parameter in self._model.parameters()}
            if not any(id(p) in parameters for group in optimizer.param_groups for p in group["params"]):
                return False
            self._ours.add(optimizer)
        return True
