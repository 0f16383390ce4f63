"""FilterThenWeight: of many candidates, the few whose weighted gradients come closest to a target set's gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from weighted_stream.errors import StrategyError
from weighted_stream.probes.gradient_layers import Layers
from weighted_stream.probes.model_losses import LossFn
from weighted_stream.probes.preconditioner import AdamPreconditioner
from weighted_stream.strategies import matching
from weighted_stream.strategies.gradient_selecting import GradientSelecting
from weighted_stream.strategies.options import check_choice, check_number

Precondition = Literal["target", "both", "none"]


class FilterThenWeight(GradientSelecting):
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
        >>> import torch
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
        self.precondition = check_choice("FilterThenWeight", "precondition", precondition, ("target", "both", "none"))
        self.filter = check_choice("FilterThenWeight", "filter", filter, ("omp", "greedy"))
        self.lam = 0.0 if lam == 0 else check_number("FilterThenWeight", "lam", lam, above=0)
        if precondition == "both" and projection is not None:
            raise StrategyError(
                "Projected gradients of candidates cannot be preconditioned.",
                found='precondition="both" with a projection',
                expected='precondition="target" or "none", or no projection',
                do="leave out one of them",
            )
        super().__init__(
            model,
            target,
            budget,
            layers,
            loss_fn,
            refresh_every=refresh_every,
            projection=projection,
            at_once=at_once,
            workspace=workspace,
        )
        self._adam = None if precondition == "none" else AdamPreconditioner(_given(optimizer))

    @property
    def fallbacks(self) -> int:
        """How many choices had no candidate in the target's direction and got equal weights."""
        return self._fallbacks

    @property
    def fillers(self) -> int:
        """How many samples were handed over with weight 0, for the batch to be full."""
        return self._fillers

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

    @property
    def _scale(self) -> Callable[[str], Tensor] | None:
        return self._diagonal if self.precondition == "both" else None

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
