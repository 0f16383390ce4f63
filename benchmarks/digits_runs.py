"""One training on digits of which some have wrong labels: a method, its options, a seed, and what comes out."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.data import TensorDataset

from weighted_stream import (
    Adapt,
    DataWeightingModel,
    Dro,
    Extremes,
    FilterThenWeight,
    Frozen,
    Greats,
    InfoBatch,
    Kakurenbo,
    LinUpper,
    MetaWeightNet,
    Quadratic,
    RhoLoss,
    Shuffled,
    SmallLoss,
    Strategy,
    Uniform,
    WeightedStream,
    WeightStore,
    per_sample_cross_entropy,
)
from weighted_stream.demo.train import endless

NOISE, PICKING, TESTING = 0.4, 200, 400
BATCH, BUDGET, TOLD, WIDTH, RATE, EVALUATE_EVERY, STAGES = 32, 0.25, 100, 128, 2e-3, 50, 5
HEAD = "4"
"""The output layer of `network`."""

Rows = tuple[Tensor, Tensor]


def digits(seed: int) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training set (with a mask of the untouched labels), rows to pick options and evaluations on, test rows."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(seed)
    images, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(labels))
    x = torch.tensor(images[order] / 16, dtype=torch.float32)
    y = torch.tensor(labels[order])
    test, pick, rest = x[:TESTING], x[TESTING : TESTING + PICKING], x[TESTING + PICKING :]
    train_y = y[TESTING + PICKING :].clone()
    noisy = torch.from_numpy(rng.random(len(train_y)) < NOISE)
    train_y[noisy] = torch.from_numpy(rng.integers(0, 10, int(noisy.sum())))
    return (rest, train_y, ~noisy), (pick, y[TESTING : TESTING + PICKING]), (test, y[:TESTING])


@dataclass(frozen=True)
class Data:
    """The digits of one seed.

    Attributes:
        train: images and labels, of which some were drawn at random.
        drawn: which ones.
        told: clean rows that the methods are told.
        pick: other clean rows, to pick options and the best evaluation on.
        test: clean rows.
    """

    train: Rows
    drawn: Tensor
    told: Rows
    pick: Rows
    test: Rows

    @classmethod
    def of(cls, seed: int) -> Data:
        """Always the same for a seed."""
        (x, y, clean), (pick_x, pick_y), test = digits(seed)
        return cls((x, y), ~clean, (pick_x[:TOLD], pick_y[:TOLD]), (pick_x[TOLD:], pick_y[TOLD:]), test)


def network(seed: int, width: int) -> nn.Sequential:
    """Two hidden layers."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def losses_of(model: nn.Module, batch: Any) -> Tensor:
    """(B,)."""
    return per_sample_cross_entropy(model(batch[0]), batch[1])


