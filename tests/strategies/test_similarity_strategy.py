"""Similarity: weights from stored scores, by hand, over windows, in products; options; the plan it carries."""

from __future__ import annotations

import json
import math
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weighted_stream import (
    Clip,
    HashedEncoder,
    LinUpper,
    Product,
    Shuffled,
    Signals,
    Similarity,
    StoreMismatchError,
    StrategyError,
    WeightedStream,
)
from weighted_stream.errors import ScoringError
from weighted_stream.scoring.target_set import TargetSet
from weighted_stream.strategies.similarity import similarity_weights
from weighted_stream.strategies.temperature import effective_share

NAN = math.nan


def signals(similarity: list[float], losses: torch.Tensor | None = None, scratch: dict | None = None) -> Signals:
    stored = {"similarity": np.array(similarity, np.float32)}
    return Signals(np.arange(len(similarity)), 0, losses, lambda ids: stored, {} if scratch is None else scratch)


def test_softmax_by_hand() -> None:
    """e^0, e^1, e^2 over their mean: 1, 2.718282, 7.389056 / 3.702446."""
    expected = torch.tensor([0.270092, 0.734185, 1.995723])
    torch.testing.assert_close(similarity_weights(torch.tensor([0.1, 0.3, 0.5]), 0.2), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(Similarity(tau=0.2).weights(signals([0.1, 0.3, 0.5])), expected, atol=1e-5, rtol=0)


def test_sigmoid_by_hand() -> None:
    """The mean is 0.3; sigmoid(-1), (0), (1) = 0.268941, 0.5, 0.731059, whose mean is 0.5."""
    expected = torch.tensor([0.537883, 1.0, 1.462117])
    weights = Similarity(tau=0.2, gate="sigmoid").weights(signals([0.1, 0.3, 0.5]))
    torch.testing.assert_close(weights, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
def test_samples_without_a_score_are_neutral_and_take_no_part(gate: str) -> None:
    strategy = Similarity(tau=0.2, gate=gate)
    weights = strategy.weights(signals([0.1, NAN, 0.3, NAN, 0.5]))
    assert weights[[1, 3]].tolist() == [1.0, 1.0]
    torch.testing.assert_close(weights[[0, 2, 4]], strategy.weights(signals([0.1, 0.3, 0.5])))
    assert weights[[0, 2, 4]].mean().item() == pytest.approx(1, abs=1e-5)
    assert strategy.weights(signals([NAN, NAN])).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("window", ["batch", "running"])
@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 10, 11, 64])
def test_equal_scores_weigh_the_same(gate: str, window: str, count: int) -> None:
    for value in range(-1000, 1001, 13):
        for options in ({}, {"tau": 1e-8}):
            weights = Similarity(gate=gate, window=window, **options).weights(signals([value / 1000] * count))
            assert weights.tolist() == pytest.approx([1.0] * count, abs=1e-5), (value, options)


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
@given(
    values=st.lists(st.integers(-1000, 1000), min_size=1, max_size=50).map(lambda xs: [x / 1000 for x in xs]),
    gap=st.integers(0, 60),
)
def test_default_is_an_effective_size_of_0_7(gate: str, values: list[float], gap: int) -> None:
    placed = [*values[:gap], NAN, *values[gap:]]
    weights = Similarity(gate=gate).weights(signals(placed))
    known = weights[~torch.tensor(placed).isnan()]
    assert weights.dtype == torch.float32
    assert known.mean().item() == pytest.approx(1, abs=1e-4)
    order = torch.tensor(values).argsort()
    assert (known[order].diff() >= -1e-5).all()
    if gate == "softmax":
        least = values.count(max(values)) / len(values)
        assert effective_share(known).item() == pytest.approx(max(least, 0.7 if len(set(values)) > 1 else 1), abs=2e-3)


