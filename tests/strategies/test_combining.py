"""Frozen, Shuffled, Clip, Product and strategies by name."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import weighted_stream.strategies.registry as registry
from weighted_stream import (
    Clip,
    Dro,
    Frozen,
    LinUpper,
    Product,
    Shuffled,
    Signals,
    SmallLoss,
    StrategyError,
    Uniform,
    WeightedStream,
    make_strategy,
    strategy_names,
)
from weighted_stream.strategies.clip import clip_mean


def signals(losses: torch.Tensor, step: int = 0, records: dict | None = None) -> Signals:
    return Signals(np.arange(len(losses)), step, losses, lambda ids: records or {})


LOSSES = torch.tensor([1.0, 2.0, 3.0, 5.0, 4.0, 1.5])


def test_uniform_is_ones() -> None:
    assert Uniform().weights(signals(LOSSES)).tolist() == [1.0] * 6


def test_shuffled_permutes_differently_each_step_and_repeatably() -> None:
    plain = LinUpper(r=0.4).weights(signals(LOSSES))
    by_step = [Shuffled(LinUpper(r=0.4), seed=3).weights(signals(LOSSES, step)) for step in range(20)]
    for weights in by_step:
        torch.testing.assert_close(weights.sort().values, plain.sort().values)
    assert len({tuple(weights.tolist()) for weights in by_step}) > 10
    again = Shuffled(LinUpper(r=0.4), seed=3).weights(signals(LOSSES, 7))
    assert again.tolist() == by_step[7].tolist()
    assert Shuffled(LinUpper(r=0.4), seed=4).weights(signals(LOSSES, 7)).tolist() != again.tolist()


def test_shuffled_breaks_the_tie_between_loss_and_weight() -> None:
    strategy, pairs = Shuffled(LinUpper(r=0.4)), []
    for step in range(300):
        losses = torch.rand(16, generator=torch.Generator().manual_seed(step))
        pairs.append(torch.stack([losses, strategy.weights(signals(losses, step))]))
    assert abs(torch.corrcoef(torch.cat(pairs, 1))[0, 1].item()) < 0.06


def test_shuffled_weights_told_before_the_losses_hold() -> None:
    stream = WeightedStream(torch.arange(16.0), Shuffled(Frozen()))
    stream.store.update(range(16), weight=torch.arange(16.0).numpy())
    (first, earlier), (second, weight) = stream.loader(batch_size=8)
    told = weight.tensor()
    earlier.resolve(first)  # a step later, now
    assert torch.equal(weight.tensor(), told)
    assert torch.equal(weight.resolve(second), told)


def test_frozen_gives_the_stored_weights_and_one_for_the_unknown() -> None:
    records = {"weight": np.array([0.5, np.nan, 2.0], np.float32)}
    assert Frozen().weights(signals(torch.rand(3), 0, records)).tolist() == [0.5, 1.0, 2.0]


@given(
    st.lists(st.floats(0, 50, width=32), min_size=1, max_size=30),
    st.floats(0, 0.9),
    st.floats(1.05, 5),
)
def test_clip_keeps_limits_mean_and_order(values: list[float], low: float, high: float) -> None:
    weights = torch.tensor(values)
    clipped = clip_mean(weights, low, high)
    assert (clipped >= low - 1e-5).all()
    assert (clipped <= high + 1e-5).all()
    order = weights.argsort()
    assert (clipped[order].diff() >= -1e-5).all()
    wanted = min(max(weights.double().mean().item(), low), high)
    live = weights > 1e-6
    if live.double().mean() * high + (~live).double().mean() * low >= wanted:  # else the zeros make it impossible
        assert clipped.double().mean().item() == pytest.approx(wanted, abs=1e-3)


def bisected(weights: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """What `clip_mean` says it is: the scale found by halving."""
    precise = weights.double()
    wanted = precise.mean().clamp(low, high)
    least, most = -70.0, 70.0
    for _ in range(200):
        power = (least + most) / 2
        if (precise * 10**power).clamp(low, high).mean() < wanted:
            least = power
        else:
            most = power
    return (precise * 10**most).clamp(low, high).float()


@given(
    st.lists(st.floats(-60, 60), min_size=1, max_size=30),
    st.sampled_from([(0.1, 2.0), (0.9, 1.0), (0.5, 1e9), (1.0, 1e9), (0.0, 2.0), (0.0, 1.0), (0.0, 16.0)]),
)
def test_clip_of_weights_far_apart(powers: list[float], limits: tuple[float, float]) -> None:
    weights = (torch.softmax(torch.tensor(powers, dtype=torch.float64), 0) * len(powers)).float()
    torch.testing.assert_close(clip_mean(weights, *limits), bisected(weights, *limits), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("r", [1.0, 0.7, 0.5])
def test_clip_of_one_outlier_averages_one(r: float) -> None:
    losses = torch.tensor([50.0] + [10 - 0.5 * i for i in range(15)])
    weights = Clip(Dro(r=r), high=2.0).weights(signals(losses))
    assert weights.mean().item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(weights, bisected(Dro(r=r).weights(signals(losses)), 0.0, 2.0), rtol=1e-4, atol=1e-5)


def test_clip_leaves_alone_what_is_within() -> None:
    weights = torch.tensor([0.5, 1.0, 1.5])
    torch.testing.assert_close(clip_mean(weights, 0.1, 2.0), weights)


def test_clip_of_a_joint_strategy_averages_one() -> None:
    weights = Clip(LinUpper(r=0.1), low=0.2, high=1.5).weights(signals(LOSSES))
    assert weights.mean().item() == pytest.approx(1)
    assert weights.max() <= 1.5
    assert weights.min() >= 0.2


@pytest.mark.parametrize("limits", [(-1, 2), (1.5, 2), (0, 0.5), (1, 1), (math.nan, 2)])
def test_clip_refuses_impossible_limits(limits: tuple[float, float]) -> None:
    with pytest.raises(StrategyError):
        Clip(LinUpper(), *limits)


def test_product_is_the_scaled_product() -> None:
    a, b = LinUpper(r=0.4), SmallLoss(r=2.0)
    product = (a * b).weights(signals(LOSSES))
    raw = a.weights(signals(LOSSES)) * b.weights(signals(LOSSES))
    torch.testing.assert_close(product, raw / raw.mean())


def test_product_of_one_by_one_strategies_is_not_rescaled() -> None:
    records = {"weight": np.array([0.5, 2.0], np.float32)}
    product = Frozen() * Frozen()
    assert not product.joint
    assert product.weights(signals(torch.rand(2), 0, records)).tolist() == [0.25, 4.0]


def test_product_flattens_and_refuses_others() -> None:
    assert isinstance(LinUpper() * Frozen() * Uniform(), Product)
    assert len((LinUpper() * Frozen() * Uniform()).factors) == 3
    with pytest.raises(TypeError):
        LinUpper() * 2
    for factors in ((), (LinUpper(), 3)):
        with pytest.raises(StrategyError):
            Product(*factors)


@pytest.mark.parametrize("wrap", [lambda s: Shuffled(s), lambda s: Clip(s), lambda s: Product(s, Uniform())])
def test_wrappers_let_the_inner_strategy_learn(wrap) -> None:
    inner = LinUpper(window="running")
    wrap(inner).observe(signals(torch.rand(40)))
    assert inner._latest.seen == 40


def test_every_name_makes_its_strategy() -> None:
    assert strategy_names()[:2] == ["uniform", "linupper"]
    for name in strategy_names():
        assert type(make_strategy(name)).__name__.lower() == name
    assert make_strategy("Lin-Upper", r=0.4).r == 0.4


def test_unknown_names_and_options_are_listed() -> None:
    with pytest.raises(StrategyError, match="linupper"):
        make_strategy("linlower")
    with pytest.raises(StrategyError, match="temperature") as error:
        make_strategy("linupper", temperature=1)
    assert "warmup_steps" in str(error.value)
    with pytest.raises(StrategyError, match="none at all"):
        make_strategy("uniform", r=1)


def install(tmp_path, monkeypatch, target: str) -> None:
    """A real distribution on the path, with an entry point."""
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{registry.ENTRY_POINT_GROUP}]\nacme-halved = {target}\n")
    (tmp_path / "acme_plugin.py").write_text(
        "import torch\nfrom weighted_stream import Strategy\n"
        "class Halved(Strategy):\n    def __init__(self, by=2.0):\n        self.by = by\n"
        "    def weights(self, signals):\n        return torch.full((len(signals),), 1 / self.by)\n"
        "nothing = dict\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_a_strategy_of_another_package(tmp_path, monkeypatch) -> None:
    install(tmp_path, monkeypatch, "acme_plugin:Halved")
    assert "acme-halved" in strategy_names()
    strategy = make_strategy("ACME_halved", by=4.0)
    ((batch, weight),) = WeightedStream([1.0, 2.0], strategy).loader(batch_size=2)
    assert weight.resolve(batch).tolist() == [0.25, 0.25]
    with pytest.raises(StrategyError, match="speed"):
        make_strategy("acme-halved", speed=1)


def test_an_entry_point_that_gives_no_strategy(tmp_path, monkeypatch) -> None:
    install(tmp_path, monkeypatch, "acme_plugin:nothing")
    with pytest.raises(StrategyError, match="gave no strategy"):
        make_strategy("acme-halved")