def accuracy(model: nn.Module, rows: Rows) -> float:
    with torch.no_grad():
        return float((model(rows[0]).argmax(1) == rows[1]).float().mean())


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        make: makes the strategy of a run that is about to begin, with the options.
        grid: options to choose from.
        like: the row whose options are taken, in place of a grid.
        after: a row: its run comes first, and its last weights are in the store.
        matched: a row: the learning rate is that times the mean weight of its runs.
        rows: what is trained on; by default the rows with wrong labels among them.
        width: of the model's layers.
    """

    make: Callable[..., Strategy]
    grid: tuple[dict[str, Any], ...] = ({},)
    like: str | None = None
    after: str | None = None
    matched: str | None = None
    rows: Callable[[Data], Rows] | None = None
    width: int = WIDTH


@dataclass(frozen=True)
class Beginning:
    """A run that is about to begin."""

    model: nn.Sequential
    optimizer: AdamW
    data: Data
    seed: int
    steps: int

    @property
    def target(self) -> list[Rows]:
        """The clean rows that are told, in two batches."""
        return list(zip(*(part.split(TOLD // 2) for part in self.data.told), strict=True))  # type: ignore[no-untyped-call]


def run(
    method: Method, options: dict[str, Any], seed: int, steps: int, rate: float = RATE, store: WeightStore | None = None
) -> dict[str, Any]:
    """Train once.

    Args:
        method: a row.
        options: of its grid.
        seed: of data, order and model.
        steps: of 32 samples.
        rate: learning rate.
        store: remembers; by default a temporary one.

    Returns:
        Test accuracy at the end, and at the evaluation that is best on the rows to pick on (and how good it is there);
        the share of the weight on labels drawn at random, on average between evaluations; the mean weight; and the
        processor time, with that of the run before, if there is one.
    """
    start = time.process_time()
    if method.after is not None:
        store = WeightStore()
        run(METHODS[method.after], METHODS[method.after].grid[0], seed, steps, rate, store)
    data = Data.of(seed)
    rows = data.train if method.rows is None else method.rows(data)
    model = network(seed, method.width)
    optimizer = AdamW(model.parameters(), lr=rate)
    strategy = method.make(Beginning(model, optimizer, data, seed, steps), **options)
    shares: list[float] = []
    means: list[float] = []
    curve: list[tuple[float, float]] = []
    stream = WeightedStream(TensorDataset(*rows), strategy, store=store)
    loader = stream.loader(batch_size=BATCH, shuffle=True, seed=seed, drop_last=True)
    for step, (batch, weight) in enumerate(islice(endless(loader), steps), 1):
        losses = losses_of(model, batch)
        optimizer.zero_grad()
        (losses * weight).mean().backward()
        optimizer.step()
        weights = weight.tensor()
        means.append(weights.mean().item())
        if method.rows is None:
            shares.append(float(weights[data.drawn[weight.ids]].sum() / weights.sum()))
        if step % EVALUATE_EVERY == 0 or step == steps:
            curve.append((accuracy(model, data.pick), accuracy(model, data.test)))
    best = max(curve, key=lambda at: at[0])
    windows = [shares[at : at + EVALUATE_EVERY] for at in range(0, len(shares), EVALUATE_EVERY)]
    return {
        "seed": seed,
        "options": options,
        "end": curve[-1][1],
        "picked": best[1],
        "pick": best[0],
        "shares": [statistics.mean(window) for window in windows],
        "mean weight": statistics.mean(means),
        "seconds": time.process_time() - start,
    }


def uniform(begun: Beginning) -> Strategy:
    return Uniform()


def small_loss(begun: Beginning) -> Strategy:
    return SmallLoss(r=1.0)


def lin_upper(begun: Beginning) -> Strategy:
    return LinUpper(r=0.4)


def epochs(begun: Beginning) -> int:
    """Of the run."""
    return max(1, begun.steps // (len(begun.data.train[0]) // BATCH))


def adapt(begun: Beginning) -> Strategy:
    return Adapt(begun.model, [(images,) for images, _ in begun.target], head=HEAD)


def rho_loss(begun: Beginning) -> Strategy:
    """The reference model learned the clean rows that are told, and nothing else."""
    reference = network(begun.seed + 500, WIDTH)
    optimizer = AdamW(reference.parameters(), lr=RATE, weight_decay=0.1)
    for _ in range(200):
        for batch in begun.target:
            optimizer.zero_grad()
            losses_of(reference, batch).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return RhoLoss(begun.model, reference, losses_of, BUDGET)


def greats(begun: Beginning, published: bool) -> Strategy:
    """With the optimizer's rate as its step, as published, or with a fitted one."""
    eta = begun.optimizer if published else None
    return Greats(begun.model, begun.target, BUDGET, loss_fn=losses_of, eta=eta)


def filter_then_weight(begun: Beginning, **options: Any) -> Strategy:
    return FilterThenWeight(begun.model, begun.optimizer, begun.target, BUDGET, loss_fn=losses_of, **options)


