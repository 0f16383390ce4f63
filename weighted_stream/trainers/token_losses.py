"""Losses of samples out of losses of tokens, for batches of a row each, and for batches that are one long row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from weighted_stream.errors import LossError
from weighted_stream.losses import per_sample_cross_entropy
from weighted_stream.trainers.outputs import IGNORED, labels_of, logits_of, shifted


class Whose(Protocol):
    """Whose tokens a batch holds."""

    ids: Tensor
    owners: Tensor | None
    inputs: Any


@dataclass
class Tokens:
    """What the samples of a batch lose.

    Attributes:
        sums: (B,), each sample's sum over its labelled tokens.
        counts: (B,), how many these are.
        owners: (R, T), whose each token is, -1 for nobody; None: a row is a sample.
    """

    sums: Tensor
    counts: Tensor
    owners: Tensor | None = None

    def losses(self) -> Tensor:
        """Each sample's mean, (B,); 0 without labelled tokens."""
        return self.sums / self.counts.clamp(min=1)

    def known(self) -> Tensor:
        """The same, but NaN without labelled tokens: no loss to go by, not that of the easiest sample there is."""
        return self.losses().masked_fill(self.counts == 0, torch.nan)

    def spread(self, values: Tensor) -> Tensor:
        """Values (B,) at their samples' tokens: (B, 1), or (R, T); 0 where a token is nobody's."""
        if self.owners is None:
            return values[:, None]
        return torch.where(self.owners >= 0, values[self.owners.clamp(min=0)], 0.0)


def logit_tokens(outputs: Any, labels: Any, whose: Whose, shifts: bool) -> Tokens:
    """Cross-entropies of logits and labels.

    Args:
        outputs: with ``logits`` (B, T, V), (B, V), or (R, T, V) for rows of several samples.
        labels: (B, T), (B,) or (R, T).
        whose: the samples.
        shifts: whether position ``t`` predicts label ``t + 1``.

    Raises:
        LossError: if there are no logits or labels, if another loss belongs to the model's own, or if the rows are not
            the samples.
    """
    logits = logits_of(outputs)
    check_alone(outputs)
    labels, owners = targets(labels, whose, shifts)
    labels = labels.to(logits.device)
    if owners is None:
        losses = per_sample_cross_entropy(logits, labels)
        counts = (labels != IGNORED).reshape(len(labels), -1).sum(1)
        return Tokens(losses * counts, counts)
    each = per_sample_cross_entropy(logits.flatten(0, -2), labels.flatten()).view(labels.shape)
    return summed(each, labels != IGNORED, owners, len(whose.ids))


def targets(labels: Any, whose: Whose, shifts: bool) -> tuple[Tensor, Tensor | None]:
    """The labels at the positions that predict them, and whose they are, both (R, T).

    Raises:
        LossError: if there are no labels.
    """
    ready, owners = whose.inputs.get("shift_labels"), whose.owners
    if ready is not None:
        return ready, None if owners is None else shifted(owners, -1)
    labels = labels_of({"labels": labels} if labels is not None else whose.inputs)
    if not shifts or labels.ndim < 2:
        return labels, owners
    return shifted(labels), None if owners is None else shifted(owners, -1)


def check_alone(outputs: Any) -> None:
    """Refuse a model that has another loss beside the cross-entropy.

    Raises:
        LossError: if it has.
    """
    if getattr(outputs, "aux_loss", None) is not None:
        raise LossError(
            "The model has a loss beside the cross-entropy, which weights for each sample would drop.",
            found="aux_loss (of a router)",
            expected="logits alone",
            do="set output_router_logits=False in the model's config, or add it in a losses= function",
        )


def fused_tokens(outputs: Any, whose: Whose) -> Tokens:
    """Of the log-probabilities that TRL's fused output layer gives, 0 where there is no label.

    Args:
        outputs: with ``log_probs`` and ``label_mask``, (B, T) or (R, T).
        whose: the samples.

    Raises:
        LossError: if the rows are not the samples.
    """
    each, labelled = -outputs.log_probs, outputs.label_mask
    if whose.owners is None:
        return Tokens(each.sum(1), labelled.sum(1))
    owners = shifted(whose.owners, -1)  # without shift_labels, the last position is not there
    return summed(each, labelled, owners[:, : each.shape[1]], len(whose.ids))


def summed(each: Tensor, labelled: Tensor, owners: Tensor, samples: int) -> Tokens:
    """Losses of tokens (R, T), summed for each of their owners.

    Raises:
        LossError: if a labelled token is nobody's.
    """
    owners = owners.to(each.device)
    if owners.shape != each.shape or bool((labelled & (owners < 0)).any()):
        raise LossError(
            "A long row does not hold the tokens of its samples.",
            found=f"losses of shape {tuple(each.shape)}, of tokens of shape {tuple(owners.shape)}",
            expected="each labelled token to be one of a sample's input_ids",
            do="leave padding without labels (-100), and the tokens that the collator gave as they are",
        )
    rows = owners.clamp(min=0).flatten()
    each = torch.where(labelled, each, 0.0).flatten()
    counts = torch.zeros(samples, dtype=torch.long, device=each.device)
    return Tokens(
        each.new_zeros(samples).index_add(0, rows, each), counts.index_add(0, rows, labelled.flatten().long()), owners
    )
