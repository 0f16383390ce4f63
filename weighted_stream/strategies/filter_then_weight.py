"""FilterThenWeight: of many candidates, the few whose weighted gradients come closest to a target set's gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from weighted_stream.errors import StrategyError
from weighted_stream.probes.gradient_layers import Layers
from weighted_stream.probes.gradients import GradientProbe, Products
from weighted_stream.probes.model_losses import LossFn, standard_losses
from weighted_stream.probes.preconditioner import AdamPreconditioner
from weighted_stream.probes.running import on_device
from weighted_stream.probes.target import target_batches
from weighted_stream.selection import Candidates, Choice, cut
from weighted_stream.state import check_keys, copied, like_state
from weighted_stream.strategies import matching
from weighted_stream.strategies.options import check_choice, check_integer, check_number
from weighted_stream.strategies.selecting import Selecting

Precondition = Literal["target", "both", "none"]


class FilterThenWeight(Selecting):
    """Filter-then-Weight: chosen and weighed so that the step they make helps a target set most (arXiv 2604.00001).

    The loader draws ``batch_size / budget`` candidates; one forward and backward of the model on them gives the inner
    products of their gradients (`GradientProbe`); a *filter* picks ``batch_size`` of them, and the *weights* of these
    are ``argmin_{w >= 0} |g~ - sum_i w_i g_i|^2 + lam |w|^2``. The training loop is the usual one, with the usual
    batch size.

    Published is the structure: per-sample gradients by their factors, the geometry of Adam, a filter, then weights, a
    budget of 5% a step. Ours, for the published text does not fix it: the matching objective, its ridge, NNLS,
    the pursuit by cosine, and weights that are scaled to average 1 afterwards (so only the direction of the match
    counts). Where no candidate's gradient has a positive product with the target, those least against it are chosen,
    with equal weights; this is counted in `fallbacks`. Where fewer than asked for improve the match, the others that
    are handed over weigh 0, counted in `fillers`.

    Each choice costs a forward and a backward (without gradients of parameters) of all candidates, and the products;
    each refresh of the target as much for the target set. Both run in evaluation mode, and nothing of them stays in
    the model: see `GradientProbe`, also for memory: unless ``at_once`` is given, all candidates go through the model in
    one batch. Losses are computed without autocast unless ``loss_fn`` enters it. Each rank chooses among its own
    candidates.

    Args:
        model: the model in training, bare or inside `torch.compile` or DistributedDataParallel.
        optimizer: its `torch.optim.Adam` or AdamW, whose state is read; anything with ``precondition="none"``.
        target: what the model should become good at: an iterable of batches as ``loss_fn`` takes them, gone through at
            each refresh. Tensors are moved to the model's device.
        budget: the share of the candidates that is chosen, 0 < budget <= 1.
        layers: whose gradients: ``"all"`` linear layers, ``"lora"`` adapters, the ``"head"`` (cheapest), or modules or
            their names; see `GradientProbe`.
        loss_fn: ``loss_fn(model, batch)`` gives one loss per sample, (B,); it gets the bare model. None: the
            cross-entropy of a causal language model or a classifier, see `standard_losses`.
        precondition: ``"target"``: ``g~ = D g_V``, with D Adam's diagonal and g_V the mean gradient of the target;
            ``"both"``: gradients of candidates are multiplied by D too, ``|D g_V - sum_i w_i D g_i|^2`` (slower);
            ``"none"``: plain gradients.
        filter: ``"omp"``, non-negative orthogonal matching pursuit, or ``"greedy"``, the rule of GREATS; see
            `weighted_stream.strategies.matching`.
        lam: the ridge, as a share of the candidates' mean squared gradient, >= 0.
        refresh_every: how many choices the target's gradient lasts; D is that of the present in any case.
        projection: (rows, columns): look at randomly projected gradients, for long contexts; see `GradientProbe`.
        at_once: with a projection, how many candidates go through the model at a time; None: all of them. Memory is
            then that of so many samples, and ``4 rows columns`` bytes for each candidate and layer.
        workspace: bytes for intermediate results of the products.

    Raises:
        StrategyError: for an option outside its range, a target that is none, an optimizer whose geometry is not known,
            layers that cannot be looked at.

    Example:
        >>> from weighted_stream import WeightedStream, per_sample_cross_entropy
        >>> model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9))
        >>> optimizer = torch.optim.AdamW(model.parameters())
        >>> def loss_fn(model, tokens):
        ...     return per_sample_cross_entropy(model(tokens)[:, :-1], tokens[:, 1:])
        >>> tokens = torch.arange(160).reshape(40, 4) % 9
        >>> strategy = FilterThenWeight(model, optimizer, [tokens[:4]], budget=0.2, loss_fn=loss_fn)
        >>> for batch, weight in WeightedStream(tokens, strategy).loader(batch_size=4):
        ...     (loss_fn(model, batch) * weight).mean().backward()
        >>> batch.shape, weight.tensor().shape
        (torch.Size([4, 4]), torch.Size([4]))
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        target: Any,
        budget: float = 0.05,
        layers: Layers = "all",
        loss_fn: LossFn | None = None,
        *,
        precondition: Precondition = "target",
        filter: Literal["omp", "greedy"] = "omp",
        lam: float = 0.1,
        refresh_every: int = 1,
        projection: tuple[int, int] | None = None,
        at_once: int | None = None,
        workspace: int = 2**27,
    ) -> None:
        super().__init__(budget)
        self.precondition = check_choice("FilterThenWeight", "precondition", precondition, ("target", "both", "none"))
        self.filter = check_choice("FilterThenWeight", "filter", filter, ("omp", "greedy"))
        self.lam = 0.0 if lam == 0 else check_number("FilterThenWeight", "lam", lam, above=0)
        self.refresh_every = check_integer("FilterThenWeight", "refresh_every", refresh_every, least=1)
        if precondition == "both" and projection is not None:
            raise StrategyError(
                "Projected gradients of candidates cannot be preconditioned.",
                found='precondition="both" with a projection',
                expected='precondition="target" or "none", or no projection',
                do="leave out one of them",
            )
        if at_once is not None and projection is None:
            raise StrategyError(
                "Exact products need all candidates in one backward.",
                found=f"at_once={at_once} without a projection",
                expected="a projection, or at_once=None",
                do="pass projection=(64, 64), or choose from fewer candidates (a larger budget)",
            )
        self.at_once = None if at_once is None else check_integer("FilterThenWeight", "at_once", at_once, least=1)
        self._target = target_batches(target)
        self._loss_fn = loss_fn or standard_losses
        self._probe = GradientProbe(model, layers, projection=projection, workspace=workspace)
        self._adam = None if precondition == "none" else AdamPreconditioner(_given(optimizer))
        self._gradient: dict[str, Tensor] = {}
        self._age = 0
        self._fallbacks = self._fillers = self._not_finite = 0

    @property
    def fallbacks(self) -> int:
        """How many choices had no candidate in the target's direction and got equal weights."""
        return self._fallbacks

    @property
    def fillers(self) -> int:
        """How many samples were handed over with weight 0, for the batch to be full."""
        return self._fillers

    @property
    def not_finite(self) -> int:
        """How many candidates had gradients that are not finite; these are chosen last, with weight 0."""
        return self._not_finite

    def state_dict(self) -> dict[str, Any]:
        """The target's gradient (a copy of the parameters looked at) with its age, and what was counted."""
        return {
            "gradient": {name: copied(values) for name, values in self._gradient.items()},
            "age": self._age,
            "counted": [self._fallbacks, self._fillers, self._not_finite],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with that gradient until it is due again.

        Raises:
            StateError: for a state of another kind of strategy, or of a model with other parameters.
        """
        check_keys("FilterThenWeight's state", state, ("gradient", "age", "counted"))
        parameters = self._probe.parameters
        if state["gradient"]:
            check_keys("the gradient of these layers", state["gradient"], parameters)
        self._gradient = {
            name: like_state(f"The gradient of {name}", values, parameters[name].ndim).to(parameters[name].device)
            for name, values in state["gradient"].items()
        }
        self._age = int(state["age"])
        self._fallbacks, self._fillers, self._not_finite = map(int, state["counted"])

    def choose(self, candidates: Candidates) -> Choice:
        """The chosen ``candidates.count``, and their weights, which average 1.

        Raises:
            LossError: if ``loss_fn`` does not return one loss per sample.
            StrategyError: if the gradients cannot be seen, or those of the target are not finite.
        """
        if not self._gradient or self._age >= self.refresh_every:
            self._gradient, self._age = self._of_target(), 0
        self._age += 1
        if self.at_once is not None and self.at_once < len(candidates):
            seen = self._in_parts(candidates, self.at_once)
        else:
            scale = self._diagonal if self.precondition == "both" else None
            seen = self._probe.products(self._losses(candidates.batch), self._direction, scale=scale)
        if len(seen.losses) != len(candidates):
            raise StrategyError(
                "The losses are not those of the candidates.",
                found=f"{len(seen.losses)} losses of loss_fn",
                expected=f"{len(candidates)}, one per candidate",
                do="let loss_fn(model, batch) return one loss per sample of the batch it gets",
            )
        return self._chosen(seen, candidates.count)

    def _in_parts(self, candidates: Candidates, size: int) -> Products:
        """The products of projected gradients, some candidates at a time through the model."""
        n = len(candidates)
        parts = [np.arange(start, min(start + size, n)) for start in range(0, n, size)]
        seen = [self._probe.sketches(self._losses(cut(candidates.batch, places, n))) for places in parts]
        rows = torch.cat([sketches for _, sketches in seen])
        losses = torch.cat([values for values, _ in seen])
        return Products(losses, rows @ rows.T, rows @ self._probe.sketch(self._direction).to(rows.dtype))

    def _chosen(self, seen: Products, count: int) -> Choice:
        assert seen.gram is not None
        assert seen.along is not None
        c, K = (values.double().cpu().numpy() for values in (seen.along, seen.gram))
        finite = (np.isfinite(c) & np.isfinite(np.diagonal(K))).nonzero()[0]
        broken = np.setdiff1d(np.arange(len(c)), finite)
        self._not_finite += len(broken)
        places, weights = finite[:0], np.zeros(0)
        if len(finite):
            places, weights = self._match(c[finite], K[np.ix_(finite, finite)], min(count, len(finite)))
            places = finite[places]
        if len(places):
            weights, uniform = matching.to_mean_one(weights)
            self._fallbacks += uniform
        rest = count - len(places)
        places = np.concatenate([places, broken[:rest]])
        weights = np.concatenate([weights * (count / max(1, count - rest)), np.zeros(rest)])
        self._fillers += int((weights == 0).sum())
        order = places.argsort()
        return Choice(places[order], torch.from_numpy(weights[order]).float())

    def _match(self, c: matching.Floats, K: matching.Floats, count: int) -> tuple[matching.Places, matching.Floats]:
        """``count`` places, and their weights, not scaled."""
        lam = self.lam * float(np.diagonal(K).mean())
        if self.filter == "greedy":
            places = matching.greedy(c, K, count)
            return places, matching.nnls(K[np.ix_(places, places)], c[places], lam)
        places, weights = matching.omp(c, K, count, lam)
        if len(places) < count:
            left = c - K[:, places] @ weights
            left[places] = -np.inf
            fillers = (-left).argsort(kind="stable")[: count - len(places)]
            places = np.concatenate([places, fillers])
            weights = np.concatenate([weights, np.zeros(len(fillers))])
        return places, weights

    def _of_target(self) -> dict[str, Tensor]:
        """The mean gradient of the target's samples."""
        sums: dict[str, Tensor] | None = None
        total = 0
        for batch in self._target:
            sums, count = self._probe.gradient(self._losses(batch), sums)
            total += count
        if sums is None:
            target_batches([])  # raises: there was no batch
            raise AssertionError
        for gradient in sums.values():
            gradient /= total
        if not all(bool(gradient.isfinite().all()) for gradient in sums.values()):
            raise StrategyError(
                "The gradient of the target is not finite.",
                found="NaN or infinity",
                expected="finite losses and gradients of all its samples",
                do="look at the target's batches (no labels? empty sequences?), and whether training has diverged",
            )
        return sums

    def _losses(self, batch: Any) -> Callable[[], Tensor]:
        model = self._probe.model
        return lambda: self._loss_fn(model, on_device(batch, model))

    def _diagonal(self, name: str) -> Tensor:
        assert self._adam is not None
        return self._adam.diagonal(self._probe.parameters[name])

    def _direction(self, name: str) -> Tensor:
        """``g~`` of one parameter; with both sides preconditioned, what the plain gradients are multiplied by."""
        if self._adam is None:
            return self._gradient[name]
        diagonal = self._diagonal(name)
        return self._gradient[name] * (diagonal.square_() if self.precondition == "both" else diagonal)


def _given(optimizer: Optimizer | None) -> Optimizer:
    if optimizer is None:
        raise StrategyError(
            "Gradients are preconditioned by Adam's state.",
            found="optimizer=None",
            expected="the torch.optim.Adam or AdamW of this model",
            do='pass it, or precondition="none"',
        )
    return optimizer
