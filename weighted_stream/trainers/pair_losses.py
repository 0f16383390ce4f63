"""PairLoss: TRL's DPOTrainer, whose sample is a pair of answers, with a loss for each pair."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from weighted_stream.errors import LossError
from weighted_stream.trainers.tagged import Micro
from weighted_stream.trainers.trainer_losses import TrainerLoss, times

OVER_THE_BATCH = {
    "aot": "sorts the pairs of a batch",
    "aot_unpaired": "sorts the answers of a batch",
    "sft": "is a mean over the tokens of all pairs of a batch",
}
"""Losses of the DPOTrainer that are not made of one loss for each pair."""


class PairLoss(TrainerLoss):
    """TRL's DPOTrainer.

    It makes a loss for each pair of the batch, takes their mean, and gives that. We let it, and see what it takes the
    mean of: the log-probabilities that it gets from the model are tensors that tell (`_Told`). The losses seen are held
    against the loss that it gave, so another way of making it is an error, not another loss.
    """

    rows = 2

    def refused(self) -> dict[str, bool]:
        """See `TrainerLoss.refused`."""
        return {
            **super().refused(),
            "losses": self._losses is not None,
            "chunk_size (its own output layer works in chunks)": self._chunk_size is not None,
            "a router's aux_loss": bool(getattr(self._trainer, "aux_loss_enabled", False)),
        }

    def check(self) -> None:
        """See `TrainerLoss.check`."""
        super().check()
        for name in self._types():
            if name in OVER_THE_BATCH:
                raise LossError(
                    f"loss_type={name!r} is not made of one loss for each pair.",
                    found=f"a loss that {OVER_THE_BATCH[name]}",
                    expected='a loss for each pair: "sigmoid", "hinge", "ipo", "robust", "bco_pair", "apo_zero", …',
                    do=f"DPOConfig(loss_type=...) without {name!r}",
                )

    def compute(self, compute: Callable[[Any, Any], Any], model: Any, inputs: Any, micro: Micro) -> Any:
        """See `TrainerLoss.compute`."""
        return times(micro, self._pairs(compute, model, inputs, micro)).mean()

    def look(self, compute: Callable[[Any, Any], Any], model: Any, inputs: Any, micro: Micro) -> Tensor:
        """See `TrainerLoss.look`."""
        names = [name for name in ("_metrics", "_total_train_tokens") if hasattr(self._trainer, name)]
        kept = {name: copy.deepcopy(getattr(self._trainer, name)) for name in names}
        try:
            return self._pairs(compute, model, inputs, micro)
        finally:
            for name, value in kept.items():  # what it logs is counted once
                setattr(self._trainer, name, value)

    def _types(self) -> list[str]:
        types = self._trainer.args.loss_type
        return [types] if isinstance(types, str) else list(types)

    def _pairs(self, compute: Callable[[Any, Any], Any], model: Any, inputs: Any, micro: Micro) -> Tensor:
        """The loss of each pair, (B,)."""

        def telling(*args: Any, **kwargs: Any) -> Any:
            outputs = model(*args, **kwargs)
            if isinstance(getattr(outputs, "log_probs", None), Tensor):
                outputs.log_probs = outputs.log_probs.as_subclass(_Told)
            return outputs

        with _telling() as seen:
            loss = compute(telling, inputs).as_subclass(Tensor)
        means = [mean.as_subclass(Tensor) for mean in seen if mean.shape == micro.ids.shape][: len(self._types())]
        scales = getattr(self._trainer.args, "loss_weights", None) or [1.0] * len(self._types())
        pairs = sum((scale * mean for scale, mean in zip(scales, means, strict=False)), torch.zeros(()))
        whole = len(means) == len(self._types()) and pairs.shape == micro.ids.shape
        if not whole or not torch.isclose(pairs.mean(), loss, rtol=1e-3, atol=1e-5, equal_nan=True):
            raise LossError(
                "Cannot see the losses of the pairs in what this DPOTrainer does.",
                found=f"{len(means)} means over pairs that do not make its loss, with trl {version('trl')}",
                expected="the mean of one loss for each pair, as TRL 1.16 takes it",
                do="use that version, or a DPOTrainer whose compute_loss is TRL's own",
            )
        return pairs


_SEEN: ContextVar[list[Tensor] | None] = ContextVar("means over pairs", default=None)


class _Told(Tensor):
    """A tensor, and all that is made of it, that tells when the mean of a vector is taken."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        seen = _SEEN.get()
        if seen is not None and func in (Tensor.mean, torch.mean) and len(args) == 1 and not kwargs:
            seen += [args[0]] if args[0].ndim == 1 else []
        made: Any = super().__torch_function__  # not annotated in torch
        return made(func, types, args, kwargs or {})


@contextmanager
def _telling() -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    token = _SEEN.set(seen)
    try:
        yield seen
    finally:
        _SEEN.reset(token)
