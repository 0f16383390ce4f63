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
    lengths: Tensor | None
    inputs: Any


@dataclass
class Tokens:
    """What the samples of a batch lose.

    Attributes:
        sums: (B,), each sample's sum over its labelled tokens.
        counts: (B,), how many these are.
        rows: (T,), whose a token of the one long row is; None: a row is a sample.
    """

    sums: Tensor
    counts: Tensor
    rows: Tensor | None = None

    def losses(self) -> Tensor:
        """Each sample's mean, (B,); 0 without labelled tokens."""
        return self.sums / self.counts.clamp(min=1)

    def spread(self, values: Tensor) -> Tensor:
        """Values (B,) at their samples' tokens: (B, 1), or (1, T)."""
        return values[:, None] if self.rows is None else values[self.rows][None]


def logit_tokens(outputs: Any, labels: Any, whose: Whose, shifts: bool) -> Tokens:
    """Cross-entropies of logits and labels.

    Args:
        outputs: with ``logits`` (B, T, V), (B, V), or (1, T, V) for one long row.
        labels: (B, T), (B,) or (1, T).
        whose: the samples.
        shifts: whether position ``t`` predicts label ``t + 1``.

    Raises:
        LossError: if there are no logits or labels, if another loss belongs to the model's own, or if the rows are not
            the samples.
    """
    logits = logits_of(outputs)
    if getattr(outputs, "aux_loss", None) is not None:
        raise LossError(
            "The model has a loss beside the cross-entropy, which weights for each sample would drop.",
            found="aux_loss (of a router)",
            expected="logits alone",
            do="set output_router_logits=False in the model's config, or add it in a losses= function",
        )
    ready = whose.inputs.get("shift_labels")
    if ready is not None:
        labels = ready
    else:
        labels = labels_of({"labels": labels} if labels is not None else whose.inputs)
        labels = shifted(labels) if shifts and labels.ndim > 1 else labels
    labels = labels.to(logits.device)
    labelled = labels != IGNORED
    if whose.lengths is None:
        losses = per_sample_cross_entropy(logits, labels)
        counts = labelled.reshape(len(labels), -1).sum(1)
        return Tokens(losses * counts, counts)
    each = per_sample_cross_entropy(logits.flatten(0, -2), labels.flatten())
    return _in_one_row(each, labelled.flatten(), whose)


def fused_tokens(outputs: Any, whose: Whose) -> Tokens:
    """Of the log-probabilities that TRL's fused output layer gives, 0 where there is no label.

    Args:
        outputs: with ``log_probs`` and ``label_mask``, (B, T) or (1, T).
        whose: the samples.

    Raises:
        LossError: if the rows are not the samples.
    """
    each, labelled = -outputs.log_probs, outputs.label_mask
    if whose.lengths is None:
        return Tokens(each.sum(1), labelled.sum(1))
    return _in_one_row(each.flatten(), labelled.flatten(), whose)


def _in_one_row(each: Tensor, labelled: Tensor, whose: Whose) -> Tokens:
    lengths = whose.lengths
    assert lengths is not None
    rows = torch.repeat_interleave(torch.arange(len(lengths)), lengths).to(each.device)
    missing = len(each) - len(rows)
    # A shifted row is one token shorter; what was padded belongs to nobody, and must not be labelled.
    if missing < -1 or bool(labelled[len(rows) :].any()):
        raise LossError(
            "One long row does not hold the tokens of its samples.",
            found=f"{len(each)} tokens",
            expected=f"{len(rows)}, of {len(lengths)} samples",
            do="use a collator that puts samples whole, one after another, in their order (TRL's, or "
            "DataCollatorWithFlattening)",
        )
    rows = rows[: len(each)] if missing <= 0 else torch.cat([rows, rows[-1:].expand(missing)])
    zeros = each.new_zeros(len(lengths))
    counts = torch.zeros(len(lengths), dtype=torch.long, device=each.device)
    return Tokens(zeros.index_add(0, rows, each), counts.index_add(0, rows, labelled.long()), rows)
