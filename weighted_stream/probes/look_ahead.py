"""One step ahead: how much each sample of a batch would help a target set if it counted more in the next step.

The bi-level update of the Data Weighting Model (arXiv 2507.16178) and Meta-Weight-Net (arXiv 1902.07379) without
per-sample gradients and without a graph through the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from weighted_stream.errors import LossError, StrategyError
from weighted_stream.probes.data_parallel import average, data_parallel_group
from weighted_stream.probes.directional import REACH, Derivatives, by_difference, by_forward_mode
from weighted_stream.probes.full_precision import full_float32, refused_below_32_bits
from weighted_stream.probes.model_losses import LossFn, standard_losses
from weighted_stream.probes.running import aside, eager, on_device, unwrapped
from weighted_stream.probes.step_sizes import Stepped, StepSizes
from weighted_stream.probes.target import KeptTarget

T = TypeVar("T")


class Effect(NamedTuple):
    """What a step on a batch does to a target.

    Attributes:
        helps: (B,), ``a_i = sum_p r_p <P_p g_p, grad_p l_i>`` with g the target's gradient after the step, and r the
            parameters' learning rates relative to ``rate``. The target's loss after the step, as a function of the
            weights, has the derivative ``-rate / B * a_i``: more weight on samples with a positive one lowers it.
        rate: the largest learning rate, eta.
        losses: (B,), of the batch before the step.
        target_loss: (), after the step.
    """

    helps: Tensor
    rate: float
    losses: Tensor
    target_loss: Tensor


class LookAhead:
    """Takes a step of SGD or of Adam on the side, and asks a target what it was worth.

    ``theta' = theta - eta P grad mean_i(w_i l_i(theta))``, ``g = grad L_val(theta')``, ``d = P g``; and with two
    forwards more ``a_i = <d, grad l_i(theta)> = (l_i(theta + e d) - l_i(theta - e d)) / 2e``, up to ``O(e^2)``: these
    are the derivatives of ``L_val(theta')`` by the weights, times ``-M / eta``. They are scaled so that a learning rate
    of 0, in a warm-up, still tells in which direction to go.

    All of it runs on the side: in evaluation mode (no dropout; BatchNorm by its running statistics), in the parameters'
    own precision (without autocast, without TF32), and with other parameters in place of the model's own, which stay
    untouched, as do ``.grad``, modes and random states. Where the model is in DistributedDataParallel, both
    gradients are averaged over its ranks: each rank sees the effect of the step that all take together, and all ranks
    must ask at the same time.

    Costs a forward and backward of the batch, one of a target batch, and two forwards of the batch; memory for the
    graph of one of them and three copies of the parameters in training.

    Args:
        model: bare, or inside `torch.compile` or DistributedDataParallel; its parameters whole on each rank, and of 32
            bits or more (with ``"exact"``, those in training).
        target: an iterable of batches as ``loss_fn`` takes them. They are read once, when first needed, and kept; each
            call of `effect` takes the next, over and over.
        optimizer: of the model, `torch.optim.SGD`, Adam or AdamW; see `StepSizes`.
        eta: the learning rate, if not the optimizer's.
        loss_fn: ``loss_fn(model, batch)`` gives one loss per sample, (B,); it gets the bare model. None:
            `standard_losses`.
        derivatives: ``"difference"``, the two forwards, right to about 1e-3 in float32; or ``"exact"``, one forward
            that carries its derivative along, at the cost of about three and of attention's whole matrices, and only
            for operations that have a forward derivative. The one for a ``loss_fn`` or a model that enters autocast
            by itself (accelerate's do): a difference is less than 16 bits can tell.
        reach: how far the two forwards stand from the parameters: ``e |d|`` as a share of ``|theta|``.

    Raises:
        StrategyError: for a target that is none, or an optimizer whose step is not known; in `effect`, with
            ``"difference"``, if a layer computes in less than 32 bits.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> x, y = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])
        >>> ahead = LookAhead(model, [(x[:1], y[:1])], eta=0.1)
        >>> ahead.effect((x, y), torch.ones(2)).helps.sign()      # the second one has another label
        tensor([ 1., -1.])
    """

    def __init__(
        self,
        model: nn.Module,
        target: Any,
        optimizer: Optimizer | None = None,
        *,
        eta: float | None = None,
        loss_fn: LossFn | None = None,
        derivatives: Derivatives = "difference",
        reach: float = REACH,
    ) -> None:
        self.model = unwrapped(model)
        self.group = data_parallel_group(model)
        """The ranks that train this model together; None: this one alone."""
        self.loss_fn = loss_fn or standard_losses
        self.position = 0
        """How many batches of the target were taken."""
        self._sizes = StepSizes(self.model, optimizer, eta)
        self._target = KeptTarget(target, self.model)
        self._reach = reach
        self.derivatives = derivatives
        self._inside = _Inside(self.model)

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return next(self.model.parameters()).device

    def effect(self, batch: Any, weights: Tensor) -> Effect:
        """The effect of a step on this batch.

        Args:
            batch: as ``loss_fn`` takes it; tensors are moved to the model's device.
            weights: w, (B,), detached.

        Raises:
            LossError: if ``loss_fn`` does not give one loss for each weight, with a graph.
            StrategyError: if the gradients of the step or of the target are not finite, or parameters have 16 bits.
        """
        stepped = self._sizes.stepped()
        self._check_precision(stepped)
        rate = max(size.rate for size in stepped.values())
        target = self._target.batches
        batch, after = on_device(batch, self.model), target[self.position % len(target)]
        self.position += 1

        def weighted(losses: Tensor) -> Tensor:
            if len(losses) != len(weights):
                raise _no_losses(f"{len(losses)} losses", f"{len(weights)}, one per sample of the batch")
            return (losses * weights.to(losses)).mean()

        with self._on_the_side():
            here = {name: size.parameter.detach() for name, size in stepped.items()}
            losses, gradient = self._gradient(here, batch, weighted, "batch")
            ahead = {}
            for name, (parameter, eta) in stepped.items():
                step = self._sizes.precondition(parameter, gradient[name], gradient[name])
                ahead[name] = step.mul_(-eta).add_(here[name])
            values, along = self._gradient(ahead, on_device(after, self.model), torch.mean, "target")
            del ahead
            for name, (parameter, eta) in stepped.items():
                along[name] = self._sizes.precondition(parameter, along[name], gradient.pop(name))
                along[name] *= eta / rate if rate > 0 else 1.0
            return Effect(self._derivatives(here, along, batch), rate, losses, values.mean())

    def _gradient(
        self, parameters: Mapping[str, Tensor], batch: Any, reduce: Callable[[Tensor], Tensor], what: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses (B,), and the gradient of their reduction, averaged over the ranks."""
        leaves = {name: values.detach().requires_grad_() for name, values in parameters.items()}

        def run() -> tuple[Tensor, tuple[Tensor, ...]]:
            losses = self._losses(batch)
            # Here, not outside: what checkpointing runs again in the backward must find the same parameters.
            gradients = torch.autograd.grad(reduce(losses), list(leaves.values()), materialize_grads=True)
            return losses.detach(), gradients

        with torch.set_grad_enabled(True):
            losses, gradients = self._with(leaves, run)
        average(self.group, gradients)
        found = dict(zip(leaves, gradients, strict=True))
        place = gradients[0].device
        if not torch.stack([gradient.isfinite().all().to(place) for gradient in gradients]).all():  # read back once
            raise StrategyError(
                f"The gradient of the {what} is not finite.",
                found="NaN or infinity",
                expected="finite losses and gradients of all its samples",
                do="look at its samples (no labels? empty sequences?), at the learning rate, and whether training has "
                "diverged",
            )
        return losses, found

    def _derivatives(self, here: Mapping[str, Tensor], along: Mapping[str, Tensor], batch: Any) -> Tensor:
        """``<d, grad l_i>``, (B,)."""

        def losses_at(parameters: Mapping[str, Tensor]) -> Tensor:
            return self._with(parameters, lambda: self._losses(batch))

        if self.derivatives == "exact":
            return by_forward_mode(losses_at, here, along)
        with refused_below_32_bits(self.model):
            return by_difference(losses_at, here, along, self._reach)

    def _losses(self, batch: Any) -> Tensor:
        losses = self.loss_fn(self.model, batch)
        if not isinstance(losses, Tensor) or losses.ndim != 1 or not losses.is_floating_point() or not len(losses):
            found = f"{losses.dtype} {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
            raise _no_losses(found, "one float per sample of the batch, (B,)")
        if torch.is_grad_enabled() and not losses.requires_grad:
            raise _no_losses("losses without a graph (detached, or of a copy of the model)", "losses with their graph")
        return losses

    def _check_precision(self, stepped: Mapping[str, Stepped]) -> None:
        exact = self.derivatives == "exact"
        short = [n for n, p in self.model.named_parameters() if p.dtype.itemsize < 4 and (n in stepped or not exact)]
        if short:
            raise StrategyError(
                "A step ahead drowns in the rounding of 16 bits.",
                found=f"parameters of less than 32 bits: {', '.join(short[:3])} …",
                expected="parameters in float32 or float64; the training itself may run under autocast",
                do="keep the model in float32 and train under torch.autocast; if only parameters in training are in "
                'float32 (adapters): derivatives="exact"',
            )

    def _with(self, parameters: Mapping[str, Tensor], run: Callable[[], T]) -> T:
        """What ``run`` gives while the model has these parameters."""
        renamed = {f"model.{name}": values for name, values in parameters.items()}
        result: T = functional_call(self._inside, renamed, (run,))
        return result

    @contextmanager
    def _on_the_side(self) -> Iterator[None]:
        device = next(self.model.parameters()).device.type
        with aside(self.model), eager(), torch.autocast(device, enabled=False), full_float32():
            yield


class _Inside(nn.Module):
    """Runs a function while a model has other parameters; a backward in it has them too."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, run: Callable[[], Any]) -> Any:
        return run()


def _no_losses(found: str, expected: str) -> LossError:
    return LossError(
        "A step ahead needs the losses of each sample.",
        found=found,
        expected=expected,
        do="let loss_fn(model, batch) return losses that are neither reduced nor detached, e.g. of "
        "per_sample_cross_entropy",
    )
