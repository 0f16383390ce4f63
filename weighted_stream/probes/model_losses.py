"""Per-sample losses of a model on one of its batches, where it is plain what they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn

from weighted_stream.errors import StrategyError
from weighted_stream.losses import per_sample_cross_entropy
from weighted_stream.probes.running import run

LossFn: TypeAlias = Callable[[nn.Module, Any], Tensor]
"""``loss_fn(model, batch) -> (B,)``: one loss per sample, not reduced, with its graph."""


def standard_losses(model: nn.Module, batch: Any) -> Tensor:
    """The mean cross-entropy of each sample, (B,), as `per_sample_cross_entropy` has it.

    - A dict with ``labels`` of a causal language model of transformers: position t is scored by the label of t + 1.
    - A dict with ``labels`` of a classifier: logits (B, V), labels (B,).
    - A pair ``(inputs, labels)``: ``model(inputs)`` are logits, (B, V) or (B, T, V), and labels belong to them as they
      are, not shifted.

    Raises:
        StrategyError: for anything else: pass ``loss_fn``.

    Example:
        >>> import torch
        >>> standard_losses(nn.Linear(2, 3), (torch.zeros(4, 2), torch.tensor([0, 1, 2, 0]))).shape
        torch.Size([4])
    """
    if isinstance(batch, Mapping) and "labels" in batch:
        labels = batch["labels"]
        output = run(model, {key: value for key, value in batch.items() if key not in ("labels", "sample_id")})
        logits = getattr(output, "logits", output)
        if isinstance(logits, Tensor) and logits.ndim == 2:
            return per_sample_cross_entropy(logits, labels)
        config = getattr(model, "config", None)
        can_generate = getattr(model, "can_generate", bool)
        if isinstance(logits, Tensor) and can_generate() and not getattr(config, "is_encoder_decoder", False):
            return per_sample_cross_entropy(logits[:, :-1], labels[:, 1:])
    elif isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch):
        logits = model(batch[0])
        if isinstance(logits, Tensor):
            return per_sample_cross_entropy(logits, batch[1])
    kind = f"a {type(batch).__name__}"
    raise StrategyError(
        f"It is not plain what the losses of {type(model).__name__} are.",
        found=kind + (f" with {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else ""),
        expected="a dict with labels of a causal language model of transformers or a classifier, or (inputs, labels)",
        do="pass loss_fn, a function (model, batch) -> losses (B,), not reduced",
    )
