"""Greats: the greedy rule on the gradients of a model, each of the chosen with weight 1."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import batch, gpt2
from torch import Tensor, nn

from weighted_stream import Clip, Greats, LinUpper, Shuffled, StrategyError, WeightedStream
from weighted_stream.probes.model_losses import standard_losses
from weighted_stream.selection import Candidates
from weighted_stream.strategies.matching import greedy


def linear(model: nn.Module, x: Tensor) -> Tensor:
    """A loss whose gradient is the sample itself."""
    return model(x).squeeze(1)


def model(size: int = 2) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(size, 1, bias=False)


def offered(batch: Any, n: int, count: int) -> Candidates:
    return Candidates(np.arange(n), batch, count, 0, lambda ids: {})


def test_the_published_rule_by_hand() -> None:
    c = np.array([1.0, 0.9, 0.5, -1.0])
    K = np.array([[1.0, 0.9, 0.0, -1.0], [0.9, 1.0, 0.1, -0.9], [0.0, 0.1, 0.5, 0.0], [-1.0, -0.9, 0.0, 1.0]])
    # eta 1: after 0 the gains are 0.9 - 0.9, 0.5 - 0, -1 + 1; after 2 too: 0 - 0.1, and 0.
    assert greedy(c, K, 3, eta=1.0).tolist() == [0, 2, 3]
    # eta 0.1: 0.1 c - 0.01 K: 0.09 - 0.009 is still more than 0.05.
    assert greedy(c, K, 3, eta=0.1).tolist() == [0, 1, 2]


@given(
    st.integers(2, 8).flatmap(
        lambda n: st.tuples(
            st.lists(st.lists(st.integers(-4, 4), min_size=3, max_size=3), min_size=n, max_size=n),
            st.lists(st.integers(-4, 4), min_size=3, max_size=3),
            st.integers(1, n),
            st.sampled_from([0.01, 0.3, 1.0]),
        )
    )
)
def test_each_choice_is_the_best_at_its_turn(case: tuple[list[list[int]], list[int], int, float]) -> None:
    rows, direction, k, eta = case
    g, target = np.array(rows, float), np.array(direction, float)
    strategy = Greats(model(3), [torch.tensor(target[None], dtype=torch.float32)], loss_fn=linear, eta=eta)
    choice = strategy.choose(offered(torch.tensor(g, dtype=torch.float32), len(g), k))
    assert choice.weights.tolist() == [1.0] * k
    chosen = greedy(g @ target, g @ g.T, k, eta)
    assert sorted(chosen.tolist()) == choice.places.tolist()
    left = set(range(len(g)))
    for turn, place in enumerate(chosen.tolist()):
        before = g[chosen[:turn]].sum(0)
        gains = {i: eta * g[i] @ target - eta**2 * g[i] @ before for i in left}
        assert gains[place] >= max(gains.values()) - 1e-9
        left.remove(place)


def test_a_transformer_by_explicit_gradients() -> None:
    network = gpt2(dropout=0.1, layers=1).double()

    def labelled(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return inputs | {"labels": inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)}

    inputs, target = labelled(batch(10)), labelled(batch(4, seed=1))
    strategy = Greats(network, [target], eta=0.5)
    choice = strategy.choose(offered(inputs, 10, 4))
    twin = copy.deepcopy(network).eval()
    parameters = [dict(twin.named_parameters())[name] for name in strategy._probe.parameters]

    def rows(inputs: dict[str, Tensor]) -> Tensor:
        found = []
        for loss in standard_losses(twin, inputs):
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
            found.append(torch.cat([gradient.flatten() for gradient in gradients]))
        return torch.stack(found)

    g, mean = rows(inputs), rows(target).mean(0)
    expected = greedy((g @ mean).numpy(), (g @ g.T).numpy(), 4, 0.5)
    assert choice.places.tolist() == sorted(expected.tolist())


def test_the_step_size_is_the_learning_rate_of_the_moment() -> None:
    network = model()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    samples = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.9], [-1.0, 0.0]])
    strategy = Greats(network, [torch.ones(1, 2)], loss_fn=linear, eta=optimizer)
    places = []
    for rate in (0.0, 0.05, 1.0):
        optimizer.param_groups[0]["lr"] = rate
        places.append(strategy.choose(offered(samples, 4, 2)).places.tolist())
    assert places == [[0, 1], [0, 1], [0, 2]]


def test_a_target_from_a_loader_draws_nothing() -> None:
    network, samples = model(), torch.tensor([[1.0, 0.0], [0.0, 0.9], [-1.0, 0.0]])
    target = torch.utils.data.DataLoader(torch.ones(4, 2), batch_size=2, shuffle=True)
    before = torch.get_rng_state()
    Greats(network, target, loss_fn=linear).choose(offered(samples, 3, 1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_it_trains_on_what_helps_the_target(workers: int) -> None:
    """Half of the samples have false labels; the target has none."""
    torch.manual_seed(0)
    x = torch.randn(320, 4)
    y = x.sum(1)
    false = torch.arange(320) % 2 == 0
    data = [(a, b) for a, b in zip(x, torch.where(false, -y, y), strict=True)]
    network = nn.Linear(4, 1)

    def squares(network: nn.Module, batch: Any) -> Tensor:
        return (network(batch[0]).squeeze(1) - batch[1]).square()

    optimizer = torch.optim.SGD(network.parameters(), lr=0.02)
    stream = WeightedStream(data, Greats(network, [(x[:8], y[:8])], budget=0.25, loss_fn=squares, eta=optimizer))
    ids = []
    for pair, weight in stream.loader(batch_size=4, num_workers=workers):
        optimizer.zero_grad()
        (squares(network, pair) * weight).mean().backward()
        optimizer.step()
        ids += weight.ids.tolist()
    assert len(ids) == 80
    assert false[ids].float().mean() < 0.3
    assert (stream.store.get(range(320))["last_step"] == np.arange(320) // 16).all()


def test_gradients_that_are_not_finite_are_chosen_last() -> None:
    samples = torch.tensor([[torch.nan, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    strategy = Greats(model(), [torch.ones(1, 2)], loss_fn=linear, eta=0.1)
    choice = strategy.choose(offered(samples, 3, 3))
    assert choice.weights.tolist() == [0.0, 1.5, 1.5]
    assert strategy.not_finite == 1


def test_its_state_goes_on() -> None:
    samples = torch.randn(12, 2, generator=torch.manual_seed(0))
    targets = [torch.ones(1, 2)]
    first, second = (Greats(model(), targets, loss_fn=linear, eta=0.3, refresh_every=5) for _ in range(2))
    first.choose(offered(samples, 12, 3))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    targets[0] = -torch.ones(1, 2)  # not asked for again until it is due
    for _ in range(4):
        one, other = (strategy.choose(offered(samples, 12, 3)).places.tolist() for strategy in (first, second))
        assert one == other
    renewed = first.choose(offered(samples, 12, 3)).places.tolist()
    assert renewed == second.choose(offered(samples, 12, 3)).places.tolist() != one


def test_what_cannot_be() -> None:
    for options in (
        {"eta": 0.0},
        {"eta": -1.0},
        {"eta": model()},
        {"budget": 0.0},
        {"refresh_every": 0},
        {"at_once": 4},
    ):
        with pytest.raises(StrategyError):
            Greats(model(), [torch.ones(1, 2)], loss_fn=linear, **options)  # type: ignore[arg-type]
    strategy = Greats(model(), [torch.ones(1, 2)], loss_fn=linear)
    for around in (lambda: Clip(strategy), lambda: Shuffled(strategy), lambda: LinUpper() * strategy):
        with pytest.raises(StrategyError, match="selecting strategy"):
            around()
