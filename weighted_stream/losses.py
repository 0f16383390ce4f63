"""Per-sample losses: one number per sample of the batch, which is what a `Weight` multiplies.

`per_sample_cross_entropy` takes logits; `chunked_cross_entropy` takes hidden states and the output weights,
for models whose logits would not fit into memory. Neither shifts anything: position ``t`` of the labels
belongs to position ``t`` of the logits; a causal language model passes ``logits[:, :-1]``, ``tokens[:, 1:]``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from weighted_stream.errors import LossError

_HALF = (torch.float16, torch.bfloat16)


def per_sample_cross_entropy(
    logits: Tensor, labels: Tensor, ignore_index: int = -100, *, unlabelled: float = 0.0
) -> Tensor:
    """Each sample's cross-entropy, in nats: the mean over its labelled tokens.

    Equal to ``torch.nn.functional.cross_entropy(logits[i], labels[i])`` for each sample ``i``, in value and
    gradient, except that nothing ever divides by zero: a sample without any labelled token has loss ``unlabelled``
    and zero gradient. Logits that are NaN or +inf make their own sample's loss NaN and get zero gradient, so one
    broken sample does not reach the others' gradients through this loss; at an ignored token they do not
    count at all.

    Args:
        logits: (B, T, V) or (B, V), floating point.
        labels: (B, T) or (B,), integers in ``[0, V)`` or ``ignore_index``. Not shifted here.
        ignore_index: the label of tokens that do not count.
        unlabelled: the loss of a sample without labelled tokens. As 0.0 a strategy takes it for the easiest one of the
            batch; with ``math.nan`` a `Weight` leaves it out: weight 0, and the others are weighed without it.

    Returns:
        (B,), float32 for float16 and bfloat16 logits (computed in float32 too), else the dtype of the logits.

    Raises:
        LossError: if shapes or dtypes do not fit, or a label is out of range. The range check reads one value
            back from the device; it is left out inside ``torch.compile``.

    Example:
        >>> logits = torch.zeros(2, 3, 10)
        >>> labels = torch.tensor([[1, 2, 3], [4, -100, -100]])
        >>> per_sample_cross_entropy(logits, labels)
        tensor([2.3026, 2.3026])
    """
    if logits.ndim not in (2, 3) or not logits.is_floating_point():
        raise LossError(
            "Cannot take a per-sample cross-entropy of these logits.",
            found=f"logits of shape {tuple(logits.shape)}, {logits.dtype}",
            expected="floating point (B, T, V) or (B, V)",
            do="pass the model's raw scores, one row per label",
        )
    labels = _check_labels(labels, logits.shape[:-1], "logits")
    rows, flat, classes = logits.flatten(0, -2), labels.flatten(), logits.shape[-1]
    labelled = flat != ignore_index
    if torch.compiler.is_compiling():
        losses = _healthy_row_losses(rows, flat, labelled, ignore_index)
        return _sample_means(losses, labelled, len(labels), unlabelled)
    if not classes and labelled.any():
        raise _out_of_range(labels, classes, ignore_index)
    fits = (flat >= 0) & (flat < classes)
    # Of all rows, so that one look at their losses finds every row that cannot be used.
    losses = _row_cross_entropy(rows, flat.where(fits, 0))
    wrong, unusable = torch.stack([(labelled & ~fits).any(), losses.detach().isnan().any()]).tolist()
    if wrong:
        raise _out_of_range(labels, classes, ignore_index)
    if unusable:
        del losses  # and what their backward would need, before the same is made again
        losses = _healthy_row_losses(rows, flat, labelled, ignore_index)
    else:
        losses = losses.masked_fill(~labelled, 0.0)
    return _sample_means(losses, labelled, len(labels), unlabelled)


def _row_cross_entropy(rows: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    return F.cross_entropy(
        rows.float() if rows.dtype in _HALF else rows, labels, ignore_index=ignore_index, reduction="none"
    )


def _healthy_row_losses(rows: Tensor, labels: Tensor, labelled: Tensor, ignore_index: int) -> Tensor:
    """Losses (N,) of rows (N, V), those with a NaN or +inf cut out: NaN, and no gradient."""
    # Such a row has a NaN gradient even where its upstream gradient is zero (0 * NaN).
    healthy = rows.detach().amax(-1).isfinite()
    losses = _row_cross_entropy(rows.where(healthy[:, None], rows.new_zeros(())), labels, ignore_index)
    return losses.masked_fill(labelled & ~healthy, torch.nan)


def chunked_cross_entropy(
    hidden: Tensor,
    output_weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    chunk_size: int = 1024,
    unlabelled: float = 0.0,
) -> Tensor:
    """`per_sample_cross_entropy` of ``hidden @ output_weight.T + bias``, without ever holding all the logits.

    The logits of ``chunk_size`` labelled tokens exist at a time, forward and backward; the backward pass
    computes them again, since the weights that the losses are multiplied by are known only then. Tokens that
    are ignored, and tokens of samples with weight 0, cost nothing.

    Args:
        hidden: (B, T, H) or (B, H), what goes into the output layer (after the final norm).
        output_weight: (V, H), the weight of the output layer.
        labels: (B, T) or (B,), integers in ``[0, V)`` or ``ignore_index``. Not shifted here.
        bias: (V,), the bias of the output layer, or None.
        ignore_index: the label of tokens that do not count.
        chunk_size: tokens at a time. Memory is about ``8 * chunk_size * V`` bytes; 1024 keeps a GPU busy.
        unlabelled: the loss of a sample without labelled tokens, see `per_sample_cross_entropy`.

    Returns:
        (B,), float32 for float16 and bfloat16 inputs (and under autocast), else their dtype. Differentiable
        once, with respect to hidden states, output weight and bias. As for `per_sample_cross_entropy`, a
        sample without labelled tokens has zero gradient, and NaN stays in its own sample's loss.

    Raises:
        LossError: if shapes or dtypes do not fit, a label is out of range, or ``chunk_size < 1``.

    Example:
        >>> hidden, weight = torch.randn(2, 3, 8), torch.randn(10, 8)
        >>> labels = torch.tensor([[1, 2, 3], [4, -100, -100]])
        >>> whole = per_sample_cross_entropy(hidden @ weight.T, labels)
        >>> torch.testing.assert_close(chunked_cross_entropy(hidden, weight, labels, chunk_size=2), whole)
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        # What autocast does to an output layer; the casts are differentiable, so gradients return in the own
        # dtypes.
        dtype = torch.get_autocast_dtype(device)
        hidden, output_weight = hidden.to(dtype), output_weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    _check_output_layer(hidden, output_weight, bias, chunk_size)
    labels = _check_labels(labels, hidden.shape[:-1], "hidden states")
    flat, classes = labels.flatten(), len(output_weight)
    labelled = flat != ignore_index
    if not torch.compiler.is_compiling() and (labelled & ((flat < 0) | (flat >= classes))).any():
        raise _out_of_range(labels, classes, ignore_index)
    rows = labelled.nonzero().squeeze(1)
    with torch.autocast(device, enabled=False):
        losses: Tensor = _row_losses(hidden.flatten(0, -2)[rows], output_weight, bias, flat[rows], chunk_size)
    return _sample_means(losses.new_zeros(len(flat)).index_copy(0, rows, losses), labelled, len(labels), unlabelled)


