"""How far an optimizer's next step takes each parameter along a gradient: its learning rate, and Adam's diagonal."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from weighted_stream.errors import StrategyError
from weighted_stream.probes.preconditioner import AdamPreconditioner, bare_optimizer


class Stepped(NamedTuple):
    """A parameter that the step changes, and its learning rate."""

    parameter: nn.Parameter
    rate: float


class StepSizes:
    """``theta' = theta - eta P grad``: eta and P of each parameter; P is 1 for SGD, for Adam its diagonal.

    Adam's diagonal is that of the step to be taken, and is taken for a constant (see `AdamPreconditioner.diagonal`).
    Momentum, weight decay and gradient clipping are not in it.

    Args:
        model: bare.
        optimizer: its `torch.optim.SGD`, Adam or AdamW, read anew at each call; None: plain SGD.
        eta: the learning rate of all parameters; None: the optimizer's present ones, group by group.

    Raises:
        StrategyError: if there is neither optimizer nor eta, or the optimizer's step is not known.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> sizes = StepSizes(model, SGD([{"params": [model.weight]}, {"params": [model.bias], "lr": 0.5}], lr=0.1))
        >>> {name: stepped.rate for name, stepped in sizes.stepped().items()}
        {'weight': 0.1, 'bias': 0.5}
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer | None, eta: float | None = None) -> None:
        self.model, self.eta = model, eta
        self._optimizer = None if optimizer is None else bare_optimizer(optimizer)
        if self._optimizer is None and eta is None:
            raise StrategyError(
                "How far does a step of this model go?",
                found="optimizer=None and eta=None",
                expected="its optimizer, or eta, the learning rate of a step of SGD",
                do="pass optimizer=, the torch.optim.SGD, Adam or AdamW of this model",
            )
        if self._optimizer is not None and not isinstance(self._optimizer, (SGD, Adam, AdamW)):
            kind = type(self._optimizer)
            raise StrategyError(
                "How far does a step of this optimizer go?",
                found=f"{kind.__module__.split('.')[0]}'s {kind.__qualname__}",
                expected="torch.optim.SGD, Adam or AdamW",
                do="pass eta= in place of it: a step of SGD of that learning rate",
            )
        adam = isinstance(self._optimizer, (Adam, AdamW))
        self._adam = AdamPreconditioner(self._optimizer) if adam and self._optimizer is not None else None

    def stepped(self) -> dict[str, Stepped]:
        """The parameters that are in training, by name.

        Raises:
            StrategyError: if there is none.
        """
        rates = None
        if self._optimizer is not None:
            rates = {id(p): float(group["lr"]) for group in self._optimizer.param_groups for p in group["params"]}
        found: dict[str, Stepped] = {}
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad or (rates is not None and id(parameter) not in rates):
                continue
            rate = rates[id(parameter)] if self.eta is None and rates is not None else self.eta
            assert rate is not None
            found[name] = Stepped(parameter, rate)
        if not found:
            raise StrategyError(
                "The optimizer steps no parameter of this model.",
                found="a model and an optimizer without a parameter in common that requires gradients",
                expected="the optimizer of this model",
                do="pass the optimizer that steps this model",
            )
        return found

    def precondition(self, parameter: nn.Parameter, values: Tensor, gradient: Tensor) -> Tensor:
        """``P values``, with the P of the step that takes this gradient."""
        return values * 1.0 if self._adam is None else values * self._adam.diagonal(parameter, gradient)
