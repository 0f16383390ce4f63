"""Factors: what a layer's per-sample gradients are products of, seen in one forward and backward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from weighted_stream.errors import LossError, StrategyError
from weighted_stream.probes.gradient_layers import Layer
from weighted_stream.probes.graph import count_uses, has_node
from weighted_stream.probes.running import aside, eager

SCALE = 256.0
"""What losses in float16 are multiplied by before their backward, and gradients divided by after it."""


class Factors(NamedTuple):
    """Per-sample gradients of one parameter, (R, C) each, as a product: ``g_i = sum_t rows_it cols_it^T``.

    A linear layer has the gradients of its output as rows and its input as columns. The bias is a parameter (R, 1) with
    columns of ones. An embedding has one-hot rows, which are given by their numbers.

    Attributes:
        rows: (B, T, R) floats, or (B, T) int64: which row.
        cols: (B, T, C) floats.
    """

    rows: Tensor
    cols: Tensor

    @property
    def one_hot(self) -> bool:
        """Whether rows are given by their numbers."""
        return not self.rows.is_floating_point()


Losses = Callable[[], Tensor]
"""Runs the model on a batch and returns one loss per sample, (B,), with its graph."""

Receive = Callable[[str, Factors, int], None]
"""Called in the backward with a parameter's name, its factors from one call of a layer, and how many calls there are
of layers with this parameter."""


def send_factors(model: nn.Module, layers: Sequence[Layer], losses: Losses, receive: Receive, whole: bool) -> Tensor:
    """One forward and backward, in evaluation mode; factors are passed on as the backward comes to a layer.

    Nothing is left behind: no ``.grad`` is written, nor are gradients of parameters computed; training flags and random
    states are restored, hooks removed. The factors of a layer are freed with what else the backward needed of it.

    Args:
        model: bare, not inside DistributedDataParallel.
        layers: of that model.
        losses: runs the model.
        receive: takes the factors.
        whole: whether ``layers`` are all uses of their parameters; then a use that was not seen raises.

    Returns:
        The losses (B,), detached.

    Raises:
        LossError: if ``losses`` returns no vector of floats with a graph.
        StrategyError: if a layer's first dimension is not the batch's, or a parameter was used out of sight.
    """
    uses: list[_Use] = []
    with aside(model), torch.set_grad_enabled(True):
        anchor = torch.zeros((), device=next(model.parameters()).device, requires_grad=True)
        # The hooks stay during the backward: checkpointing runs layers again, and must find them as they were.
        with _watched(layers, anchor, uses), eager():
            values = losses()
            _check_values(values)
            for use in uses:
                _check_use(use, len(values))
            if whole:
                _check_seen(model, layers, uses, values)
            elif not uses:
                raise _unseen(layers)
            # In float16 gradients of a mean over many tokens and words are smaller than the smallest number.
            scale = SCALE if any(use.dtype == torch.float16 for use in uses) else 1.0
            calls = Counter(name for use in uses for name in use.parameters())
            for use in uses:
                use.receive, use.scale = lambda name, factors: receive(name, factors, calls[name]), scale
            with torch.autocast(values.device.type, enabled=False):
                # The anchor is reached through every layer that is watched, and through nothing else.
                torch.autograd.grad(values.sum() * scale, anchor, allow_unused=True)
    return values.detach()


class _Use:
    """One call of a layer."""

    def __init__(self, layer: Layer, given: tuple[int, ...], made: tuple[int, ...], dtype: torch.dtype) -> None:
        self.layer, self.given, self.made, self.dtype = layer, given, made, dtype
        self.scale = 1.0  # of the gradients to come
        self.receive: Callable[[str, Factors], None] | None = None

    def parameters(self) -> Iterator[str]:
        """The names of those in training."""
        yield from (name for name in (self.layer.weight, self.layer.bias) if name is not None)

    def send(self, given: Tensor, gradient: Tensor) -> None:
        """The factors of this call: its input, and the gradient of its output."""
        assert self.receive is not None
        layer, gradient = self.layer, _as_sequence(gradient)
        if self.scale != 1.0:
            gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32)) / self.scale
        if layer.weight is not None and layer.kind == "embedding":
            index = given.flatten(1) if given.ndim > 1 else given.unsqueeze(1)
            padding: Any = layer.module.padding_idx
            if padding is not None:
                gradient = gradient.masked_fill((index == padding).unsqueeze(2), 0)
            self.receive(layer.weight, Factors(index.long(), gradient))
        elif layer.weight is not None:
            self.receive(layer.weight, Factors(gradient, _as_sequence(given)))
        if layer.bias is not None:
            total = gradient.sum(1, keepdim=True, dtype=torch.promote_types(gradient.dtype, torch.float32))
            self.receive(layer.bias, Factors(total, total.new_ones(len(total), 1, 1)))


def _as_sequence(values: Tensor) -> Tensor:
    """(B, ..., d) as (B, T, d)."""
    return values.unsqueeze(1) if values.ndim == 2 else values.flatten(1, -2)


class _Watch(torch.autograd.Function):
    """The identity on a layer's output, in place; its backward sees the gradient of it."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, anchor: Tensor, given: Tensor, use: _Use) -> Tensor:
        ctx.save_for_backward(given)
        ctx.use = use
        ctx.mark_dirty(output)  # not a view: the model may go on in place
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (given,) = ctx.saved_tensors
        ctx.use.send(given.detach(), gradients[0].detach())
        return gradients[0], None, None, None


