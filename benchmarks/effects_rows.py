"""The rows of `benchmarks.effects`: every strategy, and what it is to be held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import AdamW

from benchmarks.effects_streams import Tokens
from benchmarks.method_cost_runs import exact_losses_of, losses_of
from weighted_stream import (
    Adapt,
    AdaptBM25,
    DataWeightingModel,
    DoReMi,
    Dro,
    Extremes,
    FilterThenWeight,
    Frozen,
    Greats,
    InfoBatch,
    Kakurenbo,
    LinUpper,
    MetaWeightNet,
    OnlineDataMixing,
    Quadratic,
    Resampled,
    RhoLoss,
    Shuffled,
    Signals,
    Similarity,
    SmallLoss,
    Strategy,
    TargetSet,
    Uniform,
)
from weighted_stream.demo.model import GPT
from weighted_stream.demo.tokenizer import PADDING

BUDGET = 0.25
REFRESH = 10


@dataclass(frozen=True)
class Beginning:
    """A run that is about to begin.

    Attributes:
        model, optimizer: on their device.
        data: the stream in tokens.
        target: examples of the target, in batches, on the device.
        trained: trains another model of this kind, uniformly, on rows: (rows, steps) -> model.
        seed, steps: of the run.
    """

    model: GPT
    optimizer: AdamW
    data: Tokens
    target: list[Tensor]
    trained: Callable[[Tensor, int], GPT]
    seed: int
    steps: int


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        make: the strategy of a run.
        scores: similarities of the stream's texts that are put into the store before the run, in place of a scorer's.
        only: which of the stream's rows are trained on; by default all.
        after: another row: its run comes first, and its last weights are in the store.
        matched: another row: trained uniformly, with the learning rate times the mean weight of that row.
        quick: whether it is a part of the quick form.
    """

    make: Callable[[Beginning], Strategy]
    scores: Callable[[Tokens], NDArray[np.float32]] | None = None
    only: Callable[[Tokens], NDArray[np.bool_]] | None = None
    after: str | None = None
    matched: str | None = None
    quick: bool = False


class OnlyFirst(Strategy):
    """The oracle of a stream that repeats itself: a sample that is a copy weighs nothing."""

    def __init__(self, first: NDArray[np.bool_]) -> None:
        self.first = torch.from_numpy(first.astype(np.float32) / first.mean())

    def weights(self, signals: Signals) -> Tensor:
        return self.first[torch.from_numpy(signals.ids)].to(signals.device)


def uniform(begun: Beginning) -> Strategy:
    return Uniform()


def similarity(begun: Beginning) -> Similarity:
    """Hashed words."""
    return Similarity(TargetSet(begun.data.of.examples), ess=0.6, wait=True)


def adapt(begun: Beginning, **options: Any) -> Adapt:
    batches = [batch[:, :-1] for batch in begun.target]
    return Adapt(begun.model, batches, head="head", mask=lambda given, _: given[0] != PADDING, **options)


