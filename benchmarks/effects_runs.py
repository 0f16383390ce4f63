"""One run of `benchmarks.effects`: a row, a seed, a stream, a model, and what comes out."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from benchmarks.effects_rows import ROWS, Beginning, Row
from benchmarks.effects_streams import Tokens, frequencies, tokens
from benchmarks.method_cost_runs import losses_of
from weighted_stream import Strategy, Uniform, WeightedStream
from weighted_stream.demo.model import GPT, GPTConfig
from weighted_stream.demo.train import endless

MODELS = {
    "tiny": GPTConfig(vocab=300, context=16, layers=1, width=24, heads=2),
    "small": GPTConfig(),
    "124M": GPTConfig(vocab=25_000, context=128, layers=12, width=768, heads=12),
}
"""By name: for tests, for a CPU core, and of the shape of GPT-2 small."""

RATES = {"tiny": 1e-2, "small": 1.5e-2, "124M": 1e-3}
"""Highest learning rates in batches of 64."""


@dataclass(frozen=True)
class Task:
    """A run to be made; it travels to a process of the pool.

    Attributes:
        row: of the table.
        seed: of the stream, the order and the model.
        stream: one of `STREAMS`.
        size: texts in it.
        steps: of the optimizer.
        rate: highest learning rate.
        batch: samples a step.
        model: one of `MODELS`.
        device: ``"cpu"`` or ``"cuda"``.
        before: steps of a uniform training on text of the other kinds that come first: a fine-tune.
        evaluations: how often the target is looked at.
        data: folder of the real data sets, for the stream that needs them.
    """

    row: str
    seed: int
    stream: str = "packages"
    size: int = 6400
    steps: int = 200
    rate: float = 1.5e-2
    batch: int = 64
    model: str = "small"
    device: str = "cpu"
    before: int = 0
    evaluations: int = 20
    data: Path = Path()


@dataclass
class Curve:
    """What was seen: after so many steps and seconds of training, the losses on two halves of the target."""

    steps: list[int]
    seconds: list[float]
    choose: list[float]
    report: list[float]


def run(task: Task) -> dict[str, Any]:
    """Train once.

    Returns:
        The curve; losses on the target and on the rest at the end; seconds of the preparation (scores, models that the
        method needs), which count, and of the training, evaluations left out; effective sample size and mean weight.
    """
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    row, config = ROWS[task.row], MODELS[task.model]
    data = tokens(task.stream, task.data, task.seed, task.size, config.vocab, config.context)
    if task.device == "cuda":
        warm_up(replace(task, row="uniform", seed=0, rate=RATES[task.model], steps=5, evaluations=1))
    first = None if row.after is None else run(replace(task, row=row.after))
    model = begin(task, data)
    optimizer = AdamW(model.parameters(), lr=task.rate, betas=(0.9, 0.98), weight_decay=0.1, fused=True)
    start = time.perf_counter()
    target = list(data.examples.to(task.device).split(64))  # type: ignore[no-untyped-call]

    def trained(rows: Tensor, steps: int) -> GPT:
        other = fresh(config, rows, task.seed + 500, task.device)
        train(other, rows, replace(task, steps=steps, evaluations=0), {})
        return other

    begun = Beginning(model, optimizer, data, target, trained, task.seed, task.steps)
    strategy = row.make(begun)
    chosen = np.ones(len(data.rows), bool) if row.only is None else row.only(data)
    scores = scores_of(row, strategy, data, chosen)
    finish(task.device)
    prepared = time.perf_counter() - start
    records = {"similarity": scores} if scores is not None else {}
    if first is not None:
        records |= {"weight": np.array(first["weights"], np.float32), "loss": np.ones(len(chosen), np.float32)}
        prepared += first["prepared"] + first["curve"]["seconds"][-1]
    seen = train(model, data.rows[torch.from_numpy(chosen)], task, records, strategy, optimizer, data, chosen)
    finals = {name: evaluate(model, rows, task.device) for name, rows in data.held_out.items()}
    return (
        {"row": task.row, "seed": task.seed, "rate": task.rate, "batch": task.batch, "losses": finals}
        | seen
        | {"prepared": prepared}
    )


def fresh(config: GPTConfig, rows: Tensor, seed: int, device: str) -> GPT:
    """A model that has learned nothing but how often each token occurs."""
    return GPT(config, frequencies=frequencies(rows, config.vocab), seed=seed).to(device)


@cache
def warm_up(task: Task) -> None:
    """Train a model that nobody needs: the first run of a process must not pay for what a GPU sets up once."""
    config = MODELS[task.model]
    data = tokens(task.stream, task.data, task.seed, task.size, config.vocab, config.context)
    model = fresh(config, data.rows, 0, task.device)
    train(model, data.rows, task, {})
    evaluate(model, data.rows[: task.batch], task.device)


@lru_cache(maxsize=1)
def before(task: Task) -> dict[str, Tensor]:
    """The parameters after a uniform training on the other kinds of text."""
    config = MODELS[task.model]
    data = tokens(task.stream, task.data, task.seed, task.size, config.vocab, config.context)
    model = fresh(config, data.rows, task.seed, task.device)
    train(model, data.rows[torch.from_numpy(~data.of.wanted)], replace(task, steps=task.before, evaluations=0), {})
    return model.state_dict()


def begin(task: Task, data: Tokens) -> GPT:
    """The model as the run begins."""
    model = fresh(MODELS[task.model], data.rows, task.seed, task.device)
    if task.before:
        if data.of.wanted.all():
            raise SystemExit(f"effects: the stream {task.stream!r} has no text of other kinds to train on before")
        model.load_state_dict(deepcopy(before(replace(task, row="uniform", steps=1, rate=RATES[task.model]))))
    return model


def scores_of(row: Row, strategy: Strategy, data: Tokens, chosen: NDArray[np.bool_]) -> NDArray[np.float32] | None:
    """What a process that scores ahead would write, made at once."""
    plan, strategy.scoring = strategy.scoring, None
    if row.scores is not None:
        return row.scores(data)[chosen]
    if plan is None:
        return None
    samples = [{"text": text} for text, wanted in zip(data.of.texts, chosen, strict=True) if wanted]
    scorer = plan.make()
    if scorer.first_pass:
        scorer.learn(lambda: [samples])
    return np.asarray(scorer.score(samples), np.float32)


def train(
    model: GPT,
    rows: Tensor,
    task: Task,
    records: Mapping[str, NDArray[Any]],
    strategy: Strategy | None = None,
    optimizer: AdamW | None = None,
    data: Tokens | None = None,
    chosen: NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """Train on rows (N, T + 1), whose ids are their places, with ``records`` in the store from the start."""
    if optimizer is None:
        optimizer = AdamW(model.parameters(), lr=task.rate, betas=(0.9, 0.98), weight_decay=0.1, fused=True)
    schedule = OneCycleLR(optimizer, task.rate, task.steps + 1, pct_start=0.05, cycle_momentum=False)
    kinds = None if data is None else [kind for kind, one in zip(data.of.kinds, chosen, strict=True) if one]  # type: ignore[arg-type]
    curve, ess, means = Curve([], [], [], []), [], []
    at = {round(task.steps * (n + 1) / task.evaluations) for n in range(task.evaluations)}

    def collate(places: Sequence[int]) -> Tensor:
        return rows[list(places)]

    group = None if kinds is None else kinds.__getitem__
    with WeightedStream(range(len(rows)), strategy or Uniform(), group_fn=group) as stream:
        if records:
            stream.store.update(np.arange(len(rows)), **records)
        size = min(task.batch, len(rows))
        finish(task.device)
        loader = stream.loader(batch_size=size, shuffle=True, seed=task.seed, drop_last=True, collate_fn=collate)
        spent, began = 0.0, time.perf_counter()
        for step, (batch, weight) in enumerate(islice(endless(loader), task.steps), 1):
            losses = losses_of(model, batch)
            (losses * weight).mean().backward()
            clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            if step in at:
                finish(task.device)
                spent += time.perf_counter() - began
                weights = weight.tensor().float()
                means.append(weights.mean().item())
                ess.append(float(weights.sum() ** 2 / (len(weights) * weights.square().sum())))
                curve.steps.append(step)
                curve.seconds.append(spent)
                for name in ("choose", "report") if data is not None else ():
                    getattr(curve, name).append(evaluate(model, data.held_out[name], task.device))
                began = time.perf_counter()
        weights = stream.store.get(np.arange(len(rows)))["weight"]
    return {
        "curve": vars(curve),
        "ess": statistics.mean(ess) if ess else None,
        "mean weight": statistics.mean(means) if means else None,
        "weights": np.nan_to_num(weights, nan=1.0).tolist(),
    }


def finish(device: str) -> None:
    """Wait for the GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


@torch.no_grad()
def evaluate(model: GPT, rows: Tensor, device: str) -> float:
    """The mean loss of held-out rows."""
    model.eval()
    losses = torch.cat([losses_of(model, part.to(device)) for part in rows.split(128)])  # type: ignore[no-untyped-call]
    model.train()
    return float(losses.mean())
