"""Greats: of many candidates, those that together bring down a target set's loss most in one step of SGD."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn
from torch.optim import Optimizer

from weighted_stream.probes.gradient_layers import Layers
from weighted_stream.probes.model_losses import LossFn
from weighted_stream.strategies import matching
from weighted_stream.strategies.gradient_selecting import GradientSelecting
from weighted_stream.strategies.options import check_number


class Greats(GradientSelecting):
    """GREATS: greedy choice by gradients, each of the chosen with weight 1 (Wang et al., NeurIPS 2024).

    With g_i the gradients of the candidates and g_V the mean gradient of the target set, one after the other the
    candidate with the largest ``eta <g_i, g_V> - eta^2 sum_{j chosen} <g_i, g_j>`` is taken: the gain in the target's
    loss of one more step of plain SGD of size eta, less what the chosen have gained already (the Hessian taken for the
    identity). `matching.greedy` is that rule. Optimizers that scale gradients (Adam) are treated as plain SGD, as
    published; for their geometry, and for weights, see `FilterThenWeight`.

    Ours: the target set as a whole, kept for ``refresh_every`` choices (published: a batch of validation data drawn
    anew for each step); ``eta=None``; candidates whose gradient is not finite are chosen last, with weight 0, and the
    others weigh for them.

    Cost and memory are those of `FilterThenWeight`.

    Args:
        model: the model in training, bare or inside `torch.compile` or DistributedDataParallel.
        target: what the model should become good at: an iterable of batches as ``loss_fn`` takes them.
        budget: the share of the candidates that is chosen, 0 < budget <= 1.
        layers: whose gradients; see `FilterThenWeight`.
        loss_fn: ``loss_fn(model, batch)`` gives one loss per sample, (B,); None: see `standard_losses`.
        eta: the step size, > 0; or the optimizer in training, whose learning rate of the moment it is (of the first
            parameter group; as published); None: the step at which the mean of all candidates, taken as often as
            samples are chosen, comes closest to the target.
        refresh_every: how many choices the target's gradient lasts.
        projection, at_once, workspace: see `FilterThenWeight`.

    Raises:
        StrategyError: for an option outside its range, a target that is none, layers that cannot be looked at.

    Example:
        >>> import torch
        >>> from weighted_stream import Greats, WeightedStream
        >>> model = nn.Linear(2, 1, bias=False)
        >>> def loss_fn(model, x):
        ...     return model(x).squeeze(1)           # the gradient is the sample itself
        >>> samples = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.9], [-1.0, 0.0]])
        >>> strategy = Greats(model, [torch.ones(1, 2)], budget=0.5, loss_fn=loss_fn, eta=1.0)
        >>> for batch, weight in WeightedStream(samples, strategy).loader(batch_size=2):
        ...     print(weight.ids, weight.tensor())   # the second sample adds nothing to the first
        tensor([0, 2]) tensor([1., 1.])
    """

    def __init__(
        self,
        model: nn.Module,
        target: Any,
        budget: float = 0.5,
        layers: Layers = "all",
        loss_fn: LossFn | None = None,
        *,
        eta: float | Optimizer | None = None,
        refresh_every: int = 1,
        projection: tuple[int, int] | None = None,
        at_once: int | None = None,
        workspace: int = 2**27,
    ) -> None:
        self._optimizer = eta if isinstance(eta, Optimizer) else None
        self.eta = None if eta is None or isinstance(eta, Optimizer) else check_number("Greats", "eta", eta, above=0)
        super().__init__(
            model,
            target,
            budget,
            layers,
            loss_fn,
            refresh_every=refresh_every,
            projection=projection,
            at_once=at_once,
            workspace=workspace,
        )

    def _match(self, c: matching.Floats, K: matching.Floats, count: int) -> tuple[matching.Places, matching.Floats]:
        """``count`` places, each with weight 1."""
        eta = self.eta
        if self._optimizer is not None:
            # A rate of 0, as schedules begin with: the order is that of the smallest steps.
            eta = float(self._optimizer.param_groups[0]["lr"]) or float(np.finfo(np.float64).tiny)
        return matching.greedy(c, K, count, eta), np.ones(count)