@contextmanager
def _watched(layers: Sequence[Layer], anchor: Tensor, uses: list[_Use]) -> Iterator[None]:
    """Inside, every call of a layer is written down in ``uses``."""

    def watch(layer: Layer) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            given = args[0] if args else next(iter(kwargs.values()))
            use = _Use(layer, tuple(given.shape), tuple(output.shape), output.dtype)
            if torch.is_grad_enabled():  # else the backward never comes here
                uses.append(use)
            result: Tensor = _apply(output, anchor, given, use)
            return result

        return hook

    # Before hooks of the user's, which may change the output.
    hooks = [layer.module.register_forward_hook(watch(layer), prepend=True, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


_apply: Any = _Watch.apply


def _check_values(values: Any) -> None:
    found = f"{values.dtype} of shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
    if isinstance(values, Tensor) and values.ndim == 1 and len(values) and values.is_floating_point():
        if values.requires_grad:
            return
        found = "losses without a graph (detached, or computed under no_grad)"
    raise LossError(
        "Per-sample gradients are those of per-sample losses.",
        found=found,
        expected="one float per sample of the batch, (B,)",
        do="let loss_fn(model, batch) return losses that are neither reduced nor detached, e.g. of "
        "per_sample_cross_entropy",
    )


def _check_use(use: _Use, samples: int) -> None:
    needed = 1 if use.layer.kind == "embedding" else 2
    if len(use.given) < needed or use.given[0] != samples or use.made[0] != samples:
        raise StrategyError(
            f"The input of {use.layer.name!r} does not tell the samples apart.",
            found=f"input {use.given}, output {use.made}, for {samples} losses",
            expected=f"the batch first in both: ({samples}, ...)",
            do="leave this layer out of layers=, or let the model keep the samples along the first dimension",
        )


def _check_seen(model: nn.Module, layers: Sequence[Layer], uses: Sequence[_Use], values: Tensor) -> None:
    """Raise if a parameter has more uses in the graph than there were calls of its layers."""
    seen = Counter(name for use in uses for name in use.parameters())
    parameters = dict(model.named_parameters())
    names = {name for layer in layers for name in (layer.weight, layer.bias) if name is not None}
    if not names <= seen.keys() and has_node(values, "CheckpointFunctionBackward"):
        raise StrategyError(
            "Layers inside a reentrant checkpoint run without a graph, and their gradients cannot be seen.",
            found="torch.utils.checkpoint.checkpoint(..., use_reentrant=True) in the model",
            expected="checkpoints with use_reentrant=False, or none",
            do="checkpoint(..., use_reentrant=False); of transformers: "
            'gradient_checkpointing_enable({"use_reentrant": False})',
        )
    counted = count_uses(values, {name: parameters[name] for name in names})
    for name, count in counted.items():
        if count > seen[name]:
            raise StrategyError(
                f"{name!r} is used where no layer is called, so a part of its gradient cannot be seen.",
                found=f"{count} uses of it in the graph of the losses, {seen[name]} calls of its layers",
                expected="a parameter that is used by calls of Linear, Conv1D or Embedding alone",
                do="leave its layer out of layers= (fused losses, MultiheadAttention and compiled parts call no "
                "layer), or use the layer itself in the model and in loss_fn",
            )


def _unseen(layers: Sequence[Layer]) -> StrategyError:
    return StrategyError(
        "No call of the layers was seen, so their gradients cannot be.",
        found=f"no call of {', '.join(layer.name for layer in layers)}",
        expected="losses that come through calls of these layers",
        do="call the layer in loss_fn (fused losses that take its weight call none), or name others in layers=",
    )
