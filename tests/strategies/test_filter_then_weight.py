"""FilterThenWeight chooses and weighs what matches the target, from within a loader and from outside the model."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import batch, gpt2, llama
from torch import Tensor, nn
from torch.optim import SGD, AdamW

from weighted_stream import WeightedStream
from weighted_stream.errors import LossError, StrategyError
from weighted_stream.selection import Candidates, Choice
from weighted_stream.strategies import matching
from weighted_stream.strategies.filter_then_weight import FilterThenWeight


def linear(model: nn.Module, x: Tensor) -> Tensor:
    """A loss whose gradient is the sample itself."""
    return model(x).squeeze(1)


def offered(batch: Any, n: int, count: int, step: int = 0) -> Candidates:
    return Candidates(np.arange(n), batch, count, step, lambda ids: {})


def planted() -> tuple[nn.Linear, Tensor, Tensor]:
    """A model, 20 candidates, and a target whose gradient is that of number 3 and twice that of number 7."""
    torch.manual_seed(0)
    x = torch.randn(20, 64)
    return nn.Linear(64, 1, bias=False), x, x[3] + 2 * x[7]


def stepped(model: nn.Module) -> AdamW:
    """An Adam that has made two steps, of gradients of very different sizes."""
    torch.manual_seed(1)
    optimizer = AdamW(model.parameters(), lr=1e-4)
    for _ in range(2):
        for p in model.parameters():
            p.grad = torch.randn_like(p) * torch.rand_like(p).mul(4).exp()
        optimizer.step()
    optimizer.zero_grad()
    return optimizer


def is_the_planted(choice: Choice) -> None:
    assert choice.places.tolist() == [3, 7]
    torch.testing.assert_close(choice.weights, torch.tensor([2 / 3, 4 / 3]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("filter", ["omp", "greedy"])
def test_the_samples_that_make_up_the_target_are_found(filter: str) -> None:
    model, x, target = planted()
    # The mean of the target's samples counts, over all its batches.
    batches = [torch.stack([2 * target, target]), torch.zeros(1, 64)]
    strategy = FilterThenWeight(
        model, None, batches, budget=0.1, loss_fn=linear, precondition="none", filter=filter, lam=0.0
    )
    is_the_planted(strategy.choose(offered(x, 20, 2)))
    assert (strategy.fallbacks, strategy.fillers, strategy.not_finite) == (0, 0, 0)


@pytest.mark.parametrize("precondition", ["target", "both"])
def test_preconditioning(precondition: str) -> None:
    model, x, target = planted()
    optimizer = stepped(model)
    state = optimizer.state[model.weight]
    d = 1 / ((state["exp_avg_sq"][0] / (1 - 0.999**2)).sqrt() + 1e-8)
    gradient = target if precondition == "both" else target / d
    strategy = FilterThenWeight(model, optimizer, [gradient[None]], loss_fn=linear, precondition=precondition, lam=0.0)
    is_the_planted(strategy.choose(offered(x, 20, 2)))
    plain = FilterThenWeight(model, None, [gradient[None]], loss_fn=linear, precondition="none", lam=0.0)
    if precondition == "target":
        assert (plain.choose(offered(x, 20, 2)).weights - torch.tensor([2 / 3, 4 / 3])).abs().max() > 0.1


@pytest.mark.parametrize("precondition", ["target", "both", "none"])
@pytest.mark.parametrize("filter", ["omp", "greedy"])
def test_a_transformer_by_explicit_gradients(filter: str, precondition: str) -> None:
    """The same choice and weights as from gradients that are made one by one."""
    model = gpt2(dropout=0.1, layers=1).double()
    optimizer = stepped(model)
    inputs, target = labelled(batch(12)), labelled(batch(5, seed=1))
    strategy = FilterThenWeight(model, optimizer, [target], filter=filter, precondition=precondition, lam=0.2)
    choice = strategy.choose(offered(inputs, 12, 4))

    names = strategy._probe.parameters
    d = torch.cat(
        [strategy._adam.diagonal(p).flatten() if strategy._adam else torch.ones(p.numel()) for p in names.values()]
    )
    twin = copy.deepcopy(model).eval()
    parameters = [dict(twin.named_parameters())[name] for name in names]
    of_target = rows(twin, parameters, target).mean(0) * d
    g = rows(twin, parameters, inputs) * (d if precondition == "both" else 1.0)
    c, K = (g @ of_target).numpy(), (g @ g.T).numpy()
    lam = 0.2 * K.diagonal().mean()
    if filter == "omp":
        places, weights = matching.omp(c, K, 4, lam)
    else:
        places = matching.greedy(c, K, 4)
        weights = matching.nnls(K[np.ix_(places, places)], c[places], lam)
    kept = weights > 0
    scattered = dict(zip(places[kept].tolist(), (4 * weights / weights.sum())[kept].tolist(), strict=True))
    found = {p: w for p, w in zip(choice.places.tolist(), choice.weights.tolist(), strict=True) if w > 0}
    assert found.keys() == scattered.keys()
    for place, weight in scattered.items():
        assert found[place] == pytest.approx(weight, rel=1e-5)


def labelled(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return inputs | {"labels": inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)}


def rows(model: nn.Module, parameters: list[nn.Parameter], inputs: dict[str, Tensor]) -> Tensor:
    """Each sample's gradient, of transformers' own loss of it alone."""
    made = []
    for at in range(len(inputs["input_ids"])):
        loss = model(**{name: values[at : at + 1] for name, values in inputs.items()}).loss
        made.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    return torch.stack(made)


@pytest.mark.parametrize("projection", [(16, 8), (1000, 1000)])
def test_candidates_some_at_a_time(projection: tuple[int, int]) -> None:
    model = gpt2(layers=1).double()
    optimizer = stepped(model)
    inputs, target = labelled(batch(11)), [labelled(batch(5, seed=1))]
    sizes = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    choices = [
        FilterThenWeight(model, optimizer, target, projection=projection, at_once=size).choose(offered(inputs, 11, 4))
        for size in (None, 4, 11)
    ]
    hook.remove()
    assert sizes == [5, 11, 5, 4, 4, 3, 5, 11]
    for choice in choices[1:]:
        assert choice.places.tolist() == choices[0].places.tolist()
        torch.testing.assert_close(choice.weights, choices[0].weights)
    if projection == (1000, 1000):
        exact = FilterThenWeight(model, optimizer, target).choose(offered(inputs, 11, 4))
        torch.testing.assert_close(exact.weights, choices[0].weights)


def test_nothing_in_the_targets_direction() -> None:
    model, x, _ = planted()
    x = x.abs()
    strategy = FilterThenWeight(model, None, [-x[:1]], loss_fn=linear, precondition="none", budget=0.2)
    choice = strategy.choose(offered(x, 20, 4))
    assert choice.weights.tolist() == [1.0] * 4
    least_against = (x @ x[0]).argsort()[:4].sort().values
    assert choice.places.tolist() == least_against.tolist()
    assert (strategy.fallbacks, strategy.fillers) == (1, 0)


def test_fillers_and_candidates_that_are_not_finite() -> None:
    model, x, target = planted()
    x[0, 0] = torch.nan
    strategy = FilterThenWeight(model, None, [target[None]], loss_fn=linear, precondition="none", lam=0.0)
    choice = strategy.choose(offered(torch.cat([x[[0, 3, 7]], -x[[3, 7]]]), 5, 5))
    assert choice.places.tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(choice.weights, torch.tensor([0, 5 / 3, 10 / 3, 0, 0]), rtol=1e-4, atol=1e-6)
    assert (strategy.fallbacks, strategy.fillers, strategy.not_finite) == (0, 3, 1)
    assert 0 not in strategy.choose(offered(x, 20, 19)).places
    broken = strategy.choose(offered(x[:1].repeat(3, 1), 3, 2))
    assert broken.weights.tolist() == [0.0, 0.0]


def test_refresh() -> None:
    model, x, target = planted()
    passes = []

    class Target:
        def __iter__(self) -> Any:
            passes.append(len(passes))
            yield (target if len(passes) == 1 else x[5])[None]

    strategy = FilterThenWeight(model, None, Target(), loss_fn=linear, precondition="none", refresh_every=2)
    seen = [strategy.choose(offered(x, 20, 1)).places.tolist() for _ in range(5)]
    assert seen == [[7], [7], [5], [5], [5]]
    assert len(passes) == 3


def test_choosing_leaves_the_model_alone() -> None:
    model = llama(dropout=0.1)
    optimizer = stepped(model)
    strategy = FilterThenWeight(model, optimizer, [labelled(batch(2))])
    before = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
    torch.manual_seed(2)
    expected = torch.rand(3)
    torch.manual_seed(2)
    strategy.choose(offered(labelled(batch(6)), 6, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(p.grad is None for p in model.parameters())
    assert model.training
    torch.testing.assert_close([model.state_dict(), optimizer.state_dict()], before, rtol=0, atol=0)


@pytest.mark.parametrize("layers", ["all", "head"])
def test_a_training_loop(layers: str) -> None:
    """Of the data 40% have wrong labels, the target has not: the weight goes where the labels are right."""
    torch.manual_seed(3)
    directions = torch.randn(5, 20)
    x = torch.randn(800, 20)
    right = (x @ directions.T).argmax(1)
    bad = torch.rand(800) < 0.4
    y = torch.where(bad, (right + torch.randint(1, 5, (800,))) % 5, right)
    clean = torch.randn(200, 20)
    target = [(clean, (clean @ directions.T).argmax(1))]

    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(inplace=True), nn.Linear(32, 5))
    model.get_output_embeddings = lambda: model[2]
    optimizer = AdamW(model.parameters(), lr=0.01)
    strategy = FilterThenWeight(model, optimizer, target, budget=0.2, layers=layers)
    stream = WeightedStream(torch.utils.data.TensorDataset(x, y), strategy)
    weight_of_bad = total = 0.0
    for _ in range(2):
        for (some, labels), weight in stream.loader(batch_size=8, shuffle=True):
            assert len(some) == len(weight) == 8
            losses = nn.functional.cross_entropy(model(some), labels, reduction="none")
            optimizer.zero_grad()
            (losses * weight).mean().backward()
            optimizer.step()
            given = weight.tensor()
            assert given.mean().item() == pytest.approx(1, abs=1e-4)
            weight_of_bad += given[bad[weight.ids]].sum().item()
            total += given.sum().item()
    assert weight_of_bad / total < 0.2  # 0.05 and 0.09; of a random choice, 0.4
    seen = stream.store.get(np.arange(800))
    assert (seen["visits"] > 0).sum() >= 160


def test_other_optimizers_and_options() -> None:
    model, _, target = planted()
    sgd = SGD(model.parameters(), lr=0.1)
    with pytest.raises(StrategyError, match="SGD"):
        FilterThenWeight(model, sgd, [target[None]])
    FilterThenWeight(model, sgd, [target[None]], precondition="none")
    for problem, options in {
        "optimizer=None": {"optimizer": None, "precondition": "target"},
        "budget": {"budget": 0.0},
        "filter": {"filter": "best"},
        "precondition='source'": {"precondition": "source"},
        "lam": {"lam": -0.1},
        "refresh_every": {"refresh_every": 0},
        "projection": {"projection": (4, 4), "precondition": "both"},
        "at_once=4": {"at_once": 4},
        "integer of at least 1": {"at_once": 0, "projection": (4, 4)},
        "no target": {"target": []},
        "layers of Linear": {"layers": "lora"},
    }.items():
        arguments = {"model": model, "optimizer": stepped(model), "target": [target[None]]} | options
        with pytest.raises(StrategyError, match=problem):
            FilterThenWeight(**arguments)


def test_losses_that_are_none() -> None:
    model, x, target = planted()

    def strategy(loss_fn: Any, target: Tensor = target) -> FilterThenWeight:
        return FilterThenWeight(model, None, [target[None]], loss_fn=loss_fn, precondition="none")

    with pytest.raises(LossError, match="per-sample losses"):
        strategy(lambda model, x: model(x).mean()).choose(offered(x, 20, 2))
    with pytest.raises(StrategyError, match="19 losses"):
        strategy(lambda model, x: model(x[:19]).squeeze(1)).choose(offered(x, 20, 2))
    with pytest.raises(StrategyError, match="loss_fn"):
        strategy(None).choose(offered(x, 20, 2))
    with pytest.raises(StrategyError, match="target is not finite"):
        strategy(linear, target * torch.nan).choose(offered(x, 20, 2))


def test_standard_losses_are_transformers_own() -> None:
    from weighted_stream.probes.model_losses import standard_losses

    for model in gpt2(), llama():
        inputs = labelled(batch(4))
        losses = standard_losses(model, inputs | {"sample_id": torch.arange(4)})
        for at in range(4):
            one = model(**{name: values[at : at + 1] for name, values in inputs.items()}).loss
            torch.testing.assert_close(losses[at], one)


def test_a_stream_goes_on_in_the_middle_of_an_epoch() -> None:
    """Model, optimizer and stream are put back to after step 4, between two refreshes of the target."""

    def made() -> tuple[nn.Module, AdamW, WeightedStream]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        optimizer = AdamW(model.parameters(), lr=0.05)
        data = torch.utils.data.TensorDataset(torch.randn(96, 6), torch.arange(96) % 3)
        target = [(data.tensors[0][:5], data.tensors[1][:5])]
        return model, optimizer, WeightedStream(data, FilterThenWeight(model, optimizer, target, 0.25, refresh_every=3))

    def steps(model: nn.Module, optimizer: AdamW, stream: WeightedStream) -> Any:
        for (x, y), weight in stream.loader(batch_size=3, shuffle=True):
            losses = nn.functional.cross_entropy(model(x), y, reduction="none")
            optimizer.zero_grad()
            (losses * weight).mean().backward()
            optimizer.step()
            yield weight.ids.tolist(), weight.tensor().tolist()

    model, optimizer, stream = made()
    seen, states = [], None
    for step in steps(model, optimizer, stream):
        seen.append(step)
        if len(seen) == 4:
            states = copy.deepcopy((model.state_dict(), optimizer.state_dict(), stream.state_dict()))
    assert states is not None
    again = made()
    for part, state in zip(again, states, strict=True):
        part.load_state_dict(state)
    assert list(steps(*again)) == seen[4:]
    assert len(seen) == 8
