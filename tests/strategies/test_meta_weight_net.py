"""MetaWeightNet: its published form, what it learns, and its state."""

from __future__ import annotations

import copy
import itertools
import random

import pytest
import torch
from noisy_toy import BATCH, Labelled, classifier, train
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader

from weighted_stream import MetaWeightNet, StateError, StrategyError, WeightedStream, per_sample_cross_entropy
from weighted_stream.strategies.meta_weight_net import LossNetwork

DATA = Labelled()


def make(model: nn.Module, optimizer, **options) -> MetaWeightNet:
    return MetaWeightNet(model, DATA.target, optimizer, **options)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize("adam", [False, True])
def test_wrong_labels_come_to_weigh_less(adam: bool) -> None:
    run = train(make, DATA, steps=150, adam=adam)
    wrong, right = run.late()
    assert wrong < 0.4
    assert right > 1.2
    assert run.strategy.updates_made == 150
    assert run.wrong[0] == pytest.approx(1, abs=0.1)


def test_it_learns_after_a_warm_up_from_next_to_nothing() -> None:
    """The decay of psi stands beside the gradient at the rate there is: next to nothing of it for the first steps."""

    def warmed(model: nn.Module, optimizer: torch.optim.Optimizer) -> MetaWeightNet:
        optimizer.param_groups[0]["lr"] = 1e-8
        return make(model, optimizer)

    def grow(run) -> None:
        run.optimizer.param_groups[0]["lr"] = 0.1 * min(1, len(run.weights) / 20) ** 6

    wrong, right = train(warmed, DATA, steps=170, adam=False, on_step=grow).late()
    assert wrong < 0.5
    assert right > 1.2


@pytest.mark.parametrize("rate", [0.0, 1e-8, 1e-2])
@pytest.mark.parametrize("decay", [0.0, 1e-2])
def test_the_decay_is_the_same_at_every_rate(rate: float, decay: float) -> None:
    """Psi's Adam gets the gradient of the loss after the step, eta in it, and beside it the decay."""
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    strategy = make(model, optimizer, weight_decay=decay)
    psi = {name: values.detach().clone() for name, values in strategy._psi.items()}
    (x, y), weight = next(iter(WeightedStream(DATA.dataset, strategy).loader(batch_size=BATCH)))
    (per_sample_cross_entropy(model(x), y) * weight).mean().backward()
    grown = {
        name: (strategy._adam.state[values]["exp_avg"] / 0.1 - decay * psi[name]).abs().max().item()
        for name, values in strategy._psi.items()
    }
    assert max(grown.values()) == pytest.approx(0, abs=1e-7) if decay and rate < 1e-6 else max(grown.values()) > 1e-6


def test_the_network_is_the_published_one() -> None:
    network = LossNetwork("none")
    sizes = [tuple(values.shape) for values in network.parameters()]
    assert sizes == [(100, 1), (100,), (1, 100), (1,)]
    losses = torch.rand(7, 1)
    first, bias, second, last = (values.detach() for values in network.parameters())
    expected = torch.sigmoid((losses @ first.T + bias).clamp_min(0) @ second.T + last).squeeze(1)
    torch.testing.assert_close(network(losses).detach(), expected)
    torch.testing.assert_close(LossNetwork("mean")(losses).detach(), 7 * expected / expected.sum())


@pytest.mark.parametrize("normalize", ["mean", "none"])
def test_an_update_is_the_published_one(normalize) -> None:
    """As the published code has it: a graph through the step of SGD, then Adam with 1e-3 and weight decay 1e-4."""
    model = classifier()
    strategy = make(model, sgd(model), normalize=normalize, derivatives="exact")
    network = copy.deepcopy(strategy._network)
    stream = WeightedStream(DATA.dataset, strategy)
    loader = stream.loader(batch_size=BATCH)
    adam = torch.optim.Adam(network.parameters(), 1e-3, weight_decay=1e-4, eps=1e-15)

    def mean_loss(parameters, some) -> Tensor:
        return per_sample_cross_entropy(functional_call(model, parameters, (some[0],)), some[1])

    for step, (batch, weight) in enumerate(itertools.islice(loader, 3)):
        theta = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
        losses = mean_loss(theta, batch)
        loss = (losses * network(losses.detach()[:, None])).mean()
        gradients = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        ahead = {name: p - 0.1 * g for (name, p), g in zip(theta.items(), gradients, strict=True)}
        adam.zero_grad()
        mean_loss(ahead, DATA.target[step % 2]).mean().backward()
        adam.step()
        losses = per_sample_cross_entropy(model(batch[0]), batch[1])
        (losses * weight).mean().backward()
        torch.testing.assert_close(weight.tensor(), network(losses.detach()[:, None]).detach(), rtol=1e-4, atol=1e-5)
        for one, other in zip(strategy._network.parameters(), network.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)