def meta_weight_net(begun: Beginning, **options: Any) -> Strategy:
    return MetaWeightNet(begun.model, begun.target, begun.optimizer, loss_fn=losses_of, seed=begun.seed, **options)


def data_weighting_model(begun: Beginning, always: bool, **options: Any) -> DataWeightingModel:
    """It learns on the first 40 batches of each stage, or on all."""
    stage = max(1, begun.steps // STAGES)
    return DataWeightingModel(
        begun.model,
        begun.target,
        begun.optimizer,
        loss_fn=losses_of,
        stages=STAGES,
        stage_steps=stage,
        updates=stage if always else 40,
        head=HEAD,
        seed=begun.seed,
        **options,
    )


def transferred(begun: Beginning, **options: Any) -> Strategy:
    """A weighting model that learned beside a model of half the width, on the same rows, and is frozen now."""
    learned: list[DataWeightingModel] = []

    def make(narrow: Beginning) -> Strategy:
        learned.append(data_weighting_model(narrow, **options))
        return learned[0]

    run(replace(METHODS["uniform"], make=make), {}, begun.seed, begun.steps)
    with tempfile.TemporaryDirectory() as folder:
        learned[0].save(Path(folder) / "dwm.npz")
        return DataWeightingModel.load(
            Path(folder) / "dwm.npz", begun.model, begun.target, loss_fn=losses_of, head=HEAD
        )


METHODS: dict[str, Method] = {
    "uniform": Method(uniform),
    "LinUpper(r=0.4)": Method(lin_upper),
    "LinUpper(r=0.4), shuffled": Method(lambda b: Shuffled(lin_upper(b), seed=b.seed)),
    "Quadratic(r=1)": Method(lambda b: Quadratic(r=1.0)),
    "Extremes(r=1)": Method(lambda b: Extremes(r=1.0)),
    "Dro(ess=0.7)": Method(lambda b: Dro(ess=0.7)),
    "SmallLoss(r=1)": Method(small_loss),
    "SmallLoss(r=1), shuffled": Method(lambda b: Shuffled(small_loss(b), seed=b.seed)),
    "SmallLoss(r=1), frozen": Method(lambda b: Frozen(), after="SmallLoss(r=1)"),
    "InfoBatch": Method(lambda b: InfoBatch(epochs(b), seed=b.seed)),
    "Kakurenbo": Method(lambda b: Kakurenbo(epochs(b), seed=b.seed)),
    "Adapt": Method(adapt),
    "uniform, learning rate of Adapt": Method(uniform, matched="Adapt"),
    "RhoLoss": Method(rho_loss),
    "GREATS": Method(greats, ({"published": True}, {"published": False})),
    "Filter-then-Weight": Method(filter_then_weight, ({"layers": "all"}, {"layers": [HEAD]})),
    "Meta-Weight-Net": Method(meta_weight_net, ({"lr": 1e-3}, {"lr": 3e-3}, {"lr": 1e-2})),
    "DWM": Method(
        data_weighting_model, tuple({"always": always, "lr": lr} for always in (False, True) for lr in (1e-3, 3e-3))
    ),
    "uniform, the clean rows added": Method(uniform, rows=lambda data: joined(data.train, data.told)),
    "the 100 clean rows alone": Method(uniform, rows=lambda data: data.told),
    "oracle: no label drawn": Method(uniform, rows=lambda data: kept(data.train, ~data.drawn)),
    "twice the width: uniform": Method(uniform, width=2 * WIDTH),
    "twice the width: DWM learned there": Method(data_weighting_model, like="DWM", width=2 * WIDTH),
    "twice the width: DWM of the narrow model, frozen": Method(transferred, like="DWM", width=2 * WIDTH),
}
"""The rows of the table."""


def joined(one: Rows, other: Rows) -> Rows:
    return torch.cat([one[0], other[0]]), torch.cat([one[1], other[1]])


def kept(rows: Rows, which: Tensor) -> Rows:
    return rows[0][which], rows[1][which]