class _RowLosses(torch.autograd.Function):
    """Cross-entropy of each row of ``hidden @ weight.T + bias``: (N, H), (V, H), (V,), (N,) -> (N,)."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, chunk_size: int
    ) -> Tensor:
        dtype = torch.float32 if hidden.dtype in _HALF else hidden.dtype
        log_sums, losses = (torch.empty(len(hidden), dtype=dtype, device=hidden.device) for _ in range(2))
        for start in range(0, len(hidden), chunk_size):
            rows = slice(start, start + chunk_size)
            logits = F.linear(hidden[rows], weight, bias).to(dtype)
            log_sums[rows] = logits.logsumexp(-1)
            losses[rows] = log_sums[rows] - logits.gather(1, labels[rows, None]).squeeze(1)
        ctx.save_for_backward(hidden, weight, bias, labels, log_sums)
        ctx.chunk_size = chunk_size
        return losses

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels, log_sums = ctx.saved_tensors
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.zeros_like(hidden) if for_hidden else None
        # Sums over all chunks, so in float32 even where the factors are bfloat16.
        grad_weight = torch.zeros_like(weight, dtype=upstream.dtype) if for_weight else None
        grad_bias = torch.zeros_like(bias, dtype=upstream.dtype) if for_bias else None
        useful = ((upstream != 0) & log_sums.isfinite()).nonzero().squeeze(1)
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in useful.split(ctx.chunk_size):
                states = hidden[rows]
                grad = F.linear(states, weight, bias).to(upstream.dtype).sub_(log_sums[rows, None]).exp_()
                grad.scatter_add_(1, labels[rows, None], grad.new_full((len(rows), 1), -1.0))
                grad *= upstream[rows, None]
                if grad_bias is not None:
                    grad_bias += grad.sum(0)
                grad = grad.to(weight.dtype)
                if grad_hidden is not None:
                    grad_hidden[rows] = grad @ weight
                if grad_weight is not None and grad_weight.dtype == grad.dtype:
                    grad_weight.addmm_(grad.T, states)
                elif grad_weight is not None:
                    grad_weight += grad.T @ states
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
        )


_row_losses: Any = _RowLosses.apply


def _sample_means(losses: Tensor, labelled: Tensor, samples: int, unlabelled: float) -> Tensor:
    """Token losses (B*T,), zero where not labelled, to sample means (B,); ``unlabelled`` where nothing is."""
    tokens = losses.numel() // samples if samples else 0
    counts = labelled.view(samples, tokens).sum(1)
    means = losses.view(samples, tokens).sum(1) / counts.clamp(min=1)
    return means if unlabelled == 0 else means.masked_fill(counts == 0, unlabelled)


def _check_labels(labels: Tensor, shape: tuple[int, ...], rows: str) -> Tensor:
    """The labels as int64, if they fit.

    Raises:
        LossError: if they are no integers, or do not fit ``shape``.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise LossError(
            "Labels must be class numbers.",
            found=f"labels of {labels.dtype}",
            expected="integers (torch.int64)",
            do="pass class indices, not one-hot vectors or probabilities",
        )
    if tuple(labels.shape) != tuple(shape):
        raise LossError(
            f"Labels and {rows} do not belong together.",
            found=f"labels of shape {tuple(labels.shape)}",
            expected=f"{tuple(shape)}, the shape of the {rows} without their last dimension",
            do="give one label per row; a causal language model passes logits[:, :-1] with tokens[:, 1:]",
        )
    return labels.long()