def feed(strategy: Similarity, similarity: list[float], scratch: dict) -> torch.Tensor:
    some = signals(similarity, torch.rand(len(similarity)), scratch)
    weights = strategy.weights(some)
    strategy.observe(some)
    return weights


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
@pytest.mark.parametrize("options", [{"ess": 0.7}, {"tau": 0.3}])
def test_running_window(gate: str, options: dict) -> None:
    """Each sample by itself, parts as the whole, ones until 32 scores are known, unscored samples left out."""
    draw = np.random.default_rng(0)
    whole = Similarity(gate=gate, window="running", memory=200, **options)
    parts = Similarity(gate=gate, window="running", memory=200, **options)
    assert not whole.joint
    known, seen = 0, []
    for _ in range(150):
        scores = draw.uniform(0, 1, 6).tolist()
        scores[draw.integers(6)] = NAN
        weights = feed(whole, scores, {})
        scratch: dict = {}
        torch.testing.assert_close(
            torch.cat([feed(parts, part, scratch) for part in (scores[:2], scores[2:])]), weights
        )
        missing = torch.tensor(scores).isnan()
        assert (weights[missing] == 1).all()
        if known < 32:
            assert (weights == 1).all()
        else:
            seen.append(weights[~missing])
        known += 5
    weights = torch.cat(seen)
    assert weights.mean().item() == pytest.approx(1, abs=0.05)
    if "ess" in options:
        assert effective_share(weights).item() == pytest.approx(0.7, abs=0.04)


def test_running_window_equals_the_formula_over_the_latest() -> None:
    draw = np.random.default_rng(1)
    strategy, past = Similarity(tau=0.4, window="running", memory=40), []
    for _ in range(20):
        scores = draw.uniform(-1, 1, 8).astype(np.float32)
        weights = feed(strategy, scores.tolist(), {})
        if len(past) >= 32:
            window = np.array(past[-40:])
            clipped = scores.clip(window.min(), window.max())
            expected = np.exp(clipped / 0.4) / np.exp(window / 0.4).mean()
            np.testing.assert_allclose(weights, expected, rtol=1e-5)
        past += scores.tolist()


def test_known_at_hand_over_and_after_the_losses() -> None:
    stream = WeightedStream(list(range(6)), Similarity(tau=0.5))
    stream.store.update([0, 1, 2, 4], similarity=[0.1, 0.9, 0.4, 0.4])
    for _, weight in stream.loader(batch_size=6):
        early = weight.tensor()
        assert early[[3, 5]].tolist() == [1, 1]
        torch.testing.assert_close(weight.resolve(torch.rand(6)), early)


def test_factor_of_products_and_inside_wrappers() -> None:
    losses, scores = torch.tensor([1.0, 2.0, 3.0, 5.0]), [0.3, NAN, 0.1, 0.2]
    a, b = LinUpper(r=0.4), Similarity(tau=0.1)
    product = (a * b).weights(signals(scores, losses))
    raw = a.weights(signals(scores, losses)) * b.weights(signals(scores, losses))
    torch.testing.assert_close(product, raw / raw.mean())
    clipped = Clip(Similarity(tau=0.1), high=1.5).weights(signals(scores))
    assert clipped.max() <= 1.5
    assert clipped.mean().item() == pytest.approx(1, abs=1e-5)
    shuffled = Shuffled(Similarity(tau=0.1)).weights(signals(scores))
    torch.testing.assert_close(shuffled.sort().values, b.weights(signals(scores)).sort().values)


def test_a_target_makes_a_plan_that_travels(tmp_path) -> None:
    file = tmp_path / "target.jsonl"
    file.write_text("".join(json.dumps({"body": text}) + "\n" for text in ("two apples", "three apples")))
    strategy = Similarity(str(file), text="body", ahead=100, wait=True, on_bad_shard="skip", progress=True)
    plan = strategy.scoring
    assert plan is not None
    assert (plan.ahead, plan.wait, plan.on_bad_shard, plan.progress) == (100, True, "skip", True)
    pytest.importorskip("sklearn")
    scorer = pickle.loads(pickle.dumps(plan)).make()
    apples, rain = scorer.score([{"body": "four apples"}, {"body": "heavy rain"}])
    assert apples > rain + 0.2
    for wrapped in (LinUpper() * strategy, Clip(strategy), Shuffled(strategy), Clip(LinUpper() * strategy)):
        assert wrapped.scoring is plan
    assert Similarity().scoring is None
    assert (LinUpper() * Similarity()).scoring is None


