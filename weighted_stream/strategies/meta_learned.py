"""What `DataWeightingModel` and `MetaWeightNet` have in common: a small network that learns how to weigh.

Its parameters are called psi. It learns from the effect that one step on a batch has on a target, see `LookAhead`.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weighted_stream.errors import StateError, StrategyError
from weighted_stream.probes.data_parallel import average, everywhere
from weighted_stream.probes.look_ahead import LookAhead
from weighted_stream.selection import cut
from weighted_stream.signals import Signals
from weighted_stream.state import check_keys, copied
from weighted_stream.strategies.base import Strategy
from weighted_stream.strategies.seen import places_of

SMALLEST = 1e-15
"""Adam's eps for psi: its gradients are products of small numbers, of which only the direction counts."""


LEARNED = ("psi", "adam", "counted", "target")
"""What the state of every such strategy holds."""


def outer_loss(weights: Tensor, helps: Tensor) -> Tensor:
    """``-1/M sum_i a_i w_i(psi)``: its gradient is that of ``L_val(theta'(psi))``, divided by eta.

    ``grad_psi L_val(theta') = -eta/M sum_i <P grad L_val(theta'), grad l_i> grad_psi w_i`` (arXiv 2507.16178,
    1902.07379). Samples whose ``a_i`` is not finite have no say.

    Args:
        weights: w, (M,), with their graph.
        helps: a, (M,), see `Effect`.

    Example:
        >>> outer_loss(torch.tensor([1.5, 0.5]), torch.tensor([2.0, 1.0]))
        tensor(-1.7500)
    """
    return -(weights * torch.where(helps.isfinite(), helps, 0.0)).mean()


