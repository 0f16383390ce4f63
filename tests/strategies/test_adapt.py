"""Adapt against its definition, on real models, whatever the training loop does around it."""

from __future__ import annotations

import gc
import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import tiny_models
import torch
from torch import nn
from torch.utils.data import DataLoader

from weighted_stream import Adapt, LinUpper, Shuffled, Signals, StrategyError, WeightedStream, WindowError
from weighted_stream.feedback import CONSTANT_AFTER
from weighted_stream.strategies.adapt import PATIENCE

pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning"),
]
models = pytest.mark.parametrize("make", tiny_models.MODELS.values(), ids=tiny_models.MODELS)
TARGET = [tiny_models.batch(4, "right", 100), tiny_models.batch(3, "left", 101)]


def by_definition(model: nn.Module, inputs, tau: float = 1.0, target=TARGET) -> torch.Tensor:
    """methods.md section 2 as it stands there, from `output_hidden_states`."""
    centroid = torch.cat([tiny_models.phi(model, batch) for batch in target]).mean(0)
    return torch.sigmoid(tiny_models.phi(model, inputs) @ centroid / tau)


def close(found: torch.Tensor, expected: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


class Passes:
    """Counts the forwards of a model that are made in evaluation mode, without gradients: those of a target."""

    def __init__(self, model: nn.Module) -> None:
        self.count = 0
        model.register_forward_pre_hook(self.see)

    def see(self, model: nn.Module, args) -> None:
        self.count += not model.training and not torch.is_grad_enabled()


class Toy(nn.Module):
    """Rows of tokens, a mask that nobody needs, dropout and batch norm."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Embedding(20, 8), nn.Dropout(dropout))
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 20)

    def forward(self, tokens, attention_mask=None):
        return self.head(self.norm(self.body(tokens).mT).mT)


def tokens(size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 20, (size, 5), generator=torch.Generator().manual_seed(seed))


def toy_losses(model: Toy, rows: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(model(rows).mT, rows, reduction="none").mean(1)


def toy_adapt(model: Toy, **options) -> Adapt:
    return Adapt(model, [tokens(4, 50), tokens(2, 51)], head="head", **options)


def weight_of(strategy, size: int):
    stream = WeightedStream(list(range(1000)), strategy)
    return stream, stream.weight(range(size))


def test_the_published_vector() -> None:
    class Given(nn.Module):
        """Its input are its hidden states."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 3)

        def forward(self, hidden):
            return self.head(hidden)

    states = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    target = [torch.eye(2)[:, None, :]]  # two samples of one token
    for tau, expected in (1.0, 0.668804), (0.1, 0.999114):
        model = Given()
        strategy = Adapt(model, target, tau=tau, head="head")
        model(states)
        close(strategy.weights(Signals(np.arange(1), 0, torch.ones(1), dict)), torch.tensor([expected]), 1e-6)
        close(strategy.centroid, torch.tensor([0.5, 0.5]))


@models
@pytest.mark.parametrize("padding", ["left", "right"])
def test_weights_are_those_of_the_definition(make, padding: str) -> None:
    model, inputs = make(), tiny_models.batch(6, padding)
    for tau in 1.0, 0.05:
        stream, weight = weight_of(Adapt(model, TARGET, tau=tau), 6)
        (tiny_models.losses(model, inputs) * weight).mean().backward()
        close(weight.tensor(), by_definition(model, inputs, tau))
        assert weight.tensor().std() > 1e-4
        np.testing.assert_allclose(stream.store.get(range(6))["weight"], weight.tensor().numpy())


@models
def test_under_compile_with_checkpointing_and_accumulation(make) -> None:
    torch._dynamo.reset()
    model = make(layers=1)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    strategy, passes = Adapt(model, TARGET, tau=0.1, refresh_every=1), Passes(model)
    compiled = torch.compile(model, backend="eager")
    stream = WeightedStream(list(range(100)), strategy)
    for step in range(3):
        weight = stream.weight(range(8))
        for part in 0, 1:
            inputs = tiny_models.batch(4, "right", 10 * step + part)
            piece = weight[4 * part : 4 * part + 4]
            losses = tiny_models.losses(compiled, inputs)
            (losses * piece).mean().backward()
            close(piece.tensor(), by_definition(model, inputs, 0.1))
        optimizer.step()
        optimizer.zero_grad()
        assert passes.count == 2 * (step + 1)  # two batches of the target, once per step


@models
def test_one_pass_per_refresh_by_optimizer_steps(make) -> None:
    """Twelve steps of four micro-batches, with an evaluation after each step: five refreshes."""
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    strategy, passes = Adapt(model, TARGET[:1], refresh_every=3, tau=0.1), Passes(model)
    stream, centroids = WeightedStream(list(range(100)), strategy), []
    for step in range(12):
        for part in range(4):
            inputs = tiny_models.batch(2, "right", 4 * step + part)
            weight = stream.weight([2 * part, 2 * part + 1])
            found = weight.resolve(tiny_models.losses(model, inputs))
            if step % 3 == 0:
                close(found, by_definition(model, inputs, 0.1, TARGET[:1]))
            (tiny_models.losses(model, inputs) * weight).mean().backward()
        optimizer.step()
        centroids.append(strategy.centroid)
        with torch.no_grad():  # in training mode, so that it is not counted as a pass over the target
            tiny_models.losses(model, tiny_models.batch(8))
        assert passes.count == step // 3 + 1
    same = [torch.equal(one, two) for one, two in pairwise(centroids)]
    assert same == [True, True, False] * 3 + [True, True]


def test_all_forwards_before_one_resolve() -> None:
    model = tiny_models.gpt2()
    _, weight = weight_of(Adapt(model, TARGET, tau=0.1), 6)
    batches = [tiny_models.batch(3, "left", 1), tiny_models.batch(2, "left", 2), tiny_models.batch(1, "left", 3)]
    losses = torch.cat([tiny_models.losses(model, inputs) for inputs in batches])
    close(weight.resolve(losses), torch.cat([by_definition(model, inputs, 0.1) for inputs in batches]))
    close(weight[3:5].resolve(losses[3:5]), by_definition(model, batches[1], 0.1))  # known already


@pytest.mark.parametrize("evaluating", [False, True])
def test_training_is_bit_for_bit_what_it_is_without(evaluating: bool) -> None:
    """Dropout, batch norm and a shuffled target loader: the target pass draws no number and moves no average."""

    def train(adapt: bool, given: list[torch.Tensor]) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        model = Toy(dropout=0.3)
        model.norm.eval() if evaluating else None
        target = DataLoader(tokens(6, 50), batch_size=4, shuffle=True)
        strategy = Adapt(model, target, refresh_every=2, tau=0.2, head="head") if adapt else None
        stream = None if strategy is None else WeightedStream(list(range(100)), strategy)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        torch.manual_seed(5)
        weights = []
        for step in range(6):
            optimizer.zero_grad()
            losses = toy_losses(model, tokens(4, step))
            weights.append(given[step] if stream is None else stream.weight(range(4)).resolve(losses))
            (losses * weights[-1]).mean().backward()
            optimizer.step()
            assert model.training
            assert model.norm.training is not evaluating
        return weights, {**model.state_dict(), "random": torch.rand(3)}

    weights, with_adapt = train(True, [])
    _, without = train(False, weights)
    for name, value in without.items():
        assert torch.equal(with_adapt[name], value), name


def test_evaluation_between_forward_and_product_does_not_disturb() -> None:
    model, inputs = tiny_models.llama(), tiny_models.batch(4)
    _, weight = weight_of(Adapt(model, TARGET), 4)
    losses = tiny_models.losses(model, inputs)
    with torch.inference_mode():
        model.eval()(**tiny_models.batch(4, "right", 77))
    model.train()
    close(weight.resolve(losses), by_definition(model, inputs))


def test_weights_before_the_losses() -> None:
    model, inputs = tiny_models.gpt2(), tiny_models.batch(4)
    _, weight = weight_of(Adapt(model, TARGET), 4)
    losses = tiny_models.losses(model, inputs)
    expected = by_definition(model, inputs)
    close(weight.tensor(), expected)
    close(weight.resolve(losses), expected)
    close(weight.resolve(losses), expected)  # without another forward
    assert weight.resolve(losses).dtype == torch.float32


def test_a_batch_that_is_run_again_gets_the_weights_of_its_last_forward() -> None:
    model = Toy()
    strategy = toy_adapt(model, tau=0.1)
    _, weight = weight_of(strategy, 4)
    first = weight.resolve(toy_losses(model, tokens(4)))
    nn.init.normal_(model.body[0].weight)
    toy_losses(model, tokens(4))  # did not fit, say
    again = [weight[:2].resolve(toy_losses(model, tokens(4)[:2])), weight[2:].resolve(toy_losses(model, tokens(4)[2:]))]
    assert (torch.cat(again) - first).abs().max() > 1e-3


def test_losses_that_are_not_finite() -> None:
    model = tiny_models.gpt2()
    strategy = Adapt(model, TARGET, tau=0.1, center="running")
    stream = WeightedStream(list(range(100)), strategy)
    for seed, wrong in (0, [1]), (1, [0, 3]), (2, []):
        inputs = tiny_models.batch(5, "left", seed)
        weight, middle = stream.weight(range(5)), strategy._running.value
        losses = tiny_models.losses(model, inputs)
        factor = torch.ones(5)
        factor[wrong] = torch.nan
        found = weight.resolve(losses * factor)
        vectors = tiny_models.phi(model, inputs)
        fine = [row for row in range(5) if row not in wrong]
        middle = vectors[fine].mean(0) if middle is None else middle
        expected = torch.sigmoid((vectors - middle) @ strategy.centroid / 0.1)
        expected[wrong] = 0.0
        close(found, expected)
        if wrong:
            parts = [weight[[4, *wrong]].resolve((losses * factor)[[4, *wrong]])]
            close(parts[0], expected[[4, *wrong]])


def test_normalize_mean() -> None:
    model = Toy()
    strategy = toy_adapt(model, normalize="mean", tau=0.1)
    assert strategy.joint
    _, weight = weight_of(strategy, 4)
    losses = toy_losses(model, tokens(4))
    with pytest.raises(WindowError):
        weight[:2].resolve(losses[:2])
    plain = toy_adapt(model, tau=0.1)
    losses = toy_losses(model, tokens(4))
    found, unscaled = weight.resolve(losses), weight_of(plain, 4)[1].resolve(losses)
    assert found.mean().item() == pytest.approx(1, abs=1e-6)
    close(found, unscaled / unscaled.mean())


def test_center_running() -> None:
    """By hand, in micro-batches: each batch against the mean of those before it, under the present centroid."""
    model = Toy()
    model.norm.eval()  # so that the states below are those of the forward
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    strategy = toy_adapt(model, center="running", tau=0.05, refresh_every=1)
    stream, before = WeightedStream(list(range(100)), strategy), []
    for step in range(4):
        weight, vectors, found = stream.weight(range(6)), [], []
        for part in range(2):
            rows = tokens(6, step)[3 * part : 3 * part + 3]
            with torch.no_grad():
                hidden = model.norm(model.body(rows).mT).mT
            places = torch.arange(1.0, 6.0)[:, None]
            vectors.append(nn.functional.normalize((hidden * places).sum(1), dim=1))
            piece = weight[3 * part : 3 * part + 3]
            losses = toy_losses(model, rows)
            found.append(piece.resolve(losses))
            (losses * piece).mean().backward()
        middle = torch.cat(before).mean(0) if before else vectors[0].mean(0)
        close(torch.cat(found), torch.sigmoid((torch.cat(vectors) - middle) @ strategy.centroid / 0.05))
        before += vectors
        optimizer.step()
        optimizer.zero_grad()


def test_batches_are_counted_if_no_optimizer_is_seen() -> None:
    model = Toy()
    strategy, passes = toy_adapt(model, refresh_every=20), Passes(model)
    stream, counts = WeightedStream(list(range(100)), strategy), []

    def train() -> None:
        for _ in range(2 * PATIENCE):
            for part in stream.weight(range(4)).split(2):
                part.resolve(toy_losses(model, tokens(2)))
            counts.append(passes.count // 2)

    with pytest.warns(RuntimeWarning, match="no optimizer step of Toy in 50 batches") as warned:
        train()
    assert len(warned) == 1
    assert [1 + i for i, (one, two) in enumerate(pairwise(counts)) if two > one] == [50, 70, 90]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(41):
        stream.weight(range(4)).resolve(toy_losses(model, tokens(4)))
        assert passes.count // 2 == counts[-1] + step // 20 or step < 20
        optimizer.step()


def train_to_the_warning(strategy: Adapt, model: Toy) -> None:
    stream = WeightedStream(list(range(10_000)), strategy)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    for step in range(CONSTANT_AFTER + 1):
        stream.weight(range(2)).resolve(toy_losses(model, tokens(2, step)))
        optimizer.step()


def test_weights_that_do_not_vary_are_reported_with_a_remedy() -> None:
    model = Toy()
    with torch.no_grad():  # all hidden states nearly alike, as in a trained language model
        model.body[0].weight.mul_(1e-3).add_(1.0)
        model.norm.eval()
    with pytest.warns(RuntimeWarning, match=r"have not varied in 200 batches.* a smaller tau or center=.running."):
        train_to_the_warning(toy_adapt(model), model)


def test_weights_that_vary_are_not_reported() -> None:
    model = Toy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_to_the_warning(toy_adapt(model), model)


def test_together_with_other_strategies() -> None:
    model, inputs = tiny_models.gpt2(), tiny_models.batch(5)
    losses = tiny_models.losses(model, inputs)
    with Closing(Adapt(model, TARGET, tau=0.1)) as adapt:
        _, weight = weight_of(LinUpper() * adapt, 5)
        losses = tiny_models.losses(model, inputs)
        product = LinUpper().weights(Signals(np.arange(5), 0, losses.detach(), dict)) * by_definition(
            model, inputs, 0.1
        )
        close(weight.resolve(losses), product / product.mean())
        _, weight = weight_of(Shuffled(adapt), 5)
        found = weight.resolve(tiny_models.losses(model, inputs))
        close(found.sort().values, by_definition(model, inputs, 0.1).sort().values)


class Closing:
    """`contextlib.closing`, for a strategy."""

    def __init__(self, strategy: Adapt) -> None:
        self.strategy = strategy

    def __enter__(self) -> Adapt:
        return self.strategy

    def __exit__(self, *error: object) -> None:
        self.strategy.close()


def test_the_target_pass_runs_under_the_autocast_of_training() -> None:
    model, inputs = tiny_models.llama(), tiny_models.batch(4)
    _, weight = weight_of(Adapt(model, TARGET), 4)
    seen = []
    model.lm_head.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        losses = tiny_models.losses(model, inputs)
        (losses * weight).mean().backward()
    assert seen == [torch.bfloat16] * (1 + len(TARGET))


def test_the_target_pass_leaves_no_casts_behind() -> None:
    """A parameter cast without gradients and found by the next forward of the same autocast would not learn."""
    model, inputs = tiny_models.llama(), tiny_models.batch(4)
    _, weight = weight_of(Adapt(model, TARGET), 4)
    with torch.autocast("cpu", torch.bfloat16):
        losses = tiny_models.losses(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        weight.resolve(losses)
        tiny_models.losses(model, inputs).mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_forward_that_was_not_seen() -> None:
    model = Toy()
    _, weight = weight_of(toy_adapt(model), 4)
    with torch.no_grad():
        losses = toy_losses(model, tokens(4))
    with pytest.raises(StrategyError, match="No forward of Toy was seen"):
        weight.resolve(losses)
    with pytest.raises(StrategyError, match="found:    8 samples"):
        weight.resolve(toy_losses(model, tokens(8))[:4])


def test_two_forwards_and_then_their_products_one_by_one_is_an_error() -> None:
    model = Toy()
    strategy = toy_adapt(model)
    stream, one = weight_of(strategy, 4)
    two = stream.weight(range(4, 8))
    losses = [toy_losses(model, tokens(4, seed)) for seed in (1, 2)]
    one.resolve(losses[0])
    with pytest.raises(StrategyError, match="after each forward"):
        two.resolve(losses[1])


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ([], "nothing in it"),
        (iter([]), "nothing in it"),
        (tokens(3), "a Tensor, which is one batch"),
        ({"tokens": tokens(3)}, "a dict, which is one batch"),
        (3, "a int"),
        (None, "a NoneType"),
    ],
)
def test_no_target(target, found: str) -> None:
    with pytest.raises(StrategyError, match=found) as error:
        Adapt(Toy(), target, head="head")
    assert "[batch]" in error.value.do


def test_targets_of_many_kinds() -> None:
    rows = tokens(4, 7)
    forwards = {"forward": lambda model, batch: model(batch["rows"])}
    kinds = [([rows], {}), ([(rows,)], {}), ([{"tokens": rows}], {}), (iter([rows[:3], rows[3:]]), {})]
    kinds += [(DataLoader(rows, batch_size=3), {}), ([{"rows": rows}], forwards)]
    found = []
    for target, options in kinds:
        model = Toy()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        stream = WeightedStream(list(range(10)), Adapt(model, target, refresh_every=1, head="head", **options))
        for _ in range(2):
            weight = stream.weight(range(4))
            (toy_losses(model, tokens(4)) * weight).mean().backward()
            optimizer.step()
        found.append(weight.tensor())
    for other in found[1:]:
        close(other, found[0], 1e-6)


def test_a_target_that_the_model_does_not_take() -> None:
    model = Toy()
    _, weight = weight_of(Adapt(model, [{"tokens": tokens(4), "labels": tokens(4)}], head="head"), 4)
    with pytest.raises(TypeError, match="labels") as error:
        weight.resolve(toy_losses(model, tokens(4)))
    assert "Toy ran on a batch of the target" in error.value.__notes__[0]


def test_a_target_that_gives_nothing_or_no_numbers() -> None:
    class Empty:
        def __iter__(self):
            return iter(())

    model = Toy()
    _, weight = weight_of(Adapt(model, Empty(), head="head"), 4)
    with pytest.raises(StrategyError, match="no batch in this pass"):
        weight.resolve(toy_losses(model, tokens(4)))
    _, weight = weight_of(toy_adapt(model), 4)
    losses = toy_losses(model, tokens(4))
    with torch.no_grad():
        model.norm.running_var.fill_(math.nan)
    with pytest.raises(StrategyError, match="not finite"):
        weight.resolve(losses)


@pytest.mark.parametrize(
    "options", [{"tau": 0.0}, {"tau": -1}, {"refresh_every": 0}, {"normalize": "max"}, {"center": "batch"}]
)
def test_options_out_of_range(options) -> None:
    with pytest.raises(StrategyError, match=next(iter(options))):
        toy_adapt(Toy(), **options)


def test_it_is_told_by_its_options_and_goes_without_a_trace() -> None:
    model = Toy()
    strategy = toy_adapt(model, tau=0.5)
    assert repr(strategy) == "Adapt(tau=0.5, refresh_every=50, normalize='none', center=None)"
    assert not strategy.joint
    assert strategy.centroid is None
    del strategy
    gc.collect()
    assert not model._forward_pre_hooks
    assert not model.head._forward_pre_hooks
