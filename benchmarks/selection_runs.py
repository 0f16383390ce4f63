"""One training run that chooses its samples: a setting, a seed, how many steps, and what comes out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from benchmarks.mixtures import MATHS, Mixture, has_mixture, standard_mixture
from weighted_stream import Candidates, Choice, FilterThenWeight, Greats, Selecting, Strategy, Uniform, WeightedStream
from weighted_stream.demo.corpus import installed_corpus
from weighted_stream.demo.model import GPT, GPTConfig
from weighted_stream.demo.tokenizer import BPE
from weighted_stream.demo.train import endless, evaluate, per_sample_loss
from weighted_stream.probes.gradient_layers import Layers
from weighted_stream.probes.running import aside

BATCH, CONTEXT, SIZE = 16, 32, 12_800
MODEL = GPTConfig(context=CONTEXT, layers=2, width=64, heads=2)
TARGET, REFRESH = 128, 8
"""Examples of the target that strategies see, and how many choices their mean gradient lasts."""

REFERENCE = "reference"
"""The kind of text that is the target where the installed packages' text stands in for the standard mixture."""

Method = Literal["random", "top-loss", "greats", "ftw", "full"]


@dataclass(frozen=True)
class Setting:
    """How a run chooses its samples.

    Attributes:
        method: ``"random"`` (the next 16), ``"top-loss"``, ``"greats"``, ``"ftw"`` (Filter-then-Weight), or ``"full"``
            (all candidates in one large batch).
        budget: 16 samples over the number of candidates.
        layers: whose gradients are looked at, by the methods that do.
        rate: highest learning rate.
        eta: of GREATS: ``"rate"``, the learning rate of the moment (as published), or ``"fit"``, the step at which the
            candidates' mean comes closest to the target.
    """

    method: Method
    budget: float = 1.0
    layers: Literal["all", "head"] = "all"
    rate: float = 1e-2
    eta: Literal["rate", "fit"] = "rate"

    @property
    def candidates(self) -> int:
        """How many samples are drawn for a step."""
        return ceil(BATCH / self.budget - 1e-9)

    @property
    def batch(self) -> int:
        """How many samples a step trains on."""
        return self.candidates if self.method == "full" else BATCH


@dataclass(frozen=True)
class Task:
    """A run to be made; it travels to a process of the pool.

    Attributes:
        data: folder of the data sets; if they are not there, the installed packages' text is used.
        setting: how to choose.
        seed: of the mixture, the order and the model.
        steps: of the optimizer.
        size: texts in the mixture.
    """

    data: Path
    setting: Setting
    seed: int
    steps: int
    size: int = SIZE


def passes(setting: Setting) -> float:
    """Token passes of one step, on average: what forwards and backwards of the model cost.

    A forward of one token is 1, a backward 2 (gradients of activations and of parameters) and 1 without gradients of
    parameters. The products of gradients are not in it; seconds of the processor are.
    """
    training = 3 * setting.batch
    looked_at = setting.candidates + TARGET / REFRESH
    match setting.method:
        case "random" | "full":
            looking = 0.0
        case "top-loss":
            looking = setting.candidates
        case _:
            # For gradients of the head alone, the backward ends there.
            looking = looked_at * (2 if setting.layers == "all" else 1)
    return CONTEXT * (training + looking)


def equal_steps(setting: Setting, allowed: float) -> int:
    """The steps of a run that makes as many token passes as are allowed."""
    return max(1, round(allowed / passes(setting)))


