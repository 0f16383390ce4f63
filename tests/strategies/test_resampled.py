"""Resampled: who is drawn, how often, what is remembered, and what it refuses."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from resuming import check_resuming

from weighted_stream import (
    Adapt,
    AdaptBM25,
    Clip,
    DoReMi,
    Frozen,
    InfoBatch,
    Kakurenbo,
    LinUpper,
    OnlineDataMixing,
    Resampled,
    Shuffled,
    Similarity,
    Strategy,
    StrategyError,
    TargetSet,
    Uniform,
    WeightedStream,
    WeightStore,
)
from weighted_stream.strategies.chance import chance
from weighted_stream.strategies.resampled import resample

WEIGHTS = np.array([0.5, 4.0, 0.0, 1.0, 2.5], np.float32)


def drawn_often(weights: np.ndarray, count: int, times: int = 20_000) -> np.ndarray:
    """How often each place was drawn, a share of the draws."""
    ids = np.arange(len(weights))
    found: Counter[int] = Counter()
    for step in range(times):
        found.update(resample(weights, chance(ids, 0, step), count).tolist())
    return np.array([found[place] for place in range(len(weights))]) / times


def test_one_is_drawn_in_proportion() -> None:
    shares = drawn_often(WEIGHTS, 1)
    assert shares == pytest.approx(WEIGHTS / WEIGHTS.sum(), abs=0.015)  # four standard deviations
    assert shares[2] == 0


def test_two_are_drawn_one_after_the_other() -> None:
    p = (WEIGHTS / WEIGHTS.sum()).astype(float)
    # i first, or i after j: p_i + sum over j of p_j * p_i / (1 - p_j)
    wanted = [p[i] + sum(p[j] * p[i] / (1 - p[j]) for j in range(5) if j != i) for i in range(5)]
    assert drawn_often(WEIGHTS, 2) == pytest.approx(wanted, abs=0.015)


@given(
    arrays(np.float32, st.integers(1, 40), elements=st.one_of(st.just(0.0), st.floats(2**-20, 2**20, width=32))),
    st.integers(1, 50),
    st.integers(0, 1000),
)
def test_places_are_distinct_ascending_and_above_zero(weights: np.ndarray, count: int, step: int) -> None:
    places = resample(weights, chance(np.arange(len(weights)), 0, step), count)
    assert places.dtype == np.int64
    assert (np.diff(places) > 0).all()
    assert (weights[places] > 0).all()
    assert len(places) == min(count, (weights > 0).sum())
    assert np.array_equal(places, resample(weights * np.float32(2.0), chance(np.arange(len(weights)), 0, step), count))


def scored(strategy: Strategy, size: int = 64, store: WeightStore | None = None) -> WeightedStream:
    """A stream of its ids; the similarity of the odd ones is 1, that of the even ones 0."""
    stream = WeightedStream(torch.arange(size), strategy, **({} if store is None else {"store": store}))
    stream.store.update(range(size), similarity=[float(number % 2) for number in range(size)])
    return stream


def test_the_drawn_weigh_one_and_the_others_are_remembered_with_zero() -> None:
    stream = scored(Resampled(Similarity(tau=0.01), budget=0.5))
    got = []
    for batch, weight in stream.loader(batch_size=8):
        assert batch.tolist() == weight.ids.tolist()
        assert (torch.rand(8) * weight).shape == (8,)
        assert weight.tensor().tolist() == [1.0] * 8
        got += batch.tolist()
    assert got == list(range(1, 64, 2))
    records = stream.store.get(range(64))
    assert records["weight"].tolist() == [0.0, 1.0] * 32
    assert records["visits"].tolist() == [0, 1] * 32


def test_what_is_drawn_depends_on_seed_and_step_alone() -> None:
    def run(seed: int, workers: int = 0) -> list[list[int]]:
        loader = scored(Resampled(Similarity(ess=0.7), budget=0.25, seed=seed)).loader(
            batch_size=4, num_workers=workers
        )
        return [batch.tolist() for _ in range(2) for batch, _ in loader]

    once = run(0)
    assert once == run(0) == run(0, workers=2)
    assert once != run(1)
    assert once[:4] != once[4:]  # another epoch, other draws


def test_more_of_the_likely_but_not_only_them() -> None:
    stream = scored(Resampled(Similarity(ess=0.6), budget=0.25), size=4096)
    odd = np.concatenate([(batch % 2).numpy() for batch, _ in stream.loader(batch_size=64)])
    weights = Similarity(ess=0.6).weights(stream_signals(stream))
    share = float(weights[1] / (weights[0] + weights[1]))
    assert 0.6 < odd.mean() < share  # none twice, so somewhat less than in proportion


def stream_signals(stream: WeightedStream) -> Any:
    from weighted_stream import Signals

    return Signals(np.arange(256), 0, None, stream.store.get)


def test_a_batch_of_which_little_can_be_drawn() -> None:
    stream = WeightedStream(torch.arange(16), Resampled(Frozen(), budget=0.5))
    stream.store.update(range(16), weight=[0, 0, 3, 0, 1, 0, 0, 2, *[0.0] * 8])
    batches = [(batch.tolist(), weight.tensor().tolist()) for batch, weight in stream.loader(batch_size=4)]
    assert batches == [([2, 4, 7], [1.0, 1.0, 1.0]), ([8], [0.0])]
    assert stream.store.get(range(8))["weight"].tolist() == [0, 0, 3, 0, 1, 0, 0, 2]  # Frozen's do not move


def test_all_are_drawn_with_a_budget_of_one() -> None:
    stream = scored(Resampled(Similarity(), budget=1))
    assert torch.cat([batch for batch, _ in stream.loader(batch_size=8)]).tolist() == list(range(64))


def test_a_target_is_scored_for_it() -> None:
    texts = ["two plus two is four", "the king rode home"] * 16
    strategy = Resampled(Similarity(TargetSet(["three plus one is four"]), tau=0.01, wait=True), budget=0.5)
    with WeightedStream([{"text": text} for text in texts], strategy) as stream:
        assert [batch["text"] for batch, _ in stream.loader(batch_size=8)] == [[texts[0]] * 8] * 2


def test_domains_come_by_their_proportions() -> None:
    data = [{"domain": "code" if number % 4 == 0 else "text", "loss": 1.0} for number in range(2048)]
    strategy = Resampled(OnlineDataMixing(shares={"code": 0.25, "text": 0.75}), budget=0.125)
    stream = WeightedStream(data, strategy, group_fn="domain")
    found: Counter[str] = Counter()
    for batch, weight in stream.loader(batch_size=32):
        found.update(batch["domain"])
        weight.resolve(batch["loss"].float())
    assert found["code"] / sum(found.values()) == pytest.approx(0.5, abs=0.1)


def test_domains_whose_reference_looks_at_the_samples() -> None:
    data = [{"domain": "code" if number % 2 else "text", "loss": 1.0 + number % 2} for number in range(256)]
    strategy = DoReMi(lambda batch: torch.full((len(batch["loss"]),), 0.5), shares={"code": 0.5, "text": 0.5})
    stream = WeightedStream(data, Resampled(strategy, budget=0.5), group_fn="domain")
    for batch, weight in stream.loader(batch_size=16):
        weight.resolve(batch["loss"].float())
    assert strategy.domain_weights["code"] > 0.6


def test_it_goes_on_where_it_was() -> None:
    def make() -> WeightedStream:
        data = [{"marker": number} for number in range(44)]
        stream = WeightedStream(data, Resampled(Similarity(ess=0.5), budget=0.5))
        stream.store.update(range(44), similarity=np.linspace(-1, 1, 44))
        return stream

    assert check_resuming(make, epochs=3, batch_size=8, shuffle=True) == 9


@pytest.mark.parametrize("budget", [0, 1.5, True, None, "half"])
def test_a_budget_that_is_no_share(budget: Any) -> None:
    with pytest.raises(StrategyError, match="Resampled cannot work with this budget"):
        Resampled(Similarity(), budget=budget)


@pytest.mark.parametrize("strategy", [InfoBatch(prune=True), Resampled(Similarity())])
def test_another_choice_within(strategy: Strategy) -> None:
    with pytest.raises(StrategyError, match="Resampled cannot change what a selecting strategy decides"):
        Resampled(strategy)


@pytest.mark.parametrize("around", [Clip, Shuffled, lambda s: s * Uniform()])
def test_its_choice_is_nobodys_to_change(around: Any) -> None:
    with pytest.raises(StrategyError, match="cannot change what a selecting strategy decides"):
        around(Resampled(Similarity()))


@pytest.mark.parametrize("wrap", [lambda s: s, Shuffled, lambda s: Clip(Frozen() * s)])
def test_windows_of_the_drawn_alone(wrap: Any) -> None:
    with pytest.raises(StrategyError, match="the candidates, which are their own window"):
        Resampled(wrap(Similarity(window="running")))


@pytest.mark.parametrize("inner", [InfoBatch, Kakurenbo])
def test_who_goes_by_the_losses_of_all(inner: Any) -> None:
    with pytest.raises(StrategyError, match=f"{inner.__name__} goes by the losses of all samples"):
        Resampled(Clip(inner()))


def test_samples_that_come_again_are_drawn_for_each_time() -> None:
    data, found = torch.arange(8), Counter[int]()
    for seed in range(400):
        stream = WeightedStream(data, Resampled(Frozen(), budget=0.25, seed=seed))
        sampler = [0, 0, 0, 1, 2, 3, 4, 5]
        for batch, _ in stream.loader(batch_size=2, sampler=sampler):
            found.update(batch.tolist())
    # the first is one of the three with 3/8, the second, not knowing of the first, likewise: 0.75 of 2 on average
    assert found[0] / 400 == pytest.approx(0.75, abs=0.12)
    assert found[1] / 400 == pytest.approx(0.25, abs=0.1)


@pytest.mark.parametrize(
    "weights", [torch.ones(8, 1), torch.ones(7), torch.full((8,), float("nan")), torch.arange(-1.0, 7.0), 1.0]
)
def test_what_is_no_weight(weights: Any) -> None:
    class Wrong(Strategy):
        def weights(self, signals: Any) -> Any:
            return weights

    with pytest.raises(StrategyError, match="returned no weight per sample"):
        next(iter(WeightedStream(torch.arange(8), Resampled(Wrong(), budget=0.5)).loader(batch_size=4)))


def test_it_does_not_say_that_nothing_varies() -> None:
    stream = WeightedStream(torch.arange(8), Resampled(Frozen(), budget=0.5))
    stream.store.update(range(8), weight=np.linspace(0.5, 1.5, 8))
    for _ in range(203):
        for _, weight in stream.loader(batch_size=4):
            torch.ones(len(weight)) * weight  # warnings are errors: silent


@pytest.mark.parametrize("strategy", [OnlineDataMixing(), DoReMi(lambda batch: torch.zeros(len(batch)))])
def test_shares_of_the_drawn_alone(strategy: Strategy) -> None:
    with pytest.raises(StrategyError, match="would learn their shares from that"):
        Resampled(strategy)


def test_hidden_states_of_a_pass_that_has_not_been() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(9, 8), torch.nn.Linear(8, 9))
    adapt = Adapt(model, [torch.zeros(2, 4, dtype=torch.long)], head="1")
    for strategy in (adapt, Clip(adapt, high=2.0), adapt * Frozen()):
        with pytest.raises(StrategyError, match="Resampled draws before it"):
            Resampled(strategy)


@pytest.mark.parametrize("strategy", [LinUpper(), Similarity() * LinUpper(), Shuffled(LinUpper())])
def test_losses_that_nobody_has_yet(strategy: Strategy) -> None:
    loader = scored(Resampled(strategy)).loader(batch_size=8)
    with pytest.raises(StrategyError, match="draws before the model sees a sample"):
        next(iter(loader))


def test_it_says_what_it_is() -> None:
    shown = repr(Resampled(AdaptBM25(), budget=0.1, seed=3))
    assert shown.startswith("Resampled(budget=0.1, strategy=AdaptBM25(")
    assert shown.endswith("seed=3)")