def rho_loss(begun: Beginning) -> Strategy:
    """The reference learned the examples of the target."""
    reference = begun.trained(begun.data.examples, max(1, begun.steps // 4))
    return RhoLoss(begun.model, reference, losses_of, BUDGET)


def do_re_mi(begun: Beginning) -> Strategy:
    """The reference learned this stream, as long as the run lasts."""
    return DoReMi(begun.trained(begun.data.rows, begun.steps), losses_of)


def greats(begun: Beginning) -> Strategy:
    return Greats(begun.model, begun.target, BUDGET, ["head"], losses_of, eta=begun.optimizer, refresh_every=REFRESH)


def filter_then_weight(begun: Beginning) -> Strategy:
    return FilterThenWeight(
        begun.model, begun.optimizer, begun.target, BUDGET, ["head"], losses_of, refresh_every=REFRESH
    )


def meta_weight_net(begun: Beginning) -> Strategy:
    return MetaWeightNet(begun.model, begun.target, begun.optimizer, loss_fn=exact_losses_of, lr=1e-2, seed=begun.seed)


def data_weighting_model(begun: Beginning) -> Strategy:
    """Five stages, in each of which it learns on the first half."""
    stage = max(2, begun.steps // 5)
    return DataWeightingModel(
        begun.model,
        begun.target,
        begun.optimizer,
        loss_fn=exact_losses_of,
        stage_steps=stage,
        updates=stage // 2,
        lr=3e-3,
        head="head",
        seed=begun.seed,
    )


def epochs(begun: Beginning) -> int:
    """Of the run."""
    return max(1, -(-begun.steps * 64 // len(begun.data.rows)))


ROWS: dict[str, Row] = {
    "uniform": Row(uniform, quick=True),
    "LinUpper(r=1)": Row(lambda b: LinUpper(r=1.0), quick=True),
    "LinUpper(r=0.4)": Row(lambda b: LinUpper(r=0.4), quick=True),
    "LinUpper(r=0.4), running window": Row(lambda b: LinUpper(r=0.4, window="running")),
    "LinUpper(r=0.4), shuffled": Row(lambda b: Shuffled(LinUpper(r=0.4), seed=b.seed)),
    "LinUpper(r=0.4), frozen": Row(lambda b: Frozen(), after="LinUpper(r=0.4)"),
    "Quadratic(r=1)": Row(lambda b: Quadratic(r=1.0)),
    "Extremes(r=1)": Row(lambda b: Extremes(r=1.0)),
    "Dro(ess=0.7)": Row(lambda b: Dro(ess=0.7)),
    "SmallLoss(ess=0.7)": Row(lambda b: SmallLoss(ess=0.7)),
    "Similarity(ess=0.6)": Row(similarity, quick=True),
    "Similarity(ess=0.6), shuffled": Row(lambda b: Shuffled(similarity(b), seed=b.seed), quick=True),
    "Similarity(ess=0.6), resampled 25%": Row(lambda b: Resampled(similarity(b), 0.25, seed=b.seed)),
    "Similarity(ess=0.6), frozen": Row(lambda b: Frozen(), after="Similarity(ess=0.6)"),
    "Similarity * LinUpper": Row(lambda b: similarity(b) * LinUpper(r=1.0)),
    "Adapt": Row(adapt, quick=True),
    "uniform, learning rate of Adapt": Row(uniform, matched="Adapt"),
    "Adapt(tau=0.1, center)": Row(lambda b: adapt(b, tau=0.1, center="running")),
    "AdaptBM25": Row(lambda b: AdaptBM25(b.data.of.examples, wait=True), quick=True),
    "uniform, learning rate of AdaptBM25": Row(uniform, matched="AdaptBM25", quick=True),
    "InfoBatch": Row(lambda b: InfoBatch(epochs(b), seed=b.seed)),
    "InfoBatch, pruning": Row(lambda b: InfoBatch(epochs(b), prune=True, seed=b.seed)),
    "Kakurenbo": Row(lambda b: Kakurenbo(epochs(b), seed=b.seed)),
    "RhoLoss(25%)": Row(rho_loss),
    "Greats(25%), head": Row(greats),
    "FilterThenWeight(25%), head": Row(filter_then_weight),
    "MetaWeightNet": Row(meta_weight_net),
    "DataWeightingModel": Row(data_weighting_model),
    "DoReMi": Row(do_re_mi),
    "OnlineDataMixing": Row(lambda b: OnlineDataMixing()),
    "oracle: repeats weigh 0": Row(lambda b: OnlyFirst(b.data.first)),
    "oracle: knows the target's kind": Row(
        lambda b: Similarity(ess=0.6), scores=lambda data: data.of.wanted.astype(np.float32), quick=True
    ),
    "oracle: nothing but the target's kind": Row(uniform, only=lambda data: data.of.wanted),
}
"""In the order of the table."""
