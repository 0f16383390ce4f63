"""DoReMi: domains in which the model is behind a reference weigh more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weighted_stream.errors import LossError, StrategyError
from weighted_stream.signals import Signals
from weighted_stream.strategies.domains import DomainStrategy, Floats, on_host
from weighted_stream.strategies.options import check_number
from weighted_stream.strategies.reference import Losses, LossFn, Remembered, check_given, is_stored


def doremi(
    weights: NDArray[np.float64], excess: NDArray[np.float64], eta: float = 1.0, mix: float = 1e-3
) -> NDArray[np.float64]:
    """``a_d <- (1 - c) a_d exp(eta e_d) / sum + c / K``: exponentiated gradient, arXiv 2305.10429, algorithm 1.

    Args:
        weights: a, (K,) domain weights, above 0.
        excess: e, (K,) mean excess losses of the domains, >= 0.
        eta: step size, > 0.
        mix: c, the share of the uniform distribution, 0 < c < 1.

    Returns:
        (K,) domain weights, each at least c / K, that sum to 1.

    Example:
        >>> doremi(np.array([0.5, 0.5]), np.array([np.log(3.0), 0.0]), mix=0.2).round(6)
        array([0.7, 0.3])
    """
    logs = np.log(weights) + eta * excess
    moved = np.exp(logs - logs.max())
    updated: NDArray[np.float64] = (1 - mix) * moved / moved.sum() + mix / len(moved)
    return updated


class DoReMi(DomainStrategy):
    """Domain weights against the worst case: those domains gain whose loss is furthest above a reference model's.

    Source: arXiv 2305.10429 (NeurIPS 2023). Per batch, the excess of a domain is the mean over its samples of
    ``max(loss - reference loss, 0)``; of a domain that has none in the batch it is the latest one (as in the authors'
    code). The domain weights begin uniform and move by `doremi`.

    Published: a small proxy model is trained on domains drawn uniformly, its losses weighed by the domain weights; the
    *average* of the weights over that run (`average`) is the result, by which the data of a large model is drawn. So
    train the small model with this strategy, read `average`, and mix the data of the large one accordingly.

    Ours: the stream need not draw domains uniformly, samples weigh by domain weight over share (`DomainStrategy` says
    more); losses are clipped per sample, not per token; shares are learned as samples come, unless given. Samples
    whose reference loss is not finite teach nothing.

    Args:
        reference: a model (run with ``loss_fn`` on every batch), a callable ``batch -> losses (B,)``, or a
            `WeightStore` that holds a loss of every sample under its id (its ``last_loss``): cheapest, made once. A
            model or a callable needs the batches of `WeightedStream.loader`.
        loss_fn: ``loss_fn(model, batch) -> losses (B,)`` for a model, as the trainer computes them.
        eta: step size.
        mix: share of the uniform distribution, 0 < mix < 1. The paper has 1e-3, the authors' code 1e-4.
        shares: the share of the data of each domain, by its name (or numbers of samples). None: domains and shares are
            learned as samples come.

    Raises:
        StrategyError: for options that cannot be; while weighing, for a sample without a group, or of a domain that is
            not among ``shares``; at feedback, for a sample without a stored reference loss, or where the batch is not
            known.
        LossError: at feedback, if ``loss_fn`` or ``reference`` does not give one loss per sample.

    Example:
        >>> from weighted_stream import DoReMi, WeightedStream, WeightStore
        >>> data = [{"domain": "code", "loss": 3.0}, {"domain": "text", "loss": 1.0}] * 8
        >>> reference = WeightStore()
        >>> reference.update(range(16), loss=[1.0] * 16)
        >>> strategy = DoReMi(reference)
        >>> for batch, weight in WeightedStream(data, strategy, group_fn="domain").loader(batch_size=4):
        ...     print(weight.resolve(batch["loss"])[:2])
        tensor([1., 1.])
        tensor([1.7608, 0.2392])
        tensor([1.9629, 0.0371])
        tensor([1.9939, 0.0061])
        >>> {name: round(share, 3) for name, share in strategy.average.items()}
        {'code': 0.964, 'text': 0.036}
    """

    def __init__(
        self,
        reference: nn.Module | Callable[[Any], Tensor] | Remembered,
        loss_fn: LossFn | None = None,
        eta: float = 1.0,
        mix: float = 1e-3,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        usable = is_stored(reference) or callable(reference)
        needed = isinstance(reference, nn.Module)
        check_given(
            "DoReMi(reference, loss_fn)",
            ("reference", reference, usable, "a model, a callable or a WeightStore"),
            ("loss_fn", loss_fn, callable(loss_fn) if needed else loss_fn is None, "a function for a model, else None"),
        )
        self.eta = check_number("DoReMi", "eta", eta, above=0)
        self.mix = check_number("DoReMi", "mix", mix, above=0, below=1)
        self.keeps_samples = self.local = not is_stored(reference)
        self._reference, self._losses = reference, Losses("DoReMi", loss_fn)
        self._alpha = self._excess = self._total = np.zeros(0)
        self._updates = 0
        super().__init__(shares)

    @property
    def average(self) -> dict[str, float]:
        """The domain weights averaged over all batches so far, by name: what the method is run for."""
        now = self._settled()
        mean = now._total / now._updates if now._updates else now._alpha
        return dict(zip(now._names, mean.tolist(), strict=True))

    def _proportions(self) -> Floats:
        return self._alpha

    def _values(self, signals: Signals) -> Floats:
        losses = on_host(self.losses(signals))
        reference: Any = self._reference
        if is_stored(reference):
            known = self._losses.of_reference(reference, signals.ids, None)
        else:
            key = (self, "reference")
            if key not in signals.scratch:
                signals.scratch[key] = self._of_batch(signals)
            known = signals.scratch[key]
            if len(known) <= (len(signals) - 1 if signals.places is None else int(signals.places.max())):
                raise LossError(
                    "DoReMi needs one reference loss per sample.",
                    found=f"{len(known)} losses of the reference",
                    expected=f"at least {len(signals)}, one for each sample of the batch",
                    do="reduce over tokens, not over samples: reduction='none'",
                )
            known = known if signals.places is None else known[torch.from_numpy(signals.places).to(known.device)]
        expected = on_host(known)
        excess: Floats = np.where(np.isfinite(expected), np.maximum(losses - expected, 0.0), np.nan)
        return excess

    def _learn(self, means: Floats) -> None:
        self._excess = np.where(np.isnan(means), self._excess, means)
        self._alpha = doremi(self._alpha, self._excess, self.eta, self.mix)
        self._total, self._updates = self._total + self._alpha, self._updates + 1

    def _add(self, new: int) -> None:
        count = len(self._alpha) + new
        self._alpha = np.append(self._alpha * (len(self._alpha) / count), np.full(new, 1.0 / count))
        self._excess = np.append(self._excess, np.zeros(new))
        self._total = np.append(self._total, np.zeros(new))

    def _learned(self) -> dict[str, Any]:
        return {"alpha": self._alpha, "excess": self._excess, "total": self._total, "updates": self._updates}

    def _of_batch(self, signals: Signals) -> Tensor:
        """The reference's losses of the whole batch."""
        if signals.samples is None:
            raise StrategyError(
                "DoReMi's reference needs the samples, and nobody knows them here.",
                found="a loader that the stream did not make",
                expected="batches of stream.loader(...)",
                do="let stream.loader(...) make the loader, or store the reference's losses first and pass the store",
            )
        reference: Any = self._reference
        return self._losses.of_batch(reference, signals.samples)
