"""LinUpper, Quadratic, Extremes, Dro, SmallLoss against the published formula and its test vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weighted_stream import (
    Dro,
    Extremes,
    LinUpper,
    Quadratic,
    Signals,
    SmallLoss,
    Strategy,
    StrategyError,
    WeightedStream,
)
from weighted_stream.strategies.dro import dro
from weighted_stream.strategies.extremes import extremes
from weighted_stream.strategies.lin_upper import lin_upper
from weighted_stream.strategies.loss_based import RangeStrategy
from weighted_stream.strategies.quadratic import quadratic
from weighted_stream.strategies.small_loss import small_loss
from weighted_stream.strategies.temperature import effective_share

RANGED = {"lin_upper": (lin_upper, LinUpper), "quadratic": (quadratic, Quadratic), "extremes": (extremes, Extremes)}
losses_lists = st.lists(st.floats(0, 100, width=32), min_size=1, max_size=40)


def signals(losses: torch.Tensor, step: int = 0, scratch: dict | None = None) -> Signals:
    return Signals(np.arange(len(losses)), step, losses, dict, {} if scratch is None else scratch)


def by_hand(name: str, losses: list[float], r: float, delta: float) -> list[float]:
    """methods.md section 1, written as it stands there, in float64."""
    low, high = min(losses), max(losses)
    scores = []
    for loss in losses:
        h = delta * (2 * loss - (high + low)) / max(high - low, 1e-6)
        scores.append({"lin_upper": min(h + delta, delta), "quadratic": 1 - h * h / delta**2, "extremes": abs(h)}[name])
    top = max(scores)
    powers = [math.exp((score - top) / r) for score in scores]
    return [len(losses) * power / sum(powers) for power in powers]


@pytest.mark.parametrize(
    ("name", "r", "expected"),
    [
        ("lin_upper", 1.0, [0.4947, 0.8157, 1.3448, 1.3448]),
        ("lin_upper", 0.4, [0.1386, 0.4838, 1.6888, 1.6888]),
        ("quadratic", 1.0, [0.5852, 1.2389, 1.5907, 0.5852]),
        ("quadratic", 0.4, [0.1932, 1.2599, 2.3537, 0.1932]),
        ("extremes", 1.0, [1.3448, 0.8157, 0.4947, 1.3448]),
        ("extremes", 0.4, [1.6888, 0.4838, 0.1386, 1.6888]),
    ],
)
def test_published_vectors(name: str, r: float, expected: list[float]) -> None:
    function, kind = RANGED[name]
    losses = torch.tensor([1.0, 2.0, 3.0, 5.0])
    torch.testing.assert_close(function(losses, r), torch.tensor(expected), atol=5e-5, rtol=0)
    torch.testing.assert_close(kind(r=r).weights(signals(losses)), function(losses, r), atol=0, rtol=0)


@pytest.mark.parametrize("name", RANGED)
@given(losses=losses_lists, r=st.floats(0.2, 5), delta=st.floats(0.1, 3))
def test_equals_the_formula(name: str, losses: list[float], r: float, delta: float) -> None:
    weights = RANGED[name][0](torch.tensor(losses), r, delta)
    np.testing.assert_allclose(weights, by_hand(name, losses, r, delta), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", RANGED)
@given(low=st.floats(2**-10, 2**20, width=32), steps=st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_losses_a_few_float32_steps_apart(name: str, low: float, steps: list[int]) -> None:
    losses = np.full(len(steps), low, np.float32)
    for step in range(3):
        losses = np.where(step < np.array(steps), np.nextafter(losses, np.float32(np.inf)), losses)
    weights = RANGED[name][0](torch.from_numpy(losses), 0.4, 1.5)
    np.testing.assert_allclose(weights, by_hand(name, losses.tolist(), 0.4, 1.5), rtol=2e-5)
    assert (weights.max() / weights.min()).item() <= math.exp(1.5 / 0.4) * (1 + 1e-5)


@pytest.mark.parametrize("kind", [LinUpper, Quadratic, Extremes, Dro, SmallLoss])
@given(losses=losses_lists, order=st.randoms(use_true_random=False))
def test_mean_one_positive_and_equivariant(kind: type[Strategy], losses: list[float], order) -> None:
    values = torch.tensor(losses)
    weights = kind(r=20.0).weights(signals(values))
    assert weights.dtype == torch.float32
    assert (weights >= 0).all()
    assert weights.mean().item() == pytest.approx(1, abs=1e-4)
    shuffled = list(range(len(losses)))
    order.shuffle(shuffled)
    torch.testing.assert_close(kind(r=20.0).weights(signals(values[shuffled])), weights[shuffled], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [LinUpper, Quadratic, Extremes, Dro, SmallLoss])
def test_equal_losses_and_one_sample_are_uniform(kind: type[Strategy]) -> None:
    torch.testing.assert_close(kind().weights(signals(torch.full((7,), 2.5))), torch.ones(7))
    torch.testing.assert_close(kind().weights(signals(torch.tensor([3.0]))), torch.ones(1))


def test_directions() -> None:
    rising = torch.tensor([0.5, 1.0, 2.0, 4.0])
    assert (dro(rising, 1.0).diff() > 0).all()
    assert (small_loss(rising, 1.0).diff() < 0).all()
    torch.testing.assert_close(dro(rising, 0.7), torch.softmax(rising / 0.7, 0) * 4)
    torch.testing.assert_close(small_loss(rising, 0.7), torch.softmax(-rising / 0.7, 0) * 4)


def test_the_ratio_of_weights_is_bounded() -> None:
    weights = lin_upper(torch.randn(500).exp(), r=0.4, delta=0.7)
    assert (weights.max() / weights.min()).item() <= math.exp(0.7 / 0.4) * (1 + 1e-5)


def test_warm_up_is_near_uniform_then_ends() -> None:
    losses = torch.tensor([1.0, 2.0, 3.0, 5.0])
    strategy = LinUpper(r=0.4, warmup_steps=3)
    assert [(strategy.weights(signals(losses, step)) - 1).abs().max().item() < 0.02 for step in range(5)] == [
        True,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("kind", [LinUpper, Quadratic, Extremes, Dro, SmallLoss])
@pytest.mark.parametrize("window", ["batch", "running"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 3e3, 1e30])
def test_warm_up_is_near_uniform_whatever_the_unit(kind: type[Strategy], window: str, scale: float) -> None:
    wide = {"delta": 300.0} if issubclass(kind, RangeStrategy) else {}
    strategy = kind(ess=0.6, warmup_steps=2, window=window, **wide)
    losses = torch.rand(64, generator=torch.Generator().manual_seed(7)) * scale
    strategy.observe(signals(losses))
    assert (strategy.weights(signals(losses, 1)) - 1).abs().max() < 0.02
    assert (strategy.weights(signals(losses, 2)) - 1).abs().max() > 0.2


@pytest.mark.parametrize("name", RANGED)
def test_published_warm_up_is_r_100(name: str) -> None:
    losses = torch.rand(64, generator=torch.Generator().manual_seed(8)) * 3e3
    function, kind = RANGED[name]
    assert torch.equal(kind(r=0.4, warmup_steps=1).weights(signals(losses)), function(losses, 100.0))


@pytest.mark.parametrize("kind", [Dro, LinUpper])
@pytest.mark.parametrize("window", ["batch", "running"])
def test_warm_up_waits_for_no_device(kind: type[Strategy], window: str) -> None:
    """Tensors without values: whoever asks for one gets an error."""
    strategy, losses = kind(warmup_steps=1, window=window), torch.rand(64, device="meta")
    strategy.observe(signals(losses))
    assert strategy.weights(signals(losses)).shape == (64,)


def test_quantile_frees_the_range_from_one_outlier() -> None:
    losses = torch.cat([torch.linspace(1, 2, 99), torch.tensor([1e4])])
    plain, clipped = LinUpper(r=0.4), LinUpper(r=0.4, quantile=0.05)
    assert plain.weights(signals(losses))[:99].std() < 1e-3
    assert clipped.weights(signals(losses))[:99].std() > 0.3
    low, high = np.quantile(losses.numpy(), [0.05, 0.95])
    expected = by_hand("lin_upper", losses.clamp(float(low), float(high)).tolist(), 0.4, 1.0)
    np.testing.assert_allclose(clipped.weights(signals(losses)), expected, rtol=1e-4)


def feed(strategy: Strategy, losses: torch.Tensor, step: int, scratch: dict) -> torch.Tensor:
    given_signals = signals(losses, step, scratch)
    weights = strategy.weights(given_signals)
    strategy.observe(given_signals)
    return weights


@pytest.mark.parametrize("kind", [LinUpper, Quadratic, Extremes, Dro, SmallLoss])
def test_running_window_equals_the_formula_over_the_latest_losses(kind: type[Strategy]) -> None:
    torch.manual_seed(0)
    strategy = kind(r=0.7, window="running", memory=64)
    past: list[float] = []
    for step in range(40):
        losses = torch.rand(5) * 3
        weights = feed(strategy, losses, step, {})
        window = past[-64:]
        if len(past) < 32:
            assert (weights == 1).all()
        else:
            low, high = min(window), max(window)
            clipped = [min(max(loss, low), high) for loss in losses.tolist()]
            score = strategy.scores  # type: ignore[attr-defined]
            reference = score(torch.tensor(window, dtype=torch.float64), low, high)
            scores = score(torch.tensor(clipped, dtype=torch.float64), low, high)
            expected = torch.exp(scores / 0.7) / torch.exp(reference / 0.7).mean()
            torch.testing.assert_close(weights.double(), expected, rtol=1e-4, atol=1e-5)
        past += losses.tolist()


@pytest.mark.parametrize("cut", [1, 2, 3, 8])
def test_running_window_weighs_parts_like_the_whole(cut: int) -> None:
    torch.manual_seed(1)
    whole, parts = LinUpper(r=0.4, window="running", memory=50), LinUpper(r=0.4, window="running", memory=50)
    for step in range(30):
        losses, scratch = torch.rand(8), {}
        expected = feed(whole, losses, step, {})
        got = torch.cat([feed(parts, part, step, scratch) for part in losses.split(cut)])
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("size", [1, 2])
def test_running_window_follows_the_losses_at_tiny_batches(size: int) -> None:
    """Where the batch window knows nothing (batch 1) or two values only (batch 2)."""
    torch.manual_seed(2)
    strategy = LinUpper(r=0.4, window="running")
    seen: list[tuple[float, float]] = []
    for step in range(300):
        losses = torch.rand(size)
        weights = feed(strategy, losses, step, {})
        if step * size >= 64:
            seen += zip(losses.tolist(), weights.tolist(), strict=True)
    low = [weight for loss, weight in seen if loss < 0.15]
    high = [weight for loss, weight in seen if loss > 0.6]
    assert max(low) < 0.4
    assert min(high) > 1.2
    assert np.mean([weight for _, weight in seen]) == pytest.approx(1, abs=0.1)


def test_running_window_leaves_out_what_is_not_finite() -> None:
    strategy = LinUpper(window="running")
    stream = WeightedStream(list(range(80)), strategy)
    for _, weight in stream.loader(batch_size=8):
        weight.resolve(torch.tensor([math.nan, math.inf, 1.0, 2.0] * 2))
    assert strategy._latest.seen == 40
    assert torch.isfinite(strategy._latest.values()).all()


@pytest.mark.parametrize("kind", [LinUpper, Quadratic, Extremes])
@pytest.mark.parametrize(
    "options",
    [
        {"r": 0},
        {"r": -1.0},
        {"r": math.nan},
        {"r": math.inf},
        {"r": "much"},
        {"delta": 0},
        {"warmup_steps": -1},
        {"warmup_steps": 1.5},
        {"window": "epoch"},
        {"quantile": 0.5},
        {"quantile": 0},
        {"memory": 3},
        {"ess": 0},
        {"ess": 1.0},
        {"ess": math.nan},
    ],
)
def test_impossible_options(kind: type[Strategy], options: dict) -> None:
    (name,) = options
    with pytest.raises(StrategyError, match=name) as error:
        kind(**options)
    assert "found:" in str(error.value)
    assert "expected:" in str(error.value)


@pytest.mark.parametrize("kind", [Dro, SmallLoss])
def test_unknown_options_are_refused(kind: type[Strategy]) -> None:
    with pytest.raises(TypeError):
        kind(delta=1.0)
    with pytest.raises(StrategyError):
        kind(r=0)


ALL = [LinUpper, Quadratic, Extremes, Dro, SmallLoss]


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("ess", [0.6, 0.7, 0.95])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_ess_gives_the_share_of_the_batch_whatever_the_scale(kind: type[Strategy], ess: float, scale: float) -> None:
    losses = torch.rand(64, generator=torch.Generator().manual_seed(5)) * scale
    weights = kind(ess=ess).weights(signals(losses))
    assert effective_share(weights).item() == pytest.approx(ess, abs=1e-3)
    assert weights.mean().item() == pytest.approx(1, abs=1e-4)
    scores = kind(ess=ess).scores(losses, losses.min().item(), losses.max().item())  # type: ignore[attr-defined]
    assert (weights[scores.argsort()].diff() >= -1e-6).all()


def test_ess_of_losses_far_from_zero() -> None:
    """Their spread is a millionth of their size: the temperature is, too."""
    losses = torch.randint(0, 64, (64,), generator=torch.Generator().manual_seed(6)) / 1024
    weights = Dro(ess=0.6).weights(signals(losses + 4096))
    torch.testing.assert_close(weights, Dro(ess=0.6).weights(signals(losses)), rtol=1e-4, atol=1e-5)


def test_ess_of_lin_upper_ends_at_the_share_of_the_upper_half() -> None:
    """Three of four losses above the middle of the range weigh the same: their share is the least there is."""
    weights = LinUpper(ess=0.5).weights(signals(torch.tensor([0.0, 3.0, 4.0, 5.0])))
    torch.testing.assert_close(weights, torch.tensor([0, 4 / 3, 4 / 3, 4 / 3]))


@pytest.mark.parametrize("kind", ALL)
def test_ess_of_equal_losses_and_of_one_sample_is_uniform(kind: type[Strategy]) -> None:
    torch.testing.assert_close(kind(ess=0.3).weights(signals(torch.full((7,), 2.5))), torch.ones(7))
    torch.testing.assert_close(kind(ess=0.3).weights(signals(torch.tensor([3.0]))), torch.ones(1))


@pytest.mark.parametrize("kind", ALL)
def test_ess_over_the_running_window(kind: type[Strategy]) -> None:
    torch.manual_seed(3)
    strategy, seen = kind(ess=0.7, window="running", memory=256), []
    for step in range(400):
        weights = feed(strategy, torch.rand(4), step, {})
        if step >= 64:
            seen.append(weights)
    weights = torch.cat(seen)
    assert effective_share(weights).item() == pytest.approx(0.7, abs=0.03)
    assert weights.mean().item() == pytest.approx(1, abs=0.05)


def test_ess_over_the_running_window_weighs_parts_like_the_whole() -> None:
    torch.manual_seed(4)
    whole, parts = LinUpper(ess=0.7, window="running", memory=50), LinUpper(ess=0.7, window="running", memory=50)
    for step in range(20):
        losses, scratch = torch.rand(8), {}
        got = torch.cat([feed(parts, part, step, scratch) for part in losses.split(3)])
        torch.testing.assert_close(got, feed(whole, losses, step, {}), rtol=0, atol=0)


def test_warm_up_comes_before_ess() -> None:
    strategy = LinUpper(ess=0.6, warmup_steps=2)
    losses = torch.rand(64)
    assert [effective_share(strategy.weights(signals(losses, step))).item() > 0.99 for step in range(4)] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("kind", ALL)
def test_r_and_ess_exclude_each_other(kind: type[Strategy]) -> None:
    assert (kind().r, kind().ess) == (1.0, None)
    assert (kind(ess=0.7).r, kind(ess=0.7).ess) == (None, 0.7)
    assert "r=None, ess=0.7" in repr(kind(ess=0.7))
    with pytest.raises(StrategyError, match=r"r=1\.0 and ess=0\.7"):
        kind(r=1.0, ess=0.7)
