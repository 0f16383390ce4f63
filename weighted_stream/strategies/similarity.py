"""Similarity: the more a sample resembles what training should become good at, the more it counts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from weighted_stream.scoring.encoders import as_encoder, encoder_name
from weighted_stream.scoring.fields import TextField
from weighted_stream.scoring.identity import ScoreIdentity
from weighted_stream.scoring.similarity_scorer import SimilarityScorer
from weighted_stream.scoring.target_set import TargetSet
from weighted_stream.signals import Signals
from weighted_stream.state import check_keys
from weighted_stream.strategies.base import Strategy, mean_one
from weighted_stream.strategies.gate import sigmoid_gate
from weighted_stream.strategies.gibbs import Scalar, gibbs, gibbs_against
from weighted_stream.strategies.options import check_choice, check_either, check_integer
from weighted_stream.strategies.stored_scores import OnBadShard, filled, scoring_plan, stored_scores
from weighted_stream.strategies.temperature import Gate, effective_share, middle, temperature_for
from weighted_stream.strategies.window import RUNNING_MINIMUM, RunningWindow, Window

DEFAULT_ESS = 0.7

WARN_BELOW = 0.3
"""Effective share of the window below which softmax weights were no better than uniform."""


def similarity_weights(scores: Tensor, tau: Scalar, gate: Gate = "softmax") -> Tensor:
    """Mean-1 weights of a window: ``M * softmax(s / tau)``, or ``sigmoid((s - mean) / tau)`` over its mean [ours].

    Args:
        scores: (M,) float32, finite, of the whole window.
        tau: temperature, in the unit of the score.
        gate: ``"softmax"`` or ``"sigmoid"``.

    Returns:
        (M,) float32, averaging 1.

    Example:
        >>> similarity_weights(torch.tensor([0.1, 0.3, 0.5]), tau=0.2)
        tensor([0.2701, 0.7342, 1.9957])
        >>> similarity_weights(torch.tensor([0.1, 0.3, 0.5]), tau=0.2, gate="sigmoid")
        tensor([0.5379, 1.0000, 1.4621])
    """
    if gate == "softmax":
        return gibbs(scores, tau)
    return mean_one(sigmoid_gate(scores - middle(scores), tau))


def similarity_weights_against(scores: Tensor, reference: Tensor, tau: Scalar, gate: Gate = "softmax") -> Tensor:
    """`similarity_weights` of each sample by itself, normalised over a reference window [ours].

    Args:
        scores: (M,) float32; one outside the window's range counts as its end.
        reference: (W,) float32, the window.
        tau: temperature.
        gate: ``"softmax"`` or ``"sigmoid"``.

    Returns:
        (M,) float32, averaging 1 over samples that are distributed as the window is.
    """
    scores = torch.clamp(scores, reference.amin(), reference.amax())
    if gate == "softmax":
        return gibbs_against(scores, reference, tau)
    mean = middle(reference)
    return sigmoid_gate(scores - mean, tau) / sigmoid_gate(reference - mean, tau).mean()


class Similarity(Strategy):
    """Favour samples that resemble a target set, by the similarity the store holds of them [ours].

    The relative of ADAPT (arXiv 2605.05227) with an encoder of its own in place of the states of the model in
    training. With a target the stream has the samples scored ahead of the trainer; without one it takes the scores the
    store holds. A sample without a score counts 1 and takes no part in the window. No losses are needed, so
    ``weight.tensor()`` gives the weights as soon as there is a batch.

    Args:
        target: a `TargetSet`, or what one is made of: a list of samples, a dataset, the path of a file.
        encoder: makes vectors of samples: None for the embedded one, a model's path, any callable; see `as_encoder`.
        ess: the effective sample size (sum w)^2 / sum w^2 that the weights shall have, as a share of the window,
            0 < ess < 1; the temperature is found anew for each batch (`temperature_for`). 0.7 unless ``tau`` is given.
        tau: a fixed temperature in place of ess, > 0. It carries over neither between encoders nor between batch sizes.
        gate: ``"softmax"``, or ``"sigmoid"`` of the distance from the window's mean. The effective sample size of the
            sigmoid seldom falls below the share of samples above the mean; a smaller ess makes it a step there.
        window: what a weight is normalised over: ``"batch"``, or the latest ``"running"`` scores before it, which
            weighs every sample by itself and gives 1 until 32 scores are known.
        memory: size of the running window, in samples.
        text: the field of a sample that is scored, or a function of the sample. (Of the target's samples too, if they
            are no `TargetSet`.)
        ahead: how many samples may be scored that the trainer has not reached yet.
        wait: let the trainer wait for a score in place of the neutral weight.
        on_bad_shard: ``"raise"`` or ``"skip"`` a shard that cannot be read.
        progress: print how far the scoring is.

    Raises:
        StrategyError: for an option outside its range, both ess and tau, or options that need a target without one.
        ScoringError: if the target is none.

    Example:
        >>> from weighted_stream import WeightedStream
        >>> stream = WeightedStream(["a", "b", "c", "d"], Similarity(tau=0.5))
        >>> stream.store.update([0, 1, 3], similarity=[0.1, 0.3, 0.5])
        >>> for batch, weight in stream.loader(batch_size=4):
        ...     print(weight.tensor())
        tensor([0.6359, 0.9487, 1.0000, 1.4153])
    """

    def __init__(
        self,
        target: Any = None,
        encoder: Any = None,
        ess: float | None = None,
        tau: float | None = None,
        gate: Gate = "softmax",
        *,
        window: Window = "batch",
        memory: int = 1024,
        text: TextField = "text",
        ahead: int = 65_536,
        wait: bool = False,
        on_bad_shard: OnBadShard = "raise",
        progress: bool = False,
    ) -> None:
        self.tau, self.ess = check_either("Similarity", "tau", tau, "ess", ess)
        if self.tau is None and self.ess is None:
            self.ess = DEFAULT_ESS
        self.gate = check_choice("Similarity", "gate", gate, ("softmax", "sigmoid"))
        self.window = check_choice("Similarity", "window", window, ("batch", "running"))
        self.memory = check_integer("Similarity", "memory", memory, least=RUNNING_MINIMUM)
        self.joint = window == "batch"
        if target is not None and not isinstance(target, TargetSet):
            target = TargetSet(target, text=text)
        self.scoring = scoring_plan(
            "Similarity",
            None if target is None else partial(SimilarityScorer, target, encoder, text=text),
            ahead=ahead,
            wait=wait,
            on_bad_shard=on_bad_shard,
            progress=progress,
            whose=None if target is None else _whose(target, encoder, text),
            encoder=encoder,
            text=None if text == "text" else text,
        )
        self._latest = RunningWindow(self.memory)
        self._warned = False

    def weights(self, signals: Signals) -> Tensor:
        """(B,) float32: mean 1 over the window; 1 for samples without a score."""
        scores, known = stored_scores(signals)
        present = scores if known is None else scores[known]
        if self.window == "running":
            weights = self._against_latest(present, signals)
        elif len(present):
            weights = similarity_weights(present, self._temperature(present), self.gate)
            self._warn_if_few(weights)
        else:
            weights = present
        return filled(weights, known, 1.0).to(signals.device)

    def observe(self, signals: Signals) -> None:
        """Put the scores into the running window."""
        if self.window == "running":
            scores, known = stored_scores(signals)
            self._latest.push(scores if known is None else scores[known])

    def state_dict(self) -> dict[str, Any]:
        """The running window; the scores are in the store."""
        return {"latest": self._latest.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with that running window.

        Raises:
            StateError: for a state of another kind of strategy, or a window of another size.
        """
        check_keys("Similarity's state", state, ("latest",))
        self._latest.load_state_dict(state["latest"])

    def _against_latest(self, scores: Tensor, signals: Signals) -> Tensor:
        if self not in signals.scratch:  # frozen for this batch, so that its parts agree
            signals.scratch[self] = self._reference()
        frozen = signals.scratch[self]
        if frozen is None:
            return torch.ones_like(scores)
        reference, tau = frozen
        return similarity_weights_against(scores, reference, tau, self.gate)

    def _reference(self) -> tuple[Tensor, Scalar] | None:
        """The running window as it is now, and its temperature."""
        latest = self._latest.values()
        if latest is None:
            return None
        tau = self._temperature(latest)
        if self.tau is not None:
            self._warn_if_few(similarity_weights(latest, tau, self.gate))
        return latest.clone(), tau

    def _temperature(self, scores: Tensor) -> Scalar:
        if self.tau is not None:
            return self.tau
        assert self.ess is not None  # one of them there is
        return temperature_for(scores, self.ess, self.gate)

    def _warn_if_few(self, weights: Tensor) -> None:
        if self._warned or self.tau is None or self.gate != "softmax":
            return
        share = effective_share(weights).item()
        if share < WARN_BELOW:
            self._warned = True
            warnings.warn(
                f"With tau={self.tau:g} the weights have an effective sample size of {share:.0%} of the window; below "
                f"{WARN_BELOW:.0%} they are as a rule worse than uniform ones. A larger tau, or ess=0.7, keeps above.",
                RuntimeWarning,
                stacklevel=2,
            )


def _whose(target: TargetSet, encoder: Any, text: Any) -> ScoreIdentity:
    """The identity of the scores to come, but for the centroid, which takes the encoder's work."""
    field = text if isinstance(text, str) else None
    return ScoreIdentity(encoder_name(as_encoder(encoder)), target.digest, target.method, text=field)
