"""RhoLoss: the formula, where losses come from, and that the model stays as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from weighted_stream import LossError, RhoLoss, StrategyError, WeightedStream, WeightStore
from weighted_stream.selection import Candidates
from weighted_stream.strategies.rho_loss import rho_loss

FLOATS = st.floats(-10, 10, width=32) | st.sampled_from([float("nan"), float("inf"), float("-inf")])


def squares(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    losses: Tensor = (model(batch["x"]) - batch["y"]).square().mean(1)
    return losses


def data(n: int = 40) -> list[dict[str, Tensor]]:
    torch.manual_seed(0)
    return [{"x": torch.randn(3), "y": torch.randn(3)} for _ in range(n)]


def models() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    return model, nn.Linear(3, 3)


def candidates(samples: list[dict[str, Tensor]], count: int) -> Candidates:
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    return Candidates(np.arange(len(samples)) + 7, batch, count, 0, WeightStore().get)


def expected_places(model: nn.Module, reference: nn.Module, drawn: Candidates) -> list[int]:
    training = model.training
    with torch.no_grad():
        excess = squares(model.eval(), drawn.batch) - squares(reference, drawn.batch)
    model.train(training)
    return sorted(sorted(range(len(excess)), key=lambda at: -excess[at].item())[: drawn.count])


@settings(max_examples=200, deadline=None)
@given(pairs=st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=12), data=st.data())
def test_the_largest_differences_are_chosen(pairs: list[tuple[float, float]], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(pairs)))
    losses, reference = torch.tensor(pairs).T
    places = rho_loss(losses, reference, count).tolist()
    assert places == sorted(set(places))
    assert len(places) == count
    excess = (losses - reference).nan_to_num(-torch.inf, -torch.inf, -torch.inf)
    left = [at for at in range(len(pairs)) if at not in places]
    assert not left or min(excess[places]) >= max(excess[left])


def test_of_equal_differences_the_first_are_taken() -> None:
    assert rho_loss(torch.ones(6), torch.ones(6), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("at_once", [None, 1, 7, 1000])
@pytest.mark.parametrize("kind", ["model", "callable", "store"])
def test_the_choice_is_that_of_an_explicit_computation(kind: str, at_once: int | None) -> None:
    model, small = models()
    drawn = candidates(data(), 4)
    with torch.no_grad():
        known = squares(small, drawn.batch)
    store = WeightStore()
    store.update(drawn.ids, loss=known)
    reference: Any = {"model": small, "callable": lambda batch: squares(small, batch), "store": store}[kind]
    choice = RhoLoss(model, reference, squares, at_once=at_once).choose(drawn)
    assert choice.places.tolist() == expected_places(model, small, drawn)
    assert choice.weights.tolist() == [1.0] * 4


def test_the_model_in_training_stays_as_it_was() -> None:
    model, small = models()
    model[2].eval()  # type: ignore[index]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = candidates(data(), 4)
    random = torch.get_rng_state()
    RhoLoss(model, small, squares).choose(drawn)
    assert torch.equal(torch.get_rng_state(), random)
    assert [part.training for part in model] == [True, True, False, True]  # type: ignore[attr-defined]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_training_loop_follows_the_model() -> None:
    model, small = models()
    samples = data(80)
    strategy = RhoLoss(model, small, squares, budget=0.1)
    stream = WeightedStream(samples, strategy)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    chosen = []
    for _ in range(2):
        for at, (batch, weight) in enumerate(stream.loader(batch_size=4)):
            drawn = candidates(samples[40 * at : 40 * at + 40], 4)
            places = expected_places(model, small, drawn)
            assert weight.ids.tolist() == [40 * at + place for place in places]
            assert torch.equal(batch["x"], drawn.batch["x"][places])
            losses = squares(model, batch)
            (losses * weight).mean().backward()
            assert torch.equal(weight.tensor(), torch.ones(4))
            optimizer.step()
            optimizer.zero_grad()
            chosen.append(weight.ids.tolist())
    assert chosen[:2] != chosen[2:]  # the model moved, and the choice with it


def test_noise_that_the_reference_cannot_fit_is_passed_over() -> None:
    torch.manual_seed(0)
    truth = torch.randn(3, 3)
    x = torch.randn(200, 3)
    noisy = torch.arange(200) % 4 == 0
    y = x @ truth + noisy.float()[:, None] * 10 * torch.randn(200, 3)
    reference = nn.Linear(3, 3, bias=False)
    reference.weight.data = truth.T.clone()
    model = nn.Linear(3, 3)
    rows = [{"x": a, "y": b} for a, b in zip(x, y, strict=True)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ids = []
    for batch, weight in WeightedStream(rows, RhoLoss(model, reference, squares, budget=0.2)).loader(batch_size=5):
        (squares(model, batch) * weight).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        ids += weight.ids.tolist()
    by_loss = squares(model, {"x": x, "y": y}).topk(40).indices
    assert noisy[by_loss].float().mean() > 0.8  # the largest losses are noise
    assert noisy[ids].float().mean() < 0.5


def test_a_sample_without_a_stored_reference() -> None:
    model, _ = models()
    store = WeightStore()
    store.update(np.arange(7, 40), loss=np.ones(33))
    with pytest.raises(StrategyError, match="no last_loss of 7 samples"):
        RhoLoss(model, store, squares).choose(candidates(data(), 4))


def test_a_stored_reference_that_was_not_finite_comes_last() -> None:
    model, _ = models()
    store = WeightStore()
    store.update(np.arange(7, 47), loss=np.where(np.arange(40) < 20, np.nan, 1.0))
    choice = RhoLoss(model, store, squares).choose(candidates(data(), 4))
    assert len(choice.places) == 4
    assert choice.places.min() >= 20


@pytest.mark.parametrize("bad", [lambda *_: torch.tensor(1.0), lambda *_: torch.ones(39), lambda *_: [1.0] * 40])
def test_losses_that_are_none(bad: Any) -> None:
    model, small = models()
    with pytest.raises(LossError, match="from its loss_fn"):
        RhoLoss(model, small, bad).choose(candidates(data(), 4))
    with pytest.raises(LossError, match="from its reference"):
        RhoLoss(model, bad, squares).choose(candidates(data(), 4))


def test_options_that_cannot_be() -> None:
    model, small = models()
    for arguments in ((3, small, squares), (model, None, squares), (model, {1: 0.5}, squares), (model, small, None)):
        with pytest.raises(StrategyError, match="RhoLoss cannot work with this"):
            RhoLoss(*arguments)  # type: ignore[arg-type]
    for options in ({"budget": 0}, {"budget": 2}, {"at_once": 0}):
        with pytest.raises(StrategyError):
            RhoLoss(model, small, squares, **options)  # type: ignore[arg-type]
