"""RhoLoss: of many candidates, those that the model can still learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from weighted_stream.selection import Candidates, Choice
from weighted_stream.strategies.reference import Losses, LossFn, Remembered, check_given, is_stored
from weighted_stream.strategies.selecting import Selecting


def rho_loss(losses: Tensor, reference: Tensor, count: int) -> Tensor:
    """The places of the largest ``l_model - l_reference``: the reducible holdout loss of arXiv 2206.07137.

    Args:
        losses: (n,) of the model in training.
        reference: (n,) of a model trained on held-out data: what nobody can reduce. On the same device.
        count: how many to choose, 1 <= count <= n.

    Returns:
        (count,) int64, ascending. A difference that is not finite comes last; of equal ones the first is taken.

    Example:
        >>> rho_loss(torch.tensor([5.0, 2.0, 1.0, 4.0]), torch.tensor([5.0, 0.5, 0.0, 1.0]), 2)
        tensor([1, 3])
    """
    excess = losses.float() - reference.float()
    excess = torch.where(excess.isfinite(), excess, -torch.inf)
    return excess.sort(descending=True, stable=True).indices[:count].sort().values


class RhoLoss(Selecting):
    """Choose the share ``budget`` of the candidates with the largest loss beyond that of a reference model.

    Source: RHO-LOSS, arXiv 2206.07137 (ICML 2022): large batches of which a tenth is trained on, points that are
    learnable, worth learning and not yet learnt. The loader draws ``batch_size / budget`` candidates; the trainer gets
    ``batch_size`` of them, each with weight 1. The model runs on the candidates once more, without gradients, in
    evaluation mode; modes and random states are afterwards as they were.

    Args:
        model: the model in training; the same object, so that its parameters are the current ones.
        reference: a model (run with ``loss_fn``, each time), a callable ``batch -> losses (n,)``, or a `WeightStore`
            that holds a loss of every sample under its id (its ``last_loss``; published: computed once, with a smaller
            model that was trained on held-out data).
        loss_fn: ``loss_fn(model, batch) -> losses (n,)``. The batch is on the model's device; its mappings come as
            dicts, its tuples as lists. Mixed precision, if wanted, is its own business.
        budget: share of the candidates, 0 < budget <= 1.
        at_once: run on so many candidates at a time, to bound the memory; None: on all.

    Raises:
        StrategyError: for options that cannot be; while choosing, for a sample without a stored reference loss.
        LossError: while choosing, if ``loss_fn`` or ``reference`` does not give one loss per candidate.

    Example:
        >>> from weighted_stream import RhoLoss, WeightedStream
        >>> def squares(model, batch):
        ...     return (model(batch) - batch).square().mean(1)
        >>> stream = WeightedStream(torch.randn(100, 3), RhoLoss(nn.Linear(3, 3), nn.Linear(3, 3), squares, budget=0.2))
        >>> for batch, weight in stream.loader(batch_size=10):
        ...     print(batch.shape, weight.tensor().unique())
        torch.Size([10, 3]) tensor([1.])
        torch.Size([10, 3]) tensor([1.])
    """

    def __init__(
        self,
        model: nn.Module,
        reference: nn.Module | Callable[[Any], Tensor] | Remembered,
        loss_fn: LossFn,
        budget: float = 0.1,
        at_once: int | None = None,
    ) -> None:
        super().__init__(budget)
        usable = is_stored(reference) or callable(reference)
        check_given(
            "RhoLoss(model, reference, loss_fn)",
            ("model", model, isinstance(model, nn.Module), "the torch.nn.Module in training"),
            ("reference", reference, usable, "a model, a callable or a WeightStore"),
            ("loss_fn", loss_fn, callable(loss_fn), "a function (model, batch) -> losses (n,)"),
        )
        self._model, self._reference = model, reference
        self.at_once = at_once
        self._losses = Losses("RhoLoss", loss_fn, at_once)

    def choose(self, candidates: Candidates) -> Choice:
        """The candidates of the largest reducible loss, each with weight 1."""
        losses = self._losses.of_model(self._model, candidates.batch, len(candidates))
        reference = self._losses.of_reference(self._reference, candidates.ids, candidates.batch).to(losses.device)
        places = rho_loss(losses, reference, candidates.count)
        return Choice(places.cpu().numpy(), torch.ones(len(places), device=losses.device))
