"""Adapt: samples whose hidden states resemble those of a target set count more."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from weighted_stream.probes.hidden_states import HiddenStateProbe, MaskOf
from weighted_stream.probes.optimizer_steps import OptimizerSteps
from weighted_stream.probes.running import Forward
from weighted_stream.probes.target import centroid, target_batches
from weighted_stream.signals import Signals
from weighted_stream.state import check_keys, copied
from weighted_stream.strategies.base import Strategy
from weighted_stream.strategies.gate import Normalize, RunningMean, normalized, sigmoid_gate
from weighted_stream.strategies.options import check_choice, check_integer, check_number
from weighted_stream.strategies.seen import Seen, places_of

PATIENCE = 50
"""Batches without any optimizer step after which batches are counted in place of steps, at least."""


class Adapt(Strategy):
    """ADAPT: weigh samples by how much the model's own hidden states liken them to a target set (arXiv 2605.05227).

    ``w_i = sigmoid(phi(x_i) . c / tau)``, with ``phi`` the position-weighted mean of the last hidden states
    (`position_weighted_mean`) and ``c`` the mean of ``phi`` over the target. Each sample is weighed by itself, from the
    training forward that is made anyway: hooks see the input of the model's output head, so that nothing in the model
    changes and no second forward is needed. Micro-batches work: ask for the weights of a part after its forward, or
    for those of the whole after all forwards.

    ``c`` is made again every ``refresh_every`` optimizer steps, when the next weights are asked for: one pass over the
    target in evaluation mode, without gradients, that leaves modes, random states and pending gradients alone.

    As published, the weights lie in (0, 1), near 0.5, and are not scaled to average 1: ``(losses * weight).mean()`` is
    smaller than the plain loss then. A constant weight only rescales the learning rate; under Adam not even that. The
    paper gives neither ``tau`` nor ``refresh_every``; the defaults are those of two independent implementations.
    The paper claims better generalisation to unseen tasks, not a better average.

    Make it before the first call of a model that `torch.compile` compiles. Restrictions: see `HiddenStateProbe`.

    Args:
        model: the model in training, bare or inside `torch.compile` or DistributedDataParallel.
        target: what the model should become good at: an iterable of batches as the model takes them (a dict goes in as
            keywords, a tuple or list by position), gone through at each refresh; a list or a DataLoader. A one-shot
            iterator is kept as a list. Tensors are moved to the model.
        tau: temperature of the gate, > 0. Small tau: a step where the score is 0.
        refresh_every: how many optimizer steps a target centroid lasts. Steps are seen in any `torch.optim.Optimizer`
            that holds a parameter of the model; if none is seen, batches are counted, with a warning.
        normalize: ``"none"`` (published) or ``"mean"`` [ours]: scaled to average 1 over the batch, which then must be
            weighed as a whole.
        center: None (published) or ``"running"`` [ours]: scores are first lowered by the mean score, under the present
            centroid, of about the latest 1,024 samples before this batch, so that an ordinary sample gets 0.5. The
            first batch is centred by itself (by the part of it that comes first).
        head: the output layer, if not ``model.get_output_embeddings()``: a module or its dotted name.
        body: in place of ``head``, the module whose output are the last hidden states; for models that do not call
            their head on all tokens (fused losses, ``logits_to_keep``).
        mask: a function (args, kwargs) -> (B, T), the attention mask in a call of the model, if it is not the argument
            ``attention_mask``.
        forward: a function (model, batch) that runs the model on a batch of the target, if it is not called as above.

    Raises:
        StrategyError: for an option outside its range, a target that is none, a head that cannot be found; when weights
            are asked for, if the hidden states of these samples were not seen.

    Example:
        >>> from weighted_stream import WeightedStream, per_sample_cross_entropy
        >>> model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9))
        >>> tokens = torch.arange(40).reshape(10, 4) % 9
        >>> stream = WeightedStream(tokens, Adapt(model, target=[tokens[:2]], head="1"))
        >>> for batch, weight in stream.loader(batch_size=5):
        ...     losses = per_sample_cross_entropy(model(batch)[:, :-1], batch[:, 1:])
        ...     (losses * weight).mean().backward()
        >>> weight.tensor().shape
        torch.Size([5])
    """

    remedy = 'Weights of Adapt lie near 0.5: a smaller tau or center="running" tells the samples apart.'

    def __init__(
        self,
        model: nn.Module,
        target: Any,
        tau: float = 1.0,
        refresh_every: int = 50,
        normalize: Normalize = "none",
        center: Literal["running"] | None = None,
        *,
        head: nn.Module | str | None = None,
        body: nn.Module | str | None = None,
        mask: MaskOf | None = None,
        forward: Forward | None = None,
    ) -> None:
        self.tau = check_number("Adapt", "tau", tau, above=0)
        self.refresh_every = check_integer("Adapt", "refresh_every", refresh_every, least=1)
        self.normalize = check_choice("Adapt", "normalize", normalize, ("none", "mean"))
        self.center = check_choice("Adapt", "center", center, (None, "running"))
        self.joint, self.local = normalize == "mean", True
        self._target = target_batches(target)
        self._forward = forward
        self._probe = HiddenStateProbe(model, head=head, body=body, mask=mask)
        self._steps = OptimizerSteps(self._probe.model)
        self._batches = 0
        self._by_batches = False
        self._running = RunningMean()
        self._centroid: Tensor | None = None

    @property
    def centroid(self) -> Tensor | None:
        """``c``, (H,) float32, as of the latest refresh; None before the first weights."""
        return self._centroid

    @torch.no_grad()
    def weights(self, signals: Signals) -> Tensor:
        """(B,) float32, in (0, 1) unless normalised.

        Raises:
            StrategyError: if the hidden states of these samples, or of the target, were not seen.
        """
        vectors, middle = self._vectors(signals)
        if self._centroid is None or self._is_due():
            self._centroid = centroid(self._probe, self._target, self._forward)
            self._steps.reset()
            self._batches = 0
        c = self._centroid.to(vectors.device)
        scores = (vectors * c).sum(1)
        if middle is not None:
            scores = scores - (middle.to(vectors.device) * c).sum()
        return normalized(sigmoid_gate(scores, self.tau), self.normalize, signals).to(signals.device)

    def observe(self, signals: Signals) -> None:
        """With ``center="running"``, take the batch into the running mean."""
        seen = signals.scratch.get(self)
        if self.center is not None and seen is not None:
            vectors = seen.at(places_of(signals))
            if vectors is not None:
                self._running.update(vectors)

    def state_dict(self) -> dict[str, Any]:
        """The target's centroid, how long it has lasted, and the running mean."""
        return {
            "centroid": copied(self._centroid),
            "steps": self._steps.state_dict(),
            "batches": self._batches,
            "by_batches": self._by_batches,
            "running": self._running.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with that centroid until it is due again.

        Raises:
            StateError: for a state of another kind of strategy.
        """
        check_keys("Adapt's state", state, ("centroid", "steps", "batches", "by_batches", "running"))
        self._centroid = copied(state["centroid"])
        self._steps.load_state_dict(state["steps"])
        self._batches, self._by_batches = int(state["batches"]), bool(state["by_batches"])
        self._running.load_state_dict(state["running"])

    def close(self) -> None:
        """Take the hooks off the model and the optimizers; also done when this is collected."""
        self._probe.close()
        self._steps.close()

    def _vectors(self, signals: Signals) -> tuple[Tensor, Tensor | None]:
        """The vectors (B, H) of these samples, and what to centre them by."""
        if self not in signals.scratch:
            self._batches += 1
            signals.scratch[self] = Seen(None if self.center is None else self._running.value)
        seen: Seen = signals.scratch[self]
        vectors = seen.of(signals, self._probe)
        if self.center is not None and seen.middle is None:
            seen.middle = vectors.mean(0)
        return vectors, seen.middle

    def _is_due(self) -> bool:
        if self._steps.ever:
            return self._steps.count >= self.refresh_every
        if not self._by_batches and self._batches >= max(self.refresh_every, PATIENCE):
            self._by_batches = True
            warnings.warn(
                f"Adapt has seen no optimizer step of {type(self._probe.model).__name__} in {self._batches} batches "
                f"and refreshes its target every {self.refresh_every} batches instead.",
                RuntimeWarning,
                stacklevel=2,
            )
        return self._by_batches and self._batches >= self.refresh_every
