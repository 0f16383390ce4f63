"""Losses of a model without a step of training, and those of a reference: what nobody can reduce."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weighted_stream.errors import LossError, StrategyError
from weighted_stream.probes.running import aside, on_device
from weighted_stream.selection import cut
from weighted_stream.signals import Records
from weighted_stream.strategies.options import check_integer

LossFn: TypeAlias = Callable[[Any, Any], Tensor]
"""``loss_fn(model, batch) -> (n,)``: one loss per sample, as the trainer computes it."""


class Remembered(Protocol):
    """What knows losses by sample id: a `WeightStore`."""

    def get(self, ids: Any) -> Records:
        """Records of these ids, with ``last_loss``."""


Reference: TypeAlias = nn.Module | Callable[[Any], Tensor] | Remembered
"""A model, a function ``batch -> losses (n,)``, or a store that holds a loss of every sample (its ``last_loss``)."""


class Losses:
    """Runs models on batches for their losses, for one strategy.

    Args:
        method: the strategy's name, for messages.
        loss_fn: see `LossFn`; None if no model is ever run.
        at_once: so many samples at a time, to bound the memory; None: all.

    Raises:
        StrategyError: if ``at_once`` is not None or an integer of at least 1.
    """

    def __init__(self, method: str, loss_fn: LossFn | None, at_once: int | None = None) -> None:
        self._method, self._loss_fn = method, loss_fn
        self._at_once = None if at_once is None else check_integer(method, "at_once", at_once, least=1)

    def of_model(self, model: nn.Module, batch: Any, n: int) -> Tensor:
        """The model's losses of the n samples of a batch: in evaluation mode, detached.

        Raises:
            LossError: if ``loss_fn`` does not give one loss per sample.
        """
        assert self._loss_fn is not None
        size = self._at_once or n
        parts = [batch] if size >= n else [cut(batch, np.arange(a, min(a + size, n)), n) for a in range(0, n, size)]
        with aside(model):
            losses = [self._loss_fn(model, on_device(part, model)) for part in parts]
            lengths = [min(size, n - at) for at in range(0, n, size)]
            return torch.cat([self._checked(part, k, "loss_fn") for part, k in zip(losses, lengths, strict=True)])

    def of_reference(self, reference: Reference, ids: NDArray[np.int64], batch: Any) -> Tensor:
        """The reference's losses of the samples of a batch, detached; NaN where a store knows of none but broken ones.

        Raises:
            LossError: if it does not give one loss per sample.
            StrategyError: if a store has never seen one of them.
        """
        if isinstance(reference, nn.Module):
            return self.of_model(reference, batch, len(ids))
        if callable(reference):
            with torch.no_grad():
                return self._checked(reference(batch), len(ids), "reference")
        records = reference.get(ids)
        known = np.asarray(records["last_loss"], np.float32)
        missing = ids[np.isnan(known) & (np.asarray(records.get("nonfinite", 0)) == 0)]
        if len(missing):
            raise StrategyError(
                f"{self._method} finds no reference loss of some samples in the store.",
                found=f"no last_loss of {len(missing)} samples, e.g. id {missing[0]}",
                expected="the reference model's loss of every sample, under the ids of this stream",
                do="run the reference model over the data once: reference_store.update(ids, loss=losses)",
            )
        return torch.from_numpy(known)

    def of_batch(self, reference: nn.Module | Callable[[Any], Tensor], batch: Any) -> Tensor:
        """The reference's losses of a batch whose size is not known: as many as it gives.

        Raises:
            LossError: if it does not give a vector of losses.
        """
        if not isinstance(reference, nn.Module):
            with torch.no_grad():
                return self._checked(reference(batch), None, "reference")
        assert self._loss_fn is not None
        with aside(reference):
            return self._checked(self._loss_fn(reference, on_device(batch, reference)), None, "loss_fn")

    def _checked(self, losses: Any, count: int | None, who: str) -> Tensor:
        """The losses, if they are so many; None: any number."""
        if isinstance(losses, Tensor):
            shape = tuple(losses.shape)
            if losses.is_floating_point() and len(shape) == 1 and count in (None, shape[0]):
                return losses.detach()
        raise LossError(
            f"{self._method} needs one loss per sample from its {who}.",
            found=f"{losses.dtype} of shape {shape}" if isinstance(losses, Tensor) else type(losses).__name__,
            expected=f"float losses of shape ({'B' if count is None else count},)",
            do="reduce over tokens, not over samples: reduction='none', or per_sample_cross_entropy(logits, labels)",
        )


def is_stored(reference: Any) -> bool:
    """Whether the reference is a store, which needs no samples."""
    return hasattr(reference, "get") and not isinstance(reference, (Mapping, nn.Module))


def check_given(call: str, *given: tuple[str, Any, bool, str]) -> None:
    """Check arguments, each ``(name, value, whether it will do, what is expected)``.

    Args:
        call: how the strategy is made, e.g. ``"RhoLoss(model, reference, loss_fn)"``.

    Raises:
        StrategyError: for the first that will not do.
    """
    for name, value, good, expected in given:
        if not good:
            raise StrategyError(
                f"{call.partition('(')[0]} cannot work with this {name}.",
                found=type(value).__name__,
                expected=expected,
                do=call,
            )
