"""Resampled: weights become chances; the trainer gets the drawn, all with weight 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weighted_stream.errors import LossError, StrategyError, WindowError
from weighted_stream.selection import Candidates, Choice
from weighted_stream.signals import Signals
from weighted_stream.strategies.adapt import Adapt
from weighted_stream.strategies.around import Around
from weighted_stream.strategies.base import Strategy, no_weights, wrong_shape
from weighted_stream.strategies.chance import chance
from weighted_stream.strategies.domains import DomainStrategy
from weighted_stream.strategies.info_batch import InfoBatch
from weighted_stream.strategies.kakurenbo import Kakurenbo
from weighted_stream.strategies.options import check_integer
from weighted_stream.strategies.parts import parts
from weighted_stream.strategies.selecting import Selecting, check_whole


def resample(weights: NDArray[np.float32], drawn: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Places drawn in proportion to weights, none twice: the ``count`` smallest ``-ln(1 - u) / w``.

    An exponential race: the first is i with chance ``w_i / sum w``, the next likewise among the others (Efraimidis and
    Spirakis, 2006); the Gumbel top-k trick, as DSIR draws a corpus with it (arXiv 2302.03169), is the same.

    Args:
        weights: (n,) >= 0; a sample of weight 0 is never drawn.
        drawn: u, (n,) uniform in [0, 1).
        count: how many to draw, at least 1.

    Returns:
        (k,) int64, ascending; k is ``count``, or the number of weights above 0 if that is less.

    Example:
        >>> resample(np.array([1, 0, 1, 2], np.float32), np.array([0.9, 0.1, 0.2, 0.5]), 2)
        array([2, 3])
    """
    alive = np.flatnonzero(weights > 0)
    times = -np.log1p(-drawn[alive]) / weights[alive].astype(np.float64)
    return np.sort(alive[np.argsort(times, kind="stable")[:count]]).astype(np.int64)


class Resampled(Around, Selecting):
    """Draw the share ``budget`` of the candidates, in proportion to the weights that another strategy gives them.

    Source: importance resampling of a corpus, arXiv 2302.03169; drawn from each batch's candidates while training, by
    the weights of any strategy that knows them at hand-over: ours. The loader draws ``batch_size / budget`` candidates;
    ``batch_size`` of them are drawn without replacement, and each has weight 1.

    What it changes: a batch that is weighed contains what chance put there, and small weights make it a smaller batch.
    Resampled, every sample of a batch counts, and a kind of which the stream has an eighth can be most of it. It takes
    ``1 / budget`` times the stream (read, collated and scored, but not trained on), so the budget bounds how much: of
    what the candidates do not contain, nothing can be drawn. What was not drawn is remembered with weight 0.

    Of candidates of which fewer than ``batch_size`` have a weight above 0 only those are handed over; if none has,
    one sample with weight 0. What a strategy learns from feedback it learns from the drawn alone: `InfoBatch`,
    `Kakurenbo` and running windows are refused for that; of domains it is then the losses of the drawn that count.
    `Frozen` draws by the weights of an earlier run that weighed; one that drew has left only 0 and 1.

    Args:
        strategy: whose weights to draw by; known before the losses are, as those of `Similarity`, `AdaptBM25`,
            `Frozen`, of `DoReMi` and `OnlineDataMixing` with ``shares``, and products of these.
        budget: share of the candidates, 0 < budget <= 1; with 1 all samples with a weight above 0 are handed over.
        seed: of the draws, a function of seed, step and sample.

    Raises:
        StrategyError: for an option outside its range, or a strategy that selects, has a running window, goes by past
            losses, or learns the shares of its domains as they come; while choosing, for one that weighs by the losses
            of the step, or returns no weights.

    Example:
        >>> from weighted_stream import Similarity, WeightedStream
        >>> stream = WeightedStream(torch.arange(8.0), Resampled(Similarity(tau=0.01), budget=0.5))
        >>> stream.store.update(range(8), similarity=[0, 0, 1, 0, 1, 0, 1, 1])
        >>> for batch, weight in stream.loader(batch_size=4):
        ...     print(batch, weight.tensor())
        tensor([2., 4., 6., 7.]) tensor([1., 1., 1., 1.])
    """

    def __init__(self, strategy: Strategy, budget: float = 0.25, seed: int = 0) -> None:
        super().__init__(budget)
        check_whole("Resampled", strategy)
        for part in parts(strategy):
            _check_part(part)
        self.strategy = strategy
        self.seed = check_integer("Resampled", "seed", seed, least=0)
        self.constant, self.remembers, self.scoring = strategy.constant, strategy.remembers, strategy.scoring
        self.keeps_samples, self.local = strategy.keeps_samples, strategy.local

    def choose(self, candidates: Candidates) -> Choice:
        """The drawn, each with weight 1."""
        names = candidates.group_names
        signals = Signals(
            candidates.ids, candidates.step, None, candidates.records, samples=candidates.batch, group_names=names
        )
        try:
            weights = self.strategy.weights(signals)
        except (LossError, WindowError) as error:
            raise _too_early(self.strategy) from error
        host = self._checked(weights, len(candidates))
        drawn = chance(_apart(candidates.ids), self.seed, candidates.step)
        places = resample(host, drawn, candidates.count)
        if len(places):
            return Choice(places, torch.ones(len(places)))
        return Choice(np.zeros(1, np.int64), torch.zeros(1))

    def _checked(self, weights: Any, count: int) -> NDArray[np.float32]:
        if not isinstance(weights, Tensor) or weights.shape != (count,):
            raise wrong_shape(self.strategy, weights, count)
        host: NDArray[np.float32] = weights.detach().float().cpu().numpy()
        if not (np.isfinite(host) & (host >= 0)).all():
            raise no_weights(self.strategy, f"weights from {host.min()} to {host.max()}", "finite weights of 0 or more")
        return host


