"""What Adam multiplies a gradient by, read from its state."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from weighted_stream.errors import StrategyError


class AdamPreconditioner:
    """Adam's diagonal, frozen at its present state: ``D = 1 / (sqrt(v / (1 - beta2^t)) + eps)``; 1 until it has one.

    v is ``exp_avg_sq`` (with ``amsgrad`` its maximum), t the optimizer's count of this parameter's steps. Momentum, the
    learning rate and weight decay are not in it. It is read anew at each call, so it follows the optimizer, a loaded
    state too. Works with the loop, foreach, fused and capturable forms of `torch.optim.Adam` and `AdamW`, and inside
    accelerate's wrapper. Published as the geometry of Filter-then-Weight (arXiv 2604.00001).

    Args:
        optimizer: of the model in training.

    Raises:
        StrategyError: for any other optimizer; its geometry is another, or it keeps its state in another form.

    Example:
        >>> weight = nn.Parameter(torch.ones(2))
        >>> optimizer = Adam([weight], eps=0.0)
        >>> preconditioner = AdamPreconditioner(optimizer)
        >>> preconditioner.diagonal(weight)
        tensor([1., 1.])
        >>> weight.grad = torch.tensor([0.5, 4.0])
        >>> optimizer.step()
        >>> preconditioner.diagonal(weight)
        tensor([2.0000, 0.2500])
    """

    def __init__(self, optimizer: Optimizer) -> None:
        inner = bare_optimizer(optimizer)
        if not isinstance(inner, (Adam, AdamW)):
            raise _no_adam(inner)
        self.optimizer: Optimizer = inner
        self._groups: dict[int, dict[str, Any]] = {}

    def diagonal(self, parameter: nn.Parameter, gradient: Tensor | None = None) -> Tensor:
        """D, in the shape of the parameter, float32 at least, on its device.

        Args:
            parameter: of the optimizer.
            gradient: of the parameter, for the D of the step that takes it, ``v' = beta2 v + (1 - beta2) gradient^2``:
                the state alone says nothing of elements that had no gradient so far (rare tokens of an embedding), and
                gives them ``1 / eps``. Here those that have none now either get 0. Ours.

        Raises:
            StrategyError: if the optimizer does not have this parameter, or keeps only a part of its state.
        """
        group = self._group(parameter)
        state: dict[str, Any] = self.optimizer.state.get(parameter, {})
        second = state.get("max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq")
        steps = _count(state.get("step", 0.0))
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        if second is None or (isinstance(steps, float) and steps == 0):
            if gradient is None:
                return torch.ones_like(parameter, dtype=dtype, requires_grad=False)
            second, steps = torch.zeros_like(parameter, requires_grad=False), 0.0
        if second.shape != parameter.shape:
            raise StrategyError(
                "The optimizer's state of a parameter does not have its shape.",
                found=f"exp_avg_sq {tuple(second.shape)} for a parameter {tuple(parameter.shape)}",
                expected="the whole state on each rank",
                do="precondition='none', or an optimizer that does not shard its state",
            )
        beta, eps = float(group["betas"][1]), float(group["eps"])
        if gradient is None:
            corrected: Tensor = second.to(dtype) / _bias(beta, steps)
            return _unless_new(steps, corrected.sqrt_().add_(eps).reciprocal_())
        now = state.get("exp_avg_sq", second).to(dtype) * beta
        now.addcmul_(gradient, gradient, value=1.0 - beta)
        if group["amsgrad"]:
            now = torch.maximum(now, second.to(dtype))
        moved = now > 0
        diagonal: Tensor = now.div_(_bias(beta, steps + 1)).sqrt_().add_(eps).reciprocal_().mul_(moved)
        return diagonal

    def _group(self, parameter: nn.Parameter) -> dict[str, Any]:
        if id(parameter) not in self._groups:  # also those of groups that were added later
            groups = self.optimizer.param_groups
            self._groups = {id(one): group for group in groups for one in group["params"]}
        if id(parameter) in self._groups:
            return self._groups[id(parameter)]
        raise StrategyError(
            "The optimizer does not step all parameters whose gradients are looked at.",
            found=f"a parameter {tuple(parameter.shape)} that is in none of its groups",
            expected="the optimizer of this model",
            do="pass the optimizer that steps these layers, or layers= that it steps",
        )


def _count(steps: Any) -> float | Tensor:
    """Steps so far: a number, or, of a fused or capturable optimizer, a tensor on the GPU, which nobody waits for."""
    if isinstance(steps, Tensor) and not steps.is_cpu:
        return steps
    return float(steps)


def _bias(beta: float, steps: float | Tensor) -> float | Tensor:
    """``1 - beta^steps``."""
    if isinstance(steps, Tensor):
        return -torch.expm1(steps * math.log(beta)) if beta > 0 else torch.ones_like(steps)
    return 1.0 - float(beta**steps)


def _unless_new(steps: float | Tensor, diagonal: Tensor) -> Tensor:
    """1 for a parameter that was not stepped yet."""
    return torch.where(steps > 0, diagonal, 1.0) if isinstance(steps, Tensor) else diagonal


def bare_optimizer(optimizer: Optimizer) -> Optimizer:
    """The optimizer inside accelerate's wrapper and others like it, or itself.

    Example:
        >>> bare_optimizer(Adam([nn.Parameter(torch.ones(2))])).__class__.__name__
        'Adam'
    """
    inner: Any = optimizer
    while isinstance(getattr(inner, "optimizer", None), Optimizer):
        inner = inner.optimizer
    bare: Optimizer = inner
    return bare


def _no_adam(optimizer: object) -> StrategyError:
    kind = type(optimizer)
    return StrategyError(
        "Gradients are preconditioned by Adam's state.",
        found=f"{kind.__module__.split('.')[0]}'s {kind.__qualname__}",
        expected="torch.optim.Adam or AdamW (loop, foreach, fused or capturable)",
        do="precondition='none' with this optimizer; 8-bit and other forms of Adam keep their state in forms of "
        "their own",
    )
