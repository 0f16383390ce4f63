"""What strategies have in common that choose by the gradients of candidates and of a target set."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weighted_stream.errors import StrategyError
from weighted_stream.probes.gradient_layers import Layers
from weighted_stream.probes.gradients import GradientProbe, Products
from weighted_stream.probes.model_losses import LossFn, standard_losses
from weighted_stream.probes.running import aside, on_device
from weighted_stream.probes.target import target_batches
from weighted_stream.selection import Candidates, Choice, cut
from weighted_stream.state import check_keys, copied, like_state
from weighted_stream.strategies import matching
from weighted_stream.strategies.options import check_integer
from weighted_stream.strategies.selecting import Selecting


class GradientSelecting(Selecting):
    """Looks at the candidates' gradients and at the target's, and lets a subclass match them.

    Args:
        model, target, budget, layers, loss_fn, refresh_every, projection, at_once, workspace: see `FilterThenWeight`.
    """

    def __init__(
        self,
        model: nn.Module,
        target: Any,
        budget: float,
        layers: Layers,
        loss_fn: LossFn | None,
        *,
        refresh_every: int,
        projection: tuple[int, int] | None,
        at_once: int | None,
        workspace: int,
    ) -> None:
        super().__init__(budget)
        method = type(self).__name__
        self.refresh_every = check_integer(method, "refresh_every", refresh_every, least=1)
        if at_once is not None and projection is None:
            raise StrategyError(
                "Exact products need all candidates in one backward.",
                found=f"at_once={at_once} without a projection",
                expected="a projection, or at_once=None",
                do="pass projection=(64, 64), or choose from fewer candidates (a larger budget)",
            )
        self.at_once = None if at_once is None else check_integer(method, "at_once", at_once, least=1)
        self._target = target_batches(target)
        self._loss_fn = loss_fn or standard_losses
        self._probe = GradientProbe(model, layers, projection=projection, workspace=workspace)
        self._gradient: dict[str, Tensor] = {}
        self._age = 0
        self._fallbacks = self._fillers = self._not_finite = 0

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
        check_keys(f"{type(self).__name__}'s state", state, ("gradient", "age", "counted"))
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
            seen = self._probe.products(self._losses(candidates.batch), self._direction, scale=self._scale)
        if len(seen.losses) != len(candidates):
            raise StrategyError(
                "The losses are not those of the candidates.",
                found=f"{len(seen.losses)} losses of loss_fn",
                expected=f"{len(candidates)}, one per candidate",
                do="let loss_fn(model, batch) return one loss per sample of the batch it gets",
            )
        return self._chosen(seen, candidates.count)

    @abstractmethod
    def _match(self, c: matching.Floats, K: matching.Floats, count: int) -> tuple[matching.Places, matching.Floats]:
        """``count`` places, and their weights, not scaled.

        Args:
            c: (n,), products of the candidates' gradients with the target's.
            K: (n, n), products among the candidates' gradients.
            count: how many, 1 <= count <= n.
        """

    @property
    def _scale(self) -> Callable[[str], Tensor] | None:
        """What the candidates' gradients are multiplied by, per parameter; None: nothing."""
        return None

    def _direction(self, name: str) -> Tensor:
        """What the candidates' gradients of one parameter are multiplied with: by default the target's gradient."""
        return self._gradient[name]

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
        c, K = (values.cpu().double().numpy() for values in (seen.along, seen.gram))
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

    def _of_target(self) -> dict[str, Tensor]:
        """The mean gradient of the target's samples."""
        sums: dict[str, Tensor] | None = None
        total = 0
        with aside(self._probe.model):  # a loader draws a seed when it begins
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
