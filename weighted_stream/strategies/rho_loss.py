"""RhoLoss: of many candidates, those that the model can still learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weighted_stream.errors import LossError, StrategyError
from weighted_stream.probes.running import aside, on_device
from weighted_stream.selection import Candidates, Choice, cut
from weighted_stream.signals import Records
from weighted_stream.strategies.options import check_integer
from weighted_stream.strategies.selecting import Selecting

LossFn: TypeAlias = Callable[[Any, Any], Tensor]
"""``loss_fn(model, batch) -> (n,)``: one loss per sample, as the trainer computes it."""


class Remembered(Protocol):
    """What knows losses by sample id: a `WeightStore`."""

    def get(self, ids: Any) -> Records:
        """Records of these ids, with ``last_loss``."""


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
        stored = hasattr(reference, "get") and not isinstance(reference, Mapping)
        for name, value, good, expected in (
            ("model", model, isinstance(model, nn.Module), "the torch.nn.Module in training"),
            ("reference", reference, stored or callable(reference), "a model, a callable or a WeightStore"),
            ("loss_fn", loss_fn, callable(loss_fn), "a function (model, batch) -> losses (n,)"),
        ):
            if not good:
                raise StrategyError(
                    f"RhoLoss cannot work with this {name}.",
                    found=type(value).__name__,
                    expected=expected,
                    do="RhoLoss(model, reference, loss_fn)",
                )
        self._model, self._reference, self._loss_fn = model, reference, loss_fn
        self.at_once = None if at_once is None else check_integer("RhoLoss", "at_once", at_once, least=1)

    def choose(self, candidates: Candidates) -> Choice:
        """The candidates of the largest reducible loss, each with weight 1."""
        losses = self._run(self._model, candidates)
        reference = self._reference_losses(candidates).to(losses.device)
        places = rho_loss(losses, reference, candidates.count)
        return Choice(places.cpu().numpy(), torch.ones(len(places), device=losses.device))

    def _reference_losses(self, candidates: Candidates) -> Tensor:
        reference: Any = self._reference
        if isinstance(reference, nn.Module):
            return self._run(reference, candidates)
        if callable(reference):
            with torch.no_grad():
                return _checked(reference(candidates.batch), len(candidates), "reference")
        known = np.asarray(reference.get(candidates.ids)["last_loss"], np.float32)
        missing = candidates.ids[np.isnan(known)]
        if len(missing):
            raise _no_reference(missing)
        return torch.from_numpy(known)

    def _run(self, model: nn.Module, candidates: Candidates) -> Tensor:
        n, batch = len(candidates), candidates.batch
        size = self.at_once or n
        parts = [batch] if size >= n else [cut(batch, np.arange(a, min(a + size, n)), n) for a in range(0, n, size)]
        with aside(model):
            losses = [self._loss_fn(model, on_device(part, model)) for part in parts]
            lengths = [min(size, n - at) for at in range(0, n, size)]
            return torch.cat([_checked(part, k, "loss_fn") for part, k in zip(losses, lengths, strict=True)])


def _checked(losses: Any, count: int, who: str) -> Tensor:
    if isinstance(losses, Tensor) and losses.is_floating_point() and losses.shape == (count,):
        return losses.detach()
    found = f"{losses.dtype} of shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
    raise LossError(
        f"RhoLoss needs one loss per candidate from its {who}.",
        found=found,
        expected=f"float losses of shape ({count},)",
        do="reduce over tokens, not over samples: reduction='none', or per_sample_cross_entropy(logits, labels)",
    )


def _no_reference(ids: NDArray[np.int64]) -> StrategyError:
    return StrategyError(
        "RhoLoss finds no reference loss of some candidates in the store.",
        found=f"no last_loss of {len(ids)} samples, e.g. id {ids[0]}",
        expected="the reference model's loss of every sample, under the ids of this stream",
        do="run the reference model over the data once: reference_store.update(ids, loss=losses)",
    )