def _apart(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Other numbers for samples that come again among the candidates: each time is drawn for by itself."""
    once, which, times = np.unique(ids, return_inverse=True, return_counts=True)
    if len(once) == len(ids):
        return ids
    order = np.argsort(which, kind="stable")
    first = np.cumsum(times) - times
    number = np.empty(len(ids), np.uint64)
    number[order] = np.arange(len(ids)) - np.repeat(first, times)
    return (ids.astype(np.uint64) + number * np.uint64(0x9E3779B97F4A7C15)).astype(np.int64)


def _check_part(part: Strategy) -> None:
    if getattr(part, "window", None) == "running":
        raise StrategyError(
            "Resampled draws from the candidates, which are their own window.",
            found=repr(part),
            expected='window="batch": over the candidates of a batch',
            do='leave window="running" out; drawn samples alone would be its window',
        )
    if isinstance(part, Adapt):
        raise StrategyError(
            "Adapt compares hidden states of the model's forward pass, and Resampled draws before it.",
            found=repr(part),
            expected="weights known at hand-over",
            do="Resampled(Similarity(target)) or Resampled(AdaptBM25(target)): likeness of the samples themselves",
        )
    if isinstance(part, (InfoBatch, Kakurenbo)):
        method = type(part).__name__
        raise StrategyError(
            f"{method} goes by the losses of all samples, and Resampled would bring it those of the drawn alone.",
            found=repr(part),
            expected="a strategy that does not go by past losses",
            do=f"use {method}(prune=True) alone: it leaves out the samples of weight 0",
        )
    if isinstance(part, DomainStrategy) and part.shares is None:
        raise StrategyError(
            f"Resampled changes how often domains come, and {type(part).__name__} would learn their shares from that.",
            found="shares=None",
            expected="the share of the data of each domain",
            do=f'{type(part).__name__}(..., shares={{"code": 0.3, "text": 0.7}})',
        )


def _too_early(strategy: Strategy) -> StrategyError:
    return StrategyError(
        "Resampled draws before the model sees a sample, and its strategy weighs by this step's losses.",
        found=repr(strategy),
        expected="weights known at hand-over: Similarity, AdaptBM25, Frozen …",
        do="weigh with it, without Resampled; or draw by Frozen(), the weights it gave last",
    )