class MetaLearned(Strategy):
    """Weights by a network that learns from a target while the model trains.

    Args:
        network: features (M, F) -> weights (M,), which average 1 or need not.
        ahead: tells the effect of a step; None: the network never learns.
        lr: of psi's Adam.
        weight_decay: of psi's Adam, beside the gradient of ``L_val(theta'(psi))``.
    """

    joint = True
    local = True
    together = True
    remedy = "It has hardly learned: more updates, a larger lr, or a target that is unlike some of the data."

    def __init__(self, network: nn.Module, ahead: LookAhead | None, lr: float, weight_decay: float = 0.0) -> None:
        self._network, self._ahead = network, ahead
        self._psi = dict(network.named_parameters())
        self._adam = torch.optim.Adam(
            self._psi.values(), lr=lr, weight_decay=weight_decay, eps=SMALLEST, foreach=False, fused=False
        )
        self._decay = weight_decay
        self._batches = self._updates = self._not_finite = 0
        self.keeps_samples = ahead is not None

    @property
    def updates_made(self) -> int:
        """How often the network was updated."""
        return self._updates

    @property
    def not_finite(self) -> int:
        """How many samples had an effect that was not finite, and no say in an update."""
        return self._not_finite

    def weights(self, signals: Signals) -> Tensor:
        """(B,) float32; on a batch that is due, by the network as it is after learning from that batch.

        Raises:
            LossError: if there are no losses yet, or ``loss_fn`` does not give one per sample.
            StrategyError: if the network shall learn, and the samples themselves are not known.
        """
        losses = self.losses(signals)
        with torch.autocast(losses.device.type, enabled=False):
            features = self._features(signals)
            self._settle(features.device)
            if self._is_new(signals):
                if self._is_due() and self._all_learn(True):
                    self._learn(signals, features)
                self._count(signals)
            with torch.no_grad():
                weights: Tensor = self._network(features)
        return weights.to(losses.device)

    def pass_by(self, signals: Signals) -> None:
        """It counts as a batch; if one is due to learn from, no rank does."""
        if self._is_new(signals):
            if self._is_due():
                self._all_learn(False)
            self._count(signals)

    def _all_learn(self, ready: bool) -> bool:
        """Whether all ranks that train the model together are ready to learn from this batch: they do so together."""
        return self._ahead is not None and everywhere(self._ahead.group, ready, self._ahead.device)

    def _count(self, signals: Signals) -> None:
        self._batches += 1
        signals.scratch[self, "weighed"] = True  # a batch that is run again is not learned from again

    def _is_new(self, signals: Signals) -> bool:
        """Whether this batch has not been weighed before."""
        return (self, "weighed") not in signals.scratch

    @abstractmethod
    def _features(self, signals: Signals) -> Tensor:
        """What the network sees of these samples, (B, F), detached float32."""

    @abstractmethod
    def _is_due(self) -> bool:
        """Whether to learn from the batch that comes after ``_batches`` others."""

    def _learn(self, signals: Signals, features: Tensor) -> None:
        """One update of psi by the effect of a step on this batch."""
        assert self._ahead is not None
        self._warn_of_ranks()
        samples = self._samples(signals)
        with torch.set_grad_enabled(True):
            weights = self._network(features)
            effect = self._ahead.effect(samples, weights.detach())
            helps = effect.helps.to(weights)
            loss = outer_loss(weights, helps)
            gradients = torch.autograd.grad(loss, list(self._psi.values()))
        average(self._ahead.group, gradients)
        # Adam sees the scale of a gradient only beside a decay: then it must be that of the loss after the step.
        scale = effect.rate if self._decay else 1.0
        for parameter, gradient in zip(self._psi.values(), gradients, strict=True):
            parameter.grad = gradient * scale
        self._adam.step()
        self._adam.zero_grad()
        self._updates += 1
        self._not_finite += int((~helps.isfinite()).sum())

    def _warn_of_ranks(self) -> None:
        """A model that is not known to be trained by all ranks: each rank then learns a psi of its own. Say it once."""
        assert self._ahead is not None
        ranks = torch.distributed.is_available() and torch.distributed.is_initialized()
        if self._updates or self._ahead.group is not None or not ranks or torch.distributed.get_world_size() == 1:
            return
        warnings.warn(
            f"Each rank learns a {type(self).__name__} of its own: pass the DistributedDataParallel model, not the one "
            "inside it, if they train one model together.",
            RuntimeWarning,
            stacklevel=2,
        )

    def _samples(self, signals: Signals) -> Any:
        """The samples as handed over: those weighed, in their order (without those whose losses are not finite)."""
        if signals.samples is None:
            raise StrategyError(
                f"{type(self).__name__} learns from the samples of this batch, and does not know them.",
                found="a DataLoader of your own around the stream, or ids that no loader of it handed over lately",
                expected="batches of stream.loader(...), in the process of the stream",
                do="let stream.loader(...) make the loader; a trained DataWeightingModel works with frozen=True",
            )
        places = places_of(signals)
        size = len(places if signals.asked is None else signals.asked)  # of the whole batch: the strategy is joint
        return signals.samples if np.array_equal(places, np.arange(size)) else cut(signals.samples, places, size)

    def _settle(self, device: torch.device) -> None:
        """Psi and its Adam's state, on the device of the features."""
        if next(iter(self._psi.values())).device != device:
            self._network.to(device)
            for state in self._adam.state.values():
                state.update({name: state[name].to(device) for name in ("exp_avg", "exp_avg_sq")})

    def state_dict(self) -> dict[str, Any]:
        """Psi and its Adam's state, and how far it has come: in batches, updates and the target."""
        moments = {
            name: {key: copied(value) for key, value in self._adam.state[parameter].items()}
            for name, parameter in self._psi.items()
            if parameter in self._adam.state
        }
        return {
            "psi": {name: copied(parameter) for name, parameter in self._psi.items()},
            "adam": moments,
            "counted": [self._batches, self._updates, self._not_finite],
            "target": 0 if self._ahead is None else self._ahead.position,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there: the same weights, and the same updates, as where it was taken.

        Raises:
            StateError: for a state of another kind of strategy, or of a network of another size.
        """
        who = type(self).__name__
        check_keys(f"{who}'s state", state, LEARNED)
        if state["adam"]:
            check_keys(f"the Adam state of {who}", state["adam"], self._psi)
        moments: dict[Tensor, dict[str, Tensor]] = {}
        for name, kept in state["adam"].items():
            parameter = self._psi[name]
            check_keys(f"the Adam state of {name}", kept, ("step", "exp_avg", "exp_avg_sq"))
            moments[parameter] = {"step": torch.as_tensor(kept["step"]).clone()}
            for key in "exp_avg", "exp_avg_sq":
                check_like(f"{key} of {name}", kept[key], parameter, who)
                moments[parameter][key] = kept[key].to(parameter, copy=True)
        load_psi(self._network, state["psi"], who)
        self._adam.state.clear()
        self._adam.state.update(moments)
        self._batches, self._updates, self._not_finite = map(int, state["counted"])
        if self._ahead is not None:
            self._ahead.position = int(state["target"])


def load_psi(network: nn.Module, values: Mapping[str, Any], who: str) -> None:
    """Give a network these parameters.

    Raises:
        StateError: if they are not those of such a network.
    """
    psi = dict(network.named_parameters())
    check_keys(f"the network of {who}", values, psi)
    for name, parameter in psi.items():
        check_like(name, values[name], parameter, who)
    with torch.no_grad():
        for name, parameter in psi.items():
            parameter.copy_(values[name])


def check_like(name: str, given: Any, parameter: Tensor, who: str) -> None:
    """Raise a `StateError` unless these are finite floats in the shape of this parameter."""
    fits = isinstance(given, Tensor) and given.shape == parameter.shape and given.is_floating_point()
    if not fits or not bool(given.isfinite().all()):
        found = f"{name} {tuple(given.shape)}" if isinstance(given, Tensor) else f"{name}: {type(given).__name__}"
        raise StateError(
            f"These are not the parameters of a network like that of this {who}.",
            found=found,
            expected=f"finite floats {tuple(parameter.shape)}",
            do="make it with the options it was saved with (width, layers, anchors)",
        )
