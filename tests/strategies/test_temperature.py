"""The temperature found for an effective sample size, against the definition in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from weighted_stream.strategies.temperature import effective_share, temperature_for

GATES = ["softmax", "sigmoid"]
# A thousandth apart, so that no two are equal by rounding alone.
score_lists = st.lists(st.integers(-3000, 3000), min_size=2, max_size=60).map(lambda xs: [x / 1000 for x in xs])
shares = st.floats(0.02, 0.99)


def share_at(scores: torch.Tensor, tau: torch.Tensor | float, gate: str) -> float:
    precise, tau = scores.double(), float(tau)
    if gate == "softmax":
        return effective_share(torch.softmax((precise - precise.max()) / tau, 0)).item()
    return effective_share(torch.sigmoid((precise - precise.mean()) / tau)).item()


def test_by_hand() -> None:
    """Two scores 0 and 1: w = (1, e^(1/tau)), so the share is (1 + e)^2 / (2 (1 + e^2)), 0.9 where e^(1/tau) = 2."""
    assert temperature_for(torch.tensor([0.0, 1.0]), 0.9).item() == pytest.approx(1 / math.log(2), rel=1e-3)
    # sigmoid at -1/2 and 1/2: the ratio is e^(1/(2 tau)) again 2.
    assert temperature_for(torch.tensor([0.0, 1.0]), 0.9, "sigmoid").item() == pytest.approx(
        0.5 / math.log(2), rel=1e-3
    )


def test_effective_share() -> None:
    assert effective_share(torch.ones(5)).item() == pytest.approx(1)
    assert effective_share(torch.tensor([3.0, 0, 0, 0])).item() == pytest.approx(0.25)
    assert effective_share(torch.tensor([1.0, 2.0, 3.0])).item() == pytest.approx(36 / 42)


@given(values=score_lists, share=shares)
def test_the_share_is_met_where_it_can_be(values: list[float], share: float) -> None:
    scores = torch.tensor(values)
    least = values.count(max(values)) / len(values)
    got = share_at(scores, temperature_for(scores, share), "softmax")
    assert got == pytest.approx(max(share, least), abs=1e-3)


@given(values=score_lists, share=shares)
def test_the_sigmoid_meets_the_share_or_comes_as_near_as_a_fine_grid(values: list[float], share: float) -> None:
    scores = torch.tensor(values)
    width = max(values) - min(values)
    assume(width > 0)
    grid = [share_at(scores, width * 10 ** (power / 10), "sigmoid") for power in range(-60, 30)]
    assume(abs(min(grid) - share) > 0.01)
    got = share_at(scores, temperature_for(scores, share, "sigmoid"), "sigmoid")
    if min(grid) < share:
        assert got == pytest.approx(share, abs=2e-3)
    else:
        assert got < min(grid) + 0.15  # a step at the mean, from which the share may have dipped before


def test_the_sigmoid_takes_the_largest_temperature_of_several() -> None:
    """Eighty scores next to the mean weigh one half until the step comes near: the share falls to 0.83, then rises."""
    scores = torch.tensor([0.001] * 80 + [1.0] * 10 + [-1.0] * 10)
    assert share_at(scores, 0.05, "sigmoid") < 0.84
    assert share_at(scores, 1e-6, "sigmoid") == pytest.approx(0.9)
    tau = temperature_for(scores, 0.87, "sigmoid")
    assert share_at(scores, tau, "sigmoid") == pytest.approx(0.87, abs=1e-3)
    assert tau > 0.05


@pytest.mark.parametrize("gate", GATES)
@given(values=score_lists, share=shares, power=st.integers(-80, 80), shift=st.integers(-4, 4))
def test_neither_scale_nor_offset_matters(gate: str, values: list[float], share: float, power: int, shift: int) -> None:
    scores = torch.tensor(values) * 1024  # whole numbers and eighths: scaled and shifted without rounding
    scores = scores.round()
    assume(scores.max() > scores.min())
    tau = temperature_for(scores, share, gate).item()
    assert temperature_for(scores * 2.0**power, share, gate).item() == pytest.approx(tau * 2.0**power, rel=1e-4)
    assert temperature_for(scores + 4096.0 * shift, share, gate).item() == pytest.approx(tau, rel=2e-3)


@given(values=score_lists, low=shares, high=shares)
def test_a_larger_share_takes_a_larger_temperature(values: list[float], low: float, high: float) -> None:
    scores = torch.tensor(values)
    low, high = sorted([low, high])
    assert temperature_for(scores, low) <= temperature_for(scores, high) * (1 + 1e-5)


@pytest.mark.parametrize("gate", GATES)
def test_equal_scores_and_one_score_give_any_temperature(gate: str) -> None:
    for scores in (torch.full((9,), 0.3), torch.tensor([2.0]), torch.zeros(4)):
        tau = temperature_for(scores, 0.7, gate)
        assert torch.isfinite(tau)
        assert tau > 0
        assert share_at(scores, tau, gate) == pytest.approx(1)


def test_ties_at_the_top_are_the_least_share() -> None:
    scores = torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert share_at(scores, temperature_for(scores, 0.5), "softmax") == pytest.approx(0.75, abs=1e-6)
    assert share_at(scores, temperature_for(scores, 0.8), "softmax") == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize("outlier", [-1e30, -1e10, 1e10, 1e30])
def test_one_huge_outlier(outlier: float) -> None:
    """Downwards the others still share the window; upwards there is the outlier's temperature only."""
    scores = torch.tensor([1.0, 2.0, 3.0, 4.0, outlier])
    for share in (0.3, 0.5, 0.7):
        assert share_at(scores, temperature_for(scores, share), "softmax") == pytest.approx(share, abs=1e-3)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_huge_and_tiny_scores(gate: str, scale: float) -> None:
    scores = torch.randn(200, generator=torch.Generator().manual_seed(0)) * scale
    assert share_at(scores, temperature_for(scores, 0.7, gate), gate) == pytest.approx(0.7, abs=1e-3)


@pytest.mark.parametrize("gate", GATES)
def test_nothing_is_written_to_the_scores(gate: str) -> None:
    scores = torch.rand(16)
    before = scores.clone()
    temperature_for(scores, 0.5, gate)
    assert torch.equal(scores, before)


def test_works_in_and_after_inference_mode() -> None:
    with torch.inference_mode():
        inside = temperature_for(torch.tensor([1.0, 2.0, 4.0]), 0.61)
    after = temperature_for(torch.tensor([1.0, 2.0, 4.0]), 0.61)
    assert inside.item() == after.item()


@pytest.mark.parametrize("gate", GATES)
def test_nothing_is_waited_for(gate: str) -> None:
    """Tensors without values: whoever asks for one (which a device would have to be waited for) gets an error."""
    temperature_for(torch.rand(8), 0.7, gate)  # the grids are made, with values
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        scores = mode.from_tensor(torch.rand(64))
        assert temperature_for(scores, 0.7, gate).shape == ()
        with pytest.raises(RuntimeError):
            scores.sum().item()