class Meter:
    """Counts the token passes of a `GPT` as they happen, by hooks; see `passes`."""

    def __init__(self, model: GPT) -> None:
        self.passes = 0
        model.register_forward_hook(self._forward)
        model.blocks.register_forward_hook(self._body)

    def _forward(self, model: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        self.passes += arguments[0].numel()

    def _body(self, body: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        if output.requires_grad:
            cost = output.shape[0] * output.shape[1] * (2 if body.training else 1)
            output.register_hook(lambda gradient: self._backward(cost))  # type: ignore[no-untyped-call]

    def _backward(self, cost: int) -> None:
        self.passes += cost


class TopLoss(Selecting):
    """The candidates with the largest losses, each with weight 1."""

    def __init__(self, model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], budget: float) -> None:
        super().__init__(budget)
        self._model, self._loss_fn = model, loss_fn

    def choose(self, candidates: Candidates) -> Choice:
        """One forward, in evaluation mode."""
        with aside(self._model):
            losses = self._loss_fn(self._model, candidates.batch)
        places = losses.topk(candidates.count).indices.sort().values
        return Choice(places.numpy(), torch.ones(len(places)))


@dataclass(frozen=True)
class Prepared:
    """A mixture in tokens: the stream (N, 33), which rows are of the target's kind, examples, held-out sets."""

    rows: Tensor
    wanted: NDArray[np.bool_]
    target: Tensor
    held_out: dict[str, Tensor]


@lru_cache(maxsize=1)
def prepare(folder: Path, seed: int, size: int) -> Prepared:
    """The tokens of a seed's mixture; made once for the runs of one process that follow each other."""
    mixture, kind = (standard_mixture(folder, seed, size), MATHS) if has_mixture(folder) else packages(seed, size)
    bpe = BPE(mixture.texts, vocab=MODEL.vocab)
    sets = {"report": mixture.report, "choose": mixture.choose, **mixture.rest}
    return Prepared(
        bpe.encode(mixture.texts, CONTEXT + 1),
        np.array(mixture.domains) == kind,
        bpe.encode(mixture.target[:TARGET], CONTEXT + 1),
        {name: bpe.encode(texts, CONTEXT + 1) for name, texts in sets.items()},
    )


def packages(seed: int, size: int) -> tuple[Mixture, str]:
    """The installed packages' text in the form of the standard mixture; the target is Python's language reference."""
    corpus = installed_corpus(seed, size, examples=TARGET)
    target, rest = ([sample.text for sample in part] for part in (corpus.target, corpus.rest))
    half = len(target) // 2
    mixture = Mixture(
        [sample.text for sample in corpus.train],
        [sample.kind for sample in corpus.train],
        [sample.text for sample in corpus.examples],
        target[:half],
        target[half:],
        {"packages": rest},
    )
    return mixture, REFERENCE


def run(task: Task) -> dict[str, Any]:
    """Train once.

    Returns:
        Final losses of all held-out sets; the share of the target's kind among the chosen, by number and by weight, in
        each quarter of the steps; token passes as counted; seconds of the processor, evaluation not counted.
    """
    torch.set_num_threads(1)
    data = prepare(task.data, task.seed, task.size)
    setting = task.setting
    model = GPT(MODEL, frequencies=torch.bincount(data.rows.flatten(), minlength=MODEL.vocab), seed=task.seed)
    optimizer = AdamW(model.parameters(), lr=setting.rate, betas=(0.9, 0.98), fused=True)
    schedule = OneCycleLR(optimizer, setting.rate, task.steps + 1, pct_start=0.05, cycle_momentum=False)
    meter = Meter(model)
    strategy = make_strategy(setting, model, optimizer, data)
    shares: list[tuple[float, float]] = []
    ess: list[float] = []
    with WeightedStream(range(len(data.rows)), strategy) as stream:
        loader = stream.loader(
            batch_size=setting.batch,
            shuffle=True,
            seed=task.seed,
            drop_last=True,
            collate_fn=lambda places: data.rows[places],
        )
        start = time.process_time()
        for batch, weight in islice(endless(loader), task.steps):
            losses = per_sample_loss(model, batch)
            (losses * weight).mean().backward()  # type: ignore[no-untyped-call]
            clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            wanted, weights = data.wanted[weight.ids.numpy()], weight.tensor().numpy()
            shares.append((wanted.mean(), weights[wanted].sum() / weights.sum()))
            ess.append(weights.sum() ** 2 / (len(weights) * (weights**2).sum()))
        seconds = time.process_time() - start
    quarters = np.array_split(np.array(shares), min(4, len(shares)))
    counted = meter.passes
    return {
        "setting": asdict(setting),
        "seed": task.seed,
        "steps": task.steps,
        "losses": {name: evaluate(model, tokens) for name, tokens in data.held_out.items()},
        "chosen": [float(quarter[:, 0].mean()) for quarter in quarters],
        "weight": [float(quarter[:, 1].mean()) for quarter in quarters],
        "in the stream": float(data.wanted.mean()),
        "ess": float(np.mean(ess)),
        "passes": counted,
        "seconds": seconds,
        "fallbacks": getattr(strategy, "fallbacks", 0),
    }


def make_strategy(setting: Setting, model: GPT, optimizer: Optimizer, data: Prepared) -> Strategy:
    """The strategy of a setting."""
    target = list(data.target.split(64))  # type: ignore[no-untyped-call]
    match setting.method:
        case "random" | "full":
            return Uniform()
        case "top-loss":
            return TopLoss(model, per_sample_loss, setting.budget)
        case "greats":
            eta = optimizer if setting.eta == "rate" else None
            return Greats(model, target, setting.budget, loss_fn=per_sample_loss, eta=eta, refresh_every=REFRESH)
        case "ftw":
            layers: Layers = ["head"] if setting.layers == "head" else "all"
            return FilterThenWeight(
                model, optimizer, target, setting.budget, layers, per_sample_loss, refresh_every=REFRESH
            )