def test_updates_now_and_then() -> None:
    counts = []
    train(lambda m, o: make(m, o, every=3), DATA, steps=8, on_step=lambda run: counts.append(run.strategy.updates_made))
    assert counts == [1, 1, 1, 2, 2, 2, 3, 3]


@pytest.mark.parametrize("shuffled", [False, True])
def test_it_goes_on_from_a_state(shuffled: bool) -> None:
    weights = []
    rows = [(x, y) for xs, ys in DATA.target for x, y in zip(xs, ys, strict=True)]
    target = DataLoader(rows, batch_size=8, shuffle=True) if shuffled else DATA.target

    def steps(strategy, model, optimizer, start: int, stop: int) -> None:
        for (x, y), weight in itertools.islice(
            WeightedStream(DATA.dataset, strategy).loader(batch_size=BATCH), start, stop
        ):
            losses = per_sample_cross_entropy(model(x), y)
            optimizer.zero_grad()
            (losses * weight).mean().backward()
            optimizer.step()
            weights.append(weight.tensor())

    def fresh():
        model = classifier()
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        return MetaWeightNet(model, target, optimizer, lr=0.01, every=2), model, optimizer

    first, second = fresh(), fresh()
    steps(*first, 0, 5)
    state = copy.deepcopy([part.state_dict() for part in first])
    torch.rand(3), random.random()  # whatever else draws
    steps(*first, 5, 10)
    for part, saved in zip(second, state, strict=True):
        part.load_state_dict(saved)
    steps(*second, 5, 10)
    assert all(torch.equal(one, other) for one, other in zip(weights[5:10], weights[10:], strict=True))
    with pytest.raises(StateError, match="adam"):
        first[0].load_state_dict({})


def test_micro_batches_and_dict_batches() -> None:
    model = classifier()
    rows = [{"x": x, "labels": y} for x, y in zip(DATA.x[:64], DATA.y[:64], strict=True)]
    target = [{"x": x, "labels": y} for x, y in DATA.target]

    def loss_fn(model: nn.Module, batch) -> Tensor:
        return per_sample_cross_entropy(model(batch["x"]), batch["labels"])

    strategy = MetaWeightNet(model, target, sgd(model), loss_fn=loss_fn)
    stream = WeightedStream(rows, strategy, as_dict=True)
    for batch in stream.loader(batch_size=32):
        whole = stream.weight(batch["sample_id"])
        losses = loss_fn(model, batch)
        whole.resolve(losses)
        (losses[:16] * whole[:16]).sum().backward(retain_graph=True)
        (losses[16:] * whole[16:]).sum().backward()
    assert strategy.updates_made == 2


def test_errors() -> None:
    model = classifier()
    for options, found in (
        ({"every": 0}, "every=0"),
        ({"lr": -1}, "lr=-1"),
        ({"weight_decay": -1}, "weight_decay=-1"),
        ({"normalize": "sum"}, "normalize='sum'"),
        ({"derivatives": ""}, "derivatives=''"),
    ):
        with pytest.raises(StrategyError, match=found):
            make(model, sgd(model), **options)
    with pytest.raises(StrategyError, match="eta=None"):
        make(model, None)
    (x, y), weight = next(iter(DataLoader(WeightedStream(DATA.dataset, make(model, sgd(model))), batch_size=8)))
    with pytest.raises(StrategyError, match="DataLoader of your own"):
        weight.resolve(per_sample_cross_entropy(model(x), y))
