"""Per-sample losses of what a model of Hugging Face's kind returns: an object or dict with ``logits``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from weighted_stream.errors import LossError
from weighted_stream.losses import per_sample_cross_entropy

IGNORED = -100


def causal_lm_losses(outputs: Any, batch: Mapping[str, Any]) -> Tensor:
    """Each sample's mean cross-entropy over its labelled tokens, position ``t`` predicting token ``t + 1``.

    Args:
        outputs: with ``logits`` (B, T, V): a model's output object, a dict, or a tuple that begins with them.
        batch: with ``labels`` (B, T), not shifted, -100 where a token does not count.

    Returns:
        (B,), see `per_sample_cross_entropy`.

    Raises:
        LossError: if there are no logits, or no labels.

    Example:
        >>> import torch
        >>> batch = {"labels": torch.tensor([[1, 2, 3], [4, 5, -100]])}
        >>> causal_lm_losses({"logits": torch.zeros(2, 3, 10)}, batch)
        tensor([2.3026, 2.3026])
    """
    return per_sample_cross_entropy(logits_of(outputs), shifted(labels_of(batch)))


def label_losses(outputs: Any, batch: Mapping[str, Any]) -> Tensor:
    """Each sample's mean cross-entropy over its labels, nothing shifted: classifiers, masked and seq2seq models.

    Args:
        outputs: with ``logits`` (B, V) or (B, T, V).
        batch: with ``labels`` (B,) or (B, T), -100 where they do not count.

    Returns:
        (B,), see `per_sample_cross_entropy`.

    Raises:
        LossError: if there are no logits, or no labels.

    Example:
        >>> import torch
        >>> label_losses({"logits": torch.zeros(2, 10)}, {"labels": torch.tensor([1, 2])})
        tensor([2.3026, 2.3026])
    """
    return per_sample_cross_entropy(logits_of(outputs), labels_of(batch))


def shifted(labels: Tensor, none: int = IGNORED) -> Tensor:
    """Labels (…, T) moved to the positions that predict them; the last position has ``none``."""
    return F.pad(labels, (0, 1), value=none)[..., 1:]


def logits_of(outputs: Any) -> Tensor:
    """The logits in a model's output.

    Raises:
        LossError: if it has none.
    """
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if logits is None and isinstance(outputs, tuple):
        logits = next((value for value in outputs if isinstance(value, Tensor) and value.ndim > 1), None)
    if not isinstance(logits, Tensor):
        raise LossError(
            "The model returned no logits: a fused loss hides what each sample contributes.",
            found=f"{type(outputs).__name__} with {sorted(outputs)}"
            if isinstance(outputs, Mapping)
            else type(outputs).__name__,
            expected="logits (B, T, V) or (B, V)",
            do="chunk_size=1024 of WeightedTrainerMixin or ComposerWeights makes the losses from hidden states and "
            "output weights, without the logits of all tokens; or switch the fused loss off",
        )
    return logits


def labels_of(batch: Any) -> Tensor:
    """The labels in a batch.

    Raises:
        LossError: if it has none.
    """
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if not isinstance(labels, Tensor):
        raise LossError(
            "There are no labels in this batch.",
            found=f"a batch with {sorted(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__,
            expected='batch["labels"]',
            do="let the collate function make labels, or give losses= a function of yours",
        )
    return labels