def test_targets_are_taken_as_they_come() -> None:
    target = TargetSet(["some text"])
    for given_target in (target, ["some text"], [{"text": "some text"}]):
        assert Similarity(given_target).scoring is not None
    with pytest.raises(ScoringError, match="empty"):
        Similarity([])
    with pytest.raises(ScoringError, match="no field 'text'"):
        Similarity([{"body": "x"}])
    with pytest.raises(ScoringError, match="which is no file"):
        Similarity("nowhere.jsonl")


def test_two_targets_in_a_product_are_refused() -> None:
    one, other = Similarity(["a text"]), Similarity(["another text"])
    with pytest.raises(StrategyError, match="two ways"):
        one * other
    assert Product(one, Similarity()).scoring is one.scoring
    assert Product(one, one).scoring is one.scoring


@pytest.mark.parametrize(
    "options",
    [
        {"ess": 0},
        {"ess": 1},
        {"tau": 0},
        {"tau": NAN},
        {"gate": "tanh"},
        {"window": "epoch"},
        {"memory": 3},
        {"ahead": 0},
        {"wait": "yes"},
        {"on_bad_shard": "ignore"},
        {"progress": 2},
    ],
)
def test_impossible_options(options: dict) -> None:
    (name,) = options
    with pytest.raises(StrategyError, match=name):
        Similarity(["text"], **options)


@pytest.mark.parametrize(
    "options",
    [
        {"encoder": len},
        {"text": "body"},
        {"ahead": 5},
        {"wait": True},
        {"on_bad_shard": "skip"},
        {"progress": True},
    ],
)
def test_options_that_need_a_target(options: dict) -> None:
    (name,) = options
    with pytest.raises(StrategyError, match=f"found: +{name}="):
        Similarity(**options)


def test_tau_and_ess_exclude_each_other() -> None:
    assert (Similarity().ess, Similarity().tau) == (0.7, None)
    assert (Similarity(tau=0.1).ess, Similarity(tau=0.1).tau) == (None, 0.1)
    with pytest.raises(StrategyError, match=r"tau=0\.1 and ess=0\.7"):
        Similarity(ess=0.7, tau=0.1)


@pytest.mark.parametrize("window", ["batch", "running"])
def test_a_temperature_that_leaves_few_samples_warns_once(window: str) -> None:
    scores = np.linspace(0, 1, 40).tolist()
    strategy = Similarity(tau=0.02, window=window)
    if window == "running":
        feed(strategy, scores, {})
    with pytest.warns(RuntimeWarning, match="effective sample size of 4%"):
        strategy.weights(signals(scores))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        strategy.weights(signals(scores))
        for quiet in (Similarity(tau=0.5), Similarity(ess=0.05), Similarity(tau=0.02, gate="sigmoid")):
            quiet.weights(signals(scores))


def test_repr_tells_the_options_and_not_the_target() -> None:
    assert repr(Similarity(["text"])) == "Similarity(tau=None, ess=0.7, gate='softmax', window='batch', memory=1024)"


@pytest.mark.parametrize("wait", [False, True])
def test_a_store_with_scores_of_another_target_is_refused_before_anything_is_read(tmp_path: Path, wait: bool) -> None:
    data = [f"text number {i}" for i in range(8)]
    mine, other = ["text number"], ["apples and pears"]
    with WeightedStream(data, Similarity(mine, wait=True), store=tmp_path) as stream:
        for _, weight in stream.loader(batch_size=4):
            weight.tensor()
    with pytest.raises(StoreMismatchError, match="other scores: target"):
        WeightedStream(data, Similarity(other, wait=wait), store=tmp_path)
    with pytest.raises(StoreMismatchError, match="other scores: encoder"):
        WeightedStream(data, Similarity(mine, HashedEncoder(dim=64), wait=wait), store=tmp_path)
    WeightedStream(data, Similarity(mine, wait=wait), store=tmp_path).close()