def _out_of_range(labels: Tensor, classes: int, ignore_index: int) -> LossError:
    wrong = (labels != ignore_index) & ((labels < 0) | (labels >= classes))
    return LossError(
        "A label is out of range.",
        found=f"label {int(labels[wrong][0])}; {int(wrong.sum())} of {wrong.numel()} are out",
        expected=f"0 to {classes - 1}, or ignore_index ({ignore_index})",
        do="check the size of the output layer against the tokenizer, and the padding label",
    )


def _check_output_layer(hidden: Tensor, weight: Tensor, bias: Tensor | None, chunk_size: int) -> None:
    """Refuse what cannot be an output layer and its input.

    Raises:
        LossError: if shapes or dtypes do not fit, or ``chunk_size < 1``.
    """
    fits = hidden.ndim in (2, 3) and weight.ndim == 2 and weight.shape[1] == hidden.shape[-1]
    if not fits or (bias is not None and tuple(bias.shape) != (len(weight),)):
        raise LossError(
            "Hidden states and output layer do not fit.",
            found=f"hidden {tuple(hidden.shape)}, output_weight {tuple(weight.shape)}"
            + ("" if bias is None else f", bias {tuple(bias.shape)}"),
            expected="hidden (B, T, H) or (B, H), output_weight (V, H), bias (V,)",
            do="pass what goes into the output layer, and that layer's weight as torch.nn.Linear keeps it",
        )
    dtypes = {hidden.dtype, weight.dtype} | ({bias.dtype} if bias is not None else set())
    if len(dtypes) > 1 or not hidden.is_floating_point():
        raise LossError(
            "Hidden states and output layer have different dtypes.",
            found=", ".join(sorted(map(str, dtypes))),
            expected="one floating point dtype",
            do="cast one of them, or call this under torch.autocast",
        )
    if chunk_size < 1:
        raise LossError(
            "A chunk must hold at least one token.",
            found=f"chunk_size={chunk_size}",
            expected="1 or more",
            do="leave it at the default of 1024, or lower it until the logits of one chunk fit",
        )
