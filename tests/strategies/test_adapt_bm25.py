"""AdaptBM25: the gate by its test vector, unscored samples, normalisation, and real scores through a store."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch

from weighted_stream import AdaptBM25, LinUpper, Signals, Similarity, StrategyError, WeightedStream, make_strategy
from weighted_stream.errors import ScoringError
from weighted_stream.strategies.gate import RunningMean, normalized, sigmoid_gate

NAN = math.nan
CORPUS = ["two apples and a pear", "rain on monday", "three apples", "wind and rain", "stones", ""]


def signals(scores: list[float]) -> Signals:
    return Signals(np.arange(len(scores)), 0, None, lambda ids: {"similarity": np.array(scores, np.float32)})


def test_gate_test_vector() -> None:
    score = torch.tensor([0.702782])
    assert sigmoid_gate(score, 1.0).item() == pytest.approx(0.668804, abs=1e-6)
    assert sigmoid_gate(score, 0.1).item() == pytest.approx(0.999114, abs=1e-6)
    assert sigmoid_gate(torch.tensor([1.0, -1.0]), 0.0).tolist() == [1.0, 0.0]


def test_normalized() -> None:
    weights = torch.tensor([0.2, 0.6, 0.7])
    assert normalized(weights, "none") is weights
    torch.testing.assert_close(normalized(weights, "mean"), torch.tensor([0.4, 1.2, 1.4]))


def test_running_mean_is_the_mean_at_first_and_forgets_later() -> None:
    mean, values = RunningMean(memory=50), torch.rand(40)
    for part in values.split(7):
        mean.update(part)
    assert mean.value is not None
    assert mean.value.item() == pytest.approx(values.mean().item(), abs=1e-6)
    for _ in range(20):
        mean.update(torch.full((25,), 3.0))
    assert mean.value.item() == pytest.approx(3, abs=1e-4)
    mean.update(torch.full((500,), 5.0))
    assert mean.value.item() == pytest.approx(5, abs=1e-6)


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_published_form(tau: float) -> None:
    weights = AdaptBM25(tau=tau).weights(signals([1.0, NAN, 0.0, -2.0]))
    expected = [1 / (1 + math.exp(-1 / tau)), 0.5, 0.5, 1 / (1 + math.exp(2 / tau))]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert not AdaptBM25(tau=tau).joint


def test_normalised_over_the_scored_samples_of_the_batch() -> None:
    strategy = AdaptBM25(normalize="mean")
    assert strategy.joint
    weights = strategy.weights(signals([1.0, NAN, 0.0, -2.0]))
    assert weights[1] == 1
    plain = torch.sigmoid(torch.tensor([1.0, 0.0, -2.0]))
    torch.testing.assert_close(weights[[0, 2, 3]], plain / plain.mean())
    assert strategy.weights(signals([NAN])).tolist() == [1.0]


def test_the_plan_scores_and_the_weights_follow() -> None:
    strategy = AdaptBM25(["how many apples", "apples and pears"], ahead=10, wait=True)
    assert strategy.scoring is not None
    assert (strategy.scoring.ahead, strategy.scoring.wait) == (10, True)
    scorer = pickle.loads(pickle.dumps(strategy.scoring)).make()
    assert scorer.first_pass
    scorer.learn(lambda: [CORPUS[:4], CORPUS[4:]])
    scores = scorer.score(CORPUS)
    stream = WeightedStream(CORPUS, AdaptBM25(tau=0.5))
    stream.store.update(range(6), similarity=scores)
    for _, weight in stream.loader(batch_size=6):
        np.testing.assert_allclose(weight.tensor(), 1 / (1 + np.exp(-scores / 0.5)), rtol=1e-5)
        assert weight.tensor().topk(2).indices.sort().values.tolist() == [0, 2]


def test_factor_of_a_product() -> None:
    strategy = AdaptBM25(["apples"])
    assert (LinUpper() * strategy).scoring is strategy.scoring
    with pytest.raises(StrategyError, match="two ways"):
        strategy * Similarity(["apples"])


@pytest.mark.parametrize("options", [{"tau": 0}, {"tau": NAN}, {"normalize": "sum"}, {"ahead": 0}, {"wait": 3}])
def test_impossible_options(options: dict) -> None:
    (name,) = options
    with pytest.raises(StrategyError, match=name):
        AdaptBM25(["apples"], **options)


@pytest.mark.parametrize("options", [{"k1": 2.0}, {"b": 0.5}, {"text": "body"}, {"progress": True}])
def test_options_that_need_a_target(options: dict) -> None:
    (name,) = options
    with pytest.raises(StrategyError, match=f"found: +{name}="):
        AdaptBM25(**options)


def test_wrong_targets_are_told_at_once() -> None:
    with pytest.raises(ScoringError, match="no word"):
        AdaptBM25(["!"])
    with pytest.raises(ScoringError, match="constants"):
        AdaptBM25(["apples"], b=2)


def test_by_name(tmp_path) -> None:
    file = tmp_path / "target.jsonl"
    file.write_text('{"text": "some apples"}\n')
    assert make_strategy("adapt-bm25", target=str(file), tau=0.5).scoring is not None
    assert make_strategy("similarity", target=str(file), ess=0.5).scoring is not None
