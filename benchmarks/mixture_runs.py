"""One training run on the standard mixture: a setting, a seed, and what comes out."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.mixture_vectors import Kept
from benchmarks.mixtures import MATHS, REST, Mixture, standard_mixture
from weighted_stream import (
    Adapt,
    AdaptBM25,
    HashedEncoder,
    LinUpper,
    Resampled,
    Shuffled,
    Similarity,
    Strategy,
    TargetSet,
    Uniform,
    WeightedStream,
)
from weighted_stream.demo.model import GPT, GPTConfig
from weighted_stream.demo.tokenizer import BPE, PADDING
from weighted_stream.demo.train import endless, evaluate, train
from weighted_stream.scoring.base import Scores, ScoringPlan
from weighted_stream.scoring.bm25 import BM25Scorer
from weighted_stream.scoring.target_set import Method

BATCH, CONTEXT, EVALUATE_EVERY = 64, 64, 5


@dataclass(frozen=True)
class Setting:
    """How a run weighs its samples.

    Attributes:
        weights: ``"uniform"``, ``"similarity"``, ``"adapt"``, ``"bm25"``, ``"linupper"``, ``"product"`` (LinUpper and
            Similarity), or ``"oracle"`` (nothing but maths in the stream).
        rate: highest learning rate, in units of that of the benchmark.
        encoder: of similarity: ``"hashed"``, ``"pairs"`` (hashed words and pairs, weighed by their rarity),
            ``"minilm"``; in place of vectors, ``"bm25"``: the scores of AdaptBM25, or ``"oracle"``: 1 for maths and 0
            for the rest.
        score: of similarity to the target set: ``"mean"``, ``"max"``, …
        ess: effective sample size that the temperature is found for.
        tau: temperature of the two ADAPTs.
        center: of ADAPT.
        r: temperature of LinUpper.
        shuffled: permute the weights within each batch, or among the candidates.
        budget: draw this share of the candidates by the weights; None: weigh the batch.
        ahead: score in a process of its own while the model trains, as users do. If not, the same scores are put into
            the store before the training.
    """

    weights: str
    rate: float = 1.0
    encoder: str = "hashed"
    score: Method = "mean"
    ess: float = 0.7
    tau: float = 1.0
    center: Literal["running"] | None = None
    r: float = 1.0
    shuffled: bool = False
    budget: float | None = None
    ahead: bool = False


@dataclass(frozen=True)
class Task:
    """A run to be made; it travels to a process of the pool.

    Attributes:
        data: folder of the data sets.
        vectors: folder of a sentence encoder's vectors, where the setting needs them.
        setting: how to weigh.
        seed: of the mixture, the order and the model.
        steps: of 64 texts.
        rate: highest learning rate, which the setting may scale.
        size: texts in the mixture.
    """

    data: Path
    vectors: Path | None
    setting: Setting
    seed: int
    steps: int
    rate: float
    size: int = 12_800


@dataclass(frozen=True)
class Prepared:
    """A mixture and its tokens."""

    mixture: Mixture
    bpe: BPE
    rows: Tensor
    held_out: dict[str, Tensor]
    maths: NDArray[np.bool_]


@lru_cache(maxsize=1)
def prepare(folder: Path, seed: int, size: int) -> Prepared:
    """The mixture of a seed, in tokens; made once for the runs of one process that follow each other."""
    mixture = standard_mixture(folder, seed, size)
    bpe = BPE(mixture.texts)
    sets = {"report": mixture.report, "choose": mixture.choose, **mixture.rest}
    return Prepared(
        mixture,
        bpe,
        bpe.encode(mixture.texts, CONTEXT + 1),
        {name: bpe.encode(texts, CONTEXT + 1) for name, texts in sets.items()},
        np.array(mixture.domains) == MATHS,
    )


def run(task: Task) -> dict[str, Any]:
    """Train once.

    Returns:
        Final losses of all held-out sets, the curves of the maths to report and of Wikipedia, effective sample size,
        mean weight and, where there are scores, how well they tell maths from the rest (AUC).
    """
    torch.set_num_threads(1)
    # Weights of a constant or very small spread, and weights past a theory's bound, are what is measured here.
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    start = time.perf_counter()
    data = prepare(task.data, task.seed, task.size)
    chosen = data.maths if task.setting.weights == "oracle" else np.ones_like(data.maths)
    rows = data.rows[torch.from_numpy(chosen)]
    samples = [{"text": data.mixture.texts[i], "row": row} for row, i in enumerate(np.flatnonzero(chosen))]

    def tokens(batch: Sequence[Mapping[str, Any]]) -> Tensor:
        return rows[[sample["row"] for sample in batch]]

    model = GPT(GPTConfig(), frequencies=torch.bincount(rows.flatten(), minlength=GPTConfig.vocab), seed=task.seed)
    strategy = make_strategy(task, data, model)
    plan = strategy.scoring
    if not task.setting.ahead:
        strategy.scoring = None
    with WeightedStream(samples, strategy) as stream:
        if plan is not None and not task.setting.ahead:
            stream.store.update(np.arange(len(samples)), similarity=scores_now(task, data, plan, samples))
        loader = stream.loader(batch_size=BATCH, shuffle=True, seed=task.seed, drop_last=True, collate_fn=tokens)
        curve = train(
            endless(loader),
            model,
            steps=task.steps,
            rate=task.rate * task.setting.rate,
            held_out={name: data.held_out[name] for name in ("report", REST[0])},
            evaluate_every=EVALUATE_EVERY,
        )
        records = stream.store.get(np.arange(len(samples)))
    return {
        "setting": asdict(task.setting),
        "seed": task.seed,
        "losses": {
            name: curve.final(name) if name in curve.losses else evaluate(model, tokens)
            for name, tokens in data.held_out.items()
        },
        "steps": curve.steps,
        "curves": curve.losses,
        "ess": statistics.mean(curve.ess),
        "mean weight": float(np.nanmean(records["weight"])),
        "auc": separation(records["similarity"], data.maths[chosen]),
        "seconds": time.perf_counter() - start,
    }


def scores_now(task: Task, data: Prepared, plan: ScoringPlan, samples: Sequence[Any]) -> Scores:
    """What the process that scores ahead would write, or the scores that the setting wants in its place."""
    if task.setting.encoder == "oracle":
        return data.maths.astype(np.float32)
    scorer = BM25Scorer(data.mixture.target) if task.setting.encoder == "bm25" else plan.make()
    if scorer.first_pass:
        scorer.learn(lambda: [samples])
    return scorer.score(samples)


def make_strategy(task: Task, data: Prepared, model: GPT) -> Strategy:
    """The strategy of a setting."""
    setting, target = task.setting, data.mixture.target
    made: Strategy
    match setting.weights:
        case "uniform" | "oracle":
            made = Uniform()
        case "linupper":
            made = LinUpper(r=setting.r)
        case "similarity":
            made = similarity(task, data.mixture)
        case "product":
            made = LinUpper(r=setting.r) * similarity(task, data.mixture)
        case "adapt":
            batches = list(data.bpe.encode(target, CONTEXT).split(BATCH))  # type: ignore[no-untyped-call]
            made = Adapt(model, batches, tau=setting.tau, center=setting.center, head="head", mask=not_padding)
        case "bm25":
            made = AdaptBM25(target, tau=setting.tau, wait=True)
        case _:
            raise ValueError(setting.weights)
    if setting.shuffled:
        made = Shuffled(made, seed=task.seed)
    return made if setting.budget is None else Resampled(made, setting.budget, seed=task.seed)


def similarity(task: Task, mixture: Mixture) -> Similarity:
    """With the target set and the encoder of a setting."""
    encoder: Any = None
    if task.setting.encoder == "pairs":
        encoder = HashedEncoder(8192, ngrams=(1, 2), stop_words=None, idf=mixture.texts[:2000])
    elif task.setting.encoder == "minilm":
        assert task.vectors is not None
        encoder = Kept(task.vectors / f"minilm-{task.seed}")
    return Similarity(TargetSet(mixture.target, score=task.setting.score), encoder, ess=task.setting.ess, wait=True)


def not_padding(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor:
    """The attention mask of a call of the model."""
    mask: Tensor = arguments[0] != PADDING
    return mask


def separation(scores: NDArray[np.float32], maths: NDArray[np.bool_]) -> float | None:
    """The chance that maths scores above other text (AUC); None where nothing was scored."""
    known = ~np.isnan(scores)
    if not known.any():
        return None
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(maths[known], scores[known]))
