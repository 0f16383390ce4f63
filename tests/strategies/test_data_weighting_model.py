"""DataWeightingModel: what it learns, when, and what of it can be taken elsewhere."""

from __future__ import annotations

import copy
import gc
import itertools
from pathlib import Path

import pytest
import torch
from noisy_toy import BATCH, CLASSES, DIMS, Labelled, classifier, train
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from weighted_stream import (
    Adapt,
    Clip,
    DataWeightingModel,
    LinUpper,
    LossError,
    Shuffled,
    Signals,
    StateError,
    StrategyError,
    WeightedStream,
    WindowError,
    per_sample_cross_entropy,
)

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
DATA = Labelled()


def make(model: nn.Module, optimizer, **options) -> DataWeightingModel:
    return DataWeightingModel(model, DATA.target, optimizer, head="4", **options)


def losses_of(model: nn.Module, places) -> Tensor:
    return per_sample_cross_entropy(model(DATA.x[places]), DATA.y[places])


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def stirred(strategy: DataWeightingModel) -> DataWeightingModel:
    """With other parameters than the first, which make uniform weights."""
    draw = torch.Generator().manual_seed(4)
    state = strategy.state_dict()
    state["psi"] = {
        name: values + 0.3 * torch.randn(values.shape, generator=draw) for name, values in state["psi"].items()
    }
    strategy.load_state_dict(state)
    return strategy


@pytest.fixture(scope="module")
def learned():
    """A strategy that has learned on a small model."""
    return train(lambda m, o: make(m, o, updates=100, stage_steps=150), DATA, steps=150)


def test_wrong_labels_come_to_weigh_less(learned) -> None:
    wrong, right = learned.late()
    assert wrong < 0.5
    assert right > 1.1
    assert learned.strategy.updates_made == 100
    assert learned.wrong[0] == pytest.approx(1, abs=0.1)


def test_without_updates_it_is_uniform_training() -> None:
    run = train(lambda m, o: make(m, o, updates=0), DATA, steps=5)
    assert all(torch.equal(weights, torch.ones(BATCH)) for weights in run.weights)


@pytest.mark.parametrize("derivatives", ["difference", "exact"])
@pytest.mark.parametrize("adam", [False, True])
def test_an_update_is_a_step_down_the_unrolled_loss(adam: bool, derivatives) -> None:
    """Psi's gradient by autograd through the model's step; then Adam, as published, moves psi by it."""
    model = classifier()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3) if adam else sgd(model)
    strategy = stirred(make(model, optimizer, derivatives=derivatives, lr=1e-3))
    stream = WeightedStream(DATA.dataset, strategy)
    (batch, weight) = next(iter(stream.loader(batch_size=BATCH)))
    network = copy.deepcopy(strategy._network)
    theta = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}

    def mean_loss(parameters, some) -> Tensor:
        return per_sample_cross_entropy(functional_call(model, parameters, (some[0],)), some[1])

    def states(x: Tensor) -> Tensor:
        return nn.functional.normalize(model[:4](x), dim=1)

    anchors = torch.cat([states(x) for x, _ in DATA.target])[:32]
    centred = [nn.functional.normalize(v - anchors.mean(0), dim=1) for v in (states(batch[0]), anchors)]
    losses = mean_loss(theta, batch)
    z = (losses - losses.mean()) / losses.std(correction=0)
    features = torch.cat([centred[0] @ centred[1].T, z[:, None]], 1).detach()

    weights = network(features)
    gradients = torch.autograd.grad((losses * weights).mean(), list(theta.values()), create_graph=True)
    ahead = {}
    for (name, values), gradient in zip(theta.items(), gradients, strict=True):
        square = gradient.detach().square()
        step = 1e-3 * (square > 0) / (square.sqrt() + 1e-8) if adam else 0.1
        ahead[name] = values - step * gradient
    mean_loss(ahead, DATA.target[0]).mean().backward()
    gradients = [p.grad.clone() for p in network.parameters()]
    largest = max(gradient.abs().max() for gradient in gradients)
    torch.optim.Adam(network.parameters(), 1e-3, eps=1e-15).step()

    weight.resolve(losses_of(model, slice(0, BATCH)))
    assert strategy.updates_made == 1
    compared = 0
    for (name, expected), gradient in zip(network.named_parameters(), gradients, strict=True):
        clear = gradient.abs() > 0.02 * largest  # of the others Adam's first step has the sign of rounding
        torch.testing.assert_close(strategy._psi[name][clear], expected[clear], rtol=0, atol=1e-6)
        compared += int(clear.sum())
    assert compared > 100
    torch.testing.assert_close(weight.tensor(), strategy._network(features).detach(), rtol=1e-4, atol=1e-4)


def test_psi_learns_at_the_beginning_of_each_stage_and_then_stays() -> None:
    counts, psis = [], []

    def note(run) -> None:
        counts.append(run.strategy.updates_made)
        psis.append(run.strategy.state_dict()["psi"]["score.1.weight"])

    train(lambda m, o: make(m, o, stages=2, stage_steps=6, updates=2), DATA, steps=20, on_step=note)
    assert counts == [1, 2, 2, 2, 2, 2, 3, 4, 4, 4, 4, 4] + [4] * 8
    same = [torch.equal(one, other) for one, other in itertools.pairwise(psis)]
    assert same == [n in counts[:i] for i, n in enumerate(counts)][1:]


def test_anchors_are_seen_anew_at_times() -> None:
    seen = []

    def note(run) -> None:
        seen.append(run.strategy._states)

    train(lambda m, o: make(m, o, updates=1, refresh_every=4), DATA, steps=10, on_step=note)
    new = [one is not other for one, other in itertools.pairwise(seen)]
    assert [i + 1 for i, is_new in enumerate(new) if is_new] == [4, 8]


def test_a_saved_network_weighs_the_same_elsewhere(learned, tmp_path: Path) -> None:
    learned.strategy.save(tmp_path / "dwm.npz")
    model = copy.deepcopy(learned.model)
    expected = make(learned.model, None, frozen=True)
    expected.load_state_dict(learned.strategy.state_dict() | {"anchors": None})
    loaded = DataWeightingModel.load(tmp_path / "dwm.npz", model, DATA.target, head="4")
    assert loaded.frozen
    assert not loaded.keeps_samples
    found = []
    for strategy, own in (expected, learned.model), (loaded, model):
        weight = WeightedStream(DATA.dataset, strategy).weight(range(BATCH))
        found.append(weight.resolve(losses_of(own, slice(0, BATCH))))
    assert torch.equal(*found)
    assert found[0].std() > 0.1


def test_it_transfers_to_a_wider_model_and_other_data(learned, tmp_path: Path) -> None:
    """Learned on a model 32 wide; used, frozen, on one 96 wide and on samples that it has never seen."""
    learned.strategy.save(tmp_path / "dwm.npz")
    others = Labelled(size=3000)
    others.x, others.y, others.wrong = others.x[1000:], others.y[1000:], others.wrong[1000:]
    others.target = DATA.target
    run = train(
        lambda m, o: DataWeightingModel.load(tmp_path / "dwm.npz", m, DATA.target, head="4"),
        others,
        steps=120,
        model=classifier(96, seed=7),
        adam=False,
    )
    wrong, right = run.late(50)
    assert wrong < 0.6
    assert right > 1.1
    assert run.strategy.updates_made == 0


def test_loading_to_learn_on(learned, tmp_path: Path) -> None:
    learned.strategy.save(tmp_path / "dwm")
    model = classifier()
    with pytest.raises(StrategyError, match="eta=None"):
        DataWeightingModel.load(tmp_path / "dwm", model, DATA.target, head="4", frozen=False)
    run = train(
        lambda m, o: DataWeightingModel.load(tmp_path / "dwm", m, DATA.target, o, head="4", frozen=False, updates=3),
        DATA,
        steps=5,
    )
    assert run.strategy.updates_made == 3
    with pytest.raises(TypeError, match="anchors"):
        DataWeightingModel.load(tmp_path / "dwm", model, DATA.target, head="4", anchors=3)


@pytest.mark.parametrize("after", [1, 5, 9])
def test_it_goes_on_from_a_state(after: int, tmp_path: Path) -> None:
    def steps(strategy, model, optimizer, numbers) -> list[Tensor]:
        stream = WeightedStream(DATA.dataset, strategy)
        loader = stream.loader(batch_size=BATCH)
        weights = []
        for (x, y), weight in itertools.islice(loader, numbers.start, numbers.stop):
            losses = per_sample_cross_entropy(model(x), y)
            optimizer.zero_grad()
            (losses * weight).mean().backward()
            optimizer.step()
            weights.append(weight.tensor())
        return weights

    def fresh():
        model = classifier()
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        options = {"lr": 0.05, "stages": 3, "stage_steps": 4, "updates": 2, "refresh_every": 3}
        return make(model, optimizer, **options), model, optimizer

    first = fresh()
    steps(*first, range(after))
    torch.save([copy.deepcopy(part.state_dict()) for part in first], tmp_path / "checkpoint")
    expected = steps(*first, range(after, 14))
    second = fresh()
    for part, state in zip(second, torch.load(tmp_path / "checkpoint", weights_only=True), strict=True):
        part.load_state_dict(state)
    found = steps(*second, range(after, 14))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert expected[-1].std() > 0.01
    assert second[0].updates_made == 6


def test_states_that_are_not_its_own() -> None:
    strategy = make(classifier(), None, eta=0.1)
    state = strategy.state_dict()
    for wrong in (
        {},
        state | {"more": 1},
        state | {"psi": {}},
        state | {"psi": state["psi"] | {"score.1.bias": torch.zeros(2)}},
        state | {"psi": state["psi"] | {"score.1.bias": torch.tensor([torch.nan])}},
        state | {"adam": {"score.1.bias": {}}},
        state
        | {"adam": {name: dict.fromkeys(("step", "exp_avg", "exp_avg_sq"), torch.ones(2)) for name in state["psi"]}},
        make(classifier(), None, eta=0.1, width=32).state_dict(),
    ):
        with pytest.raises(StateError, match="expected"):
            strategy.load_state_dict(wrong)
    assert all(torch.equal(values, state["psi"][name]) for name, values in strategy.state_dict()["psi"].items())


def test_a_batch_that_is_run_again_is_not_learned_from_again() -> None:
    model = classifier()
    strategy = make(model, sgd(model))
    (x, y), weight = next(iter(WeightedStream(DATA.dataset, strategy).loader(batch_size=BATCH)))
    first = weight.resolve(per_sample_cross_entropy(model(x), y))
    assert torch.equal(weight.resolve(per_sample_cross_entropy(model(x), y)), first)
    assert strategy.updates_made == 1


def test_micro_batches() -> None:
    found = []
    for split in False, True:
        model = classifier()
        strategy = make(model, sgd(model))
        (x, y), weight = next(iter(WeightedStream(DATA.dataset, strategy).loader(batch_size=BATCH)))
        if split:
            with pytest.raises(WindowError):
                weight[:8].resolve(per_sample_cross_entropy(model(x[:8]), y[:8]))
            losses = torch.cat([per_sample_cross_entropy(model(part), y[i : i + 8]) for i, part in _parts(x)])
            weight.resolve(losses)
            products = [losses[i : i + 8] * weight[i : i + 8] for i, _ in _parts(x)]
            torch.cat(products).mean().backward()
        else:
            (per_sample_cross_entropy(model(x), y) * weight).mean().backward()
        found.append((weight.tensor(), model[0].weight.grad))
        assert strategy.updates_made == 1
    torch.testing.assert_close(found[1], found[0])


def _parts(x: Tensor):
    return [(i, x[i : i + 8]) for i in range(0, len(x), 8)]


def test_losses_that_are_not_finite() -> None:
    model = classifier()
    strategy = make(model, sgd(model))
    (x, y), weight = next(iter(WeightedStream(DATA.dataset, strategy).loader(batch_size=BATCH)))
    factor = torch.ones(BATCH)
    factor[[3, 7]] = torch.nan
    found = weight.resolve(per_sample_cross_entropy(model(x), y) * factor)
    fine = factor.isfinite()
    other = make(classifier(), sgd(model))
    assert (found[~fine] == 0).all()
    assert found[fine].mean().item() == pytest.approx(1, abs=1e-5)
    assert strategy.updates_made == 1
    model = classifier()
    other = make(model, sgd(model))
    rest = WeightedStream(TensorDataset(x[fine], y[fine]), other)
    (x, y), weight = next(iter(rest.loader(batch_size=BATCH)))
    torch.testing.assert_close(found[fine], weight.resolve(per_sample_cross_entropy(model(x), y)), rtol=1e-4, atol=1e-5)


def test_training_is_bit_for_bit_what_it_is_with_these_weights_given() -> None:
    def steps(given: list[Tensor] | None) -> tuple[list[Tensor], list[Tensor]]:
        torch.manual_seed(3)
        model = nn.Sequential(
            nn.Linear(DIMS, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, CLASSES)
        )
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
        target = DataLoader(TensorDataset(*DATA.target[0]), batch_size=8, shuffle=True)
        strategy = DataWeightingModel(model, target, optimizer, head="4", anchors=8, refresh_every=2, lr=0.1)
        weights = []
        torch.manual_seed(4)
        stream = WeightedStream(DATA.dataset, strategy)
        for step, ((x, y), weight) in enumerate(itertools.islice(stream.loader(batch_size=BATCH), 6)):
            optimizer.zero_grad()
            losses = per_sample_cross_entropy(model(x), y)
            (losses * (weight if given is None else given[step])).mean().backward()
            optimizer.step()
            weights.append(weight.tensor() if given is None else given[step])
        return weights, [*model.state_dict().values(), torch.rand(3)]

    weights, expected = steps(None)
    assert weights[-1].std() > 0.01
    for one, other in zip(steps(weights)[1], expected, strict=True):
        assert torch.equal(one, other)


def test_under_autocast() -> None:
    model = classifier()
    strategy = make(model, sgd(model), lr=0.1)
    stream = WeightedStream(DATA.dataset, strategy)
    for (x, y), weight in itertools.islice(stream.loader(batch_size=BATCH), 3):
        with torch.autocast("cpu", torch.bfloat16):
            losses = per_sample_cross_entropy(model(x), y)
            (losses * weight).mean().backward()
    assert weight.tensor().std() > 0.01
    assert weight.tensor().dtype == torch.float32
    assert torch.equal(weight.tensor(), weight.resolve(losses))  # the network itself runs in float32
    assert all(p.grad is not None for p in model.parameters())
    assert all(p.dtype == torch.float32 for p in strategy._psi.values())


class Remembering(Adapt):
    """Keeps the weights it gave last."""

    def weights(self, signals: Signals) -> Tensor:
        self.latest = super().weights(signals)
        return self.latest


def test_beside_other_strategies() -> None:
    """Adapt watches the same model: it must not take what is run on the side for training."""
    model = classifier()
    adapt = Remembering(model, [x for x, _ in DATA.target], tau=0.1, head="4")
    product = make(model, sgd(model)) * adapt * LinUpper()
    assert product.keeps_samples
    (x, y), weight = next(iter(WeightedStream(DATA.dataset, product).loader(batch_size=BATCH)))
    weight.resolve(per_sample_cross_entropy(model(x), y))
    phi, c = (nn.functional.normalize(model[:4](v), dim=1) for v in (x, torch.cat([x for x, _ in DATA.target])))
    torch.testing.assert_close(adapt.latest, torch.sigmoid(phi @ c.mean(0) / 0.1).detach())
    for around in Clip(make(model, sgd(model))), Shuffled(make(model, sgd(model))):
        stream = WeightedStream(DATA.dataset, around)
        (x, y), weight = next(iter(stream.loader(batch_size=BATCH)))
        weight.resolve(per_sample_cross_entropy(model(x), y))
        assert around.strategy.updates_made == 1


def test_a_training_that_takes_its_batches_apart() -> None:
    model = classifier()
    rows = [{"x": x, "labels": y} for x, y in zip(DATA.x[:64], DATA.y[:64], strict=True)]

    def loss_fn(model: nn.Module, batch) -> Tensor:
        inputs, labels = (batch["x"], batch["labels"]) if isinstance(batch, dict) else batch
        return per_sample_cross_entropy(model(inputs), labels)

    for as_dict in False, True:
        strategy = make(model, sgd(model), loss_fn=loss_fn)
        stream = WeightedStream(rows, strategy, as_dict=as_dict)
        batches = list(stream.loader(batch_size=16))  # read ahead
        for item in batches:
            batch, weight = (item, stream.weight(item["sample_id"])) if as_dict else item
            labels = batch.pop("labels")
            (per_sample_cross_entropy(model(batch["x"]), labels) * weight).mean().backward()
        assert strategy.updates_made == 4


def test_batches_that_are_not_known() -> None:
    model = classifier()
    stream = WeightedStream(DATA.dataset, make(model, sgd(model)))
    with pytest.raises(StrategyError, match="frozen=True"):
        stream.weight(range(8)).resolve(losses_of(model, slice(0, 8)))
    (x, y), weight = next(iter(DataLoader(stream, batch_size=8)))
    with pytest.raises(StrategyError, match="DataLoader of your own"):
        weight.resolve(per_sample_cross_entropy(model(x), y))
    frozen = WeightedStream(DATA.dataset, make(model, None, frozen=True))
    (x, y), weight = next(iter(DataLoader(frozen, batch_size=8)))
    assert torch.equal(weight.resolve(per_sample_cross_entropy(model(x), y)), torch.ones(8))


def test_no_weights_before_the_losses() -> None:
    model = classifier()
    with pytest.raises(LossError, match="this very step"):
        WeightedStream(DATA.dataset, make(model, sgd(model))).weight(range(8)).tensor()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"stages": 0}, "stages=0"),
        ({"stage_steps": 0}, "stage_steps=0"),
        ({"updates": -1}, "updates=-1"),
        ({"lr": 0}, "lr=0"),
        ({"eta": -1.0}, "eta=-1.0"),
        ({"anchors": 0}, "anchors=0"),
        ({"width": 30}, "width=30"),
        ({"layers": 0}, "layers=0"),
        ({"refresh_every": 0}, "refresh_every=0"),
        ({"derivatives": "none"}, "derivatives='none'"),
        ({"seed": -1}, "seed=-1"),
        ({"head": "9"}, "no module named '9'"),
    ],
)
def test_options_out_of_range(options, found: str) -> None:
    model = classifier()
    with pytest.raises(StrategyError, match=found):
        DataWeightingModel(model, DATA.target, sgd(model), **({"head": "4"} | options))


def test_targets_that_are_none() -> None:
    model = classifier()
    with pytest.raises(StrategyError, match="nothing in it"):
        DataWeightingModel(model, [], sgd(model), head="4")
    stream = WeightedStream(DATA.dataset, make(model, sgd(model), anchors=65))
    (x, y), weight = next(iter(stream.loader(batch_size=8)))
    with pytest.raises(StrategyError, match="64 samples, anchors=65"):
        weight.resolve(per_sample_cross_entropy(model(x), y))


def test_it_is_told_by_its_options_and_goes_without_a_trace() -> None:
    model = classifier()
    strategy = make(model, sgd(model), updates=3)
    assert repr(strategy).startswith("DataWeightingModel(eta=None, stages=5, stage_steps=1000, updates=3, lr=0.001")
    del strategy
    gc.collect()
    assert not model._forward_pre_hooks
    assert not model[4]._forward_pre_hooks


def test_a_batch_in_another_order() -> None:
    """The samples of the update are those of the losses, place by place."""
    found, order = [], torch.randperm(BATCH, generator=torch.Generator().manual_seed(0))
    for turned in False, True:
        model = classifier()
        strategy = stirred(make(model, sgd(model), derivatives="exact"))
        (x, y), weight = next(iter(WeightedStream(DATA.dataset, strategy).loader(batch_size=BATCH)))
        if turned:
            x, y, weight = x[order], y[order], weight[order]
        weight.resolve(per_sample_cross_entropy(model(x), y))
        found.append(strategy.state_dict()["psi"]["score.1.weight"])
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)


def test_inside_a_compiled_step() -> None:
    torch._dynamo.reset()
    model = classifier()
    strategy = make(model, sgd(model), lr=0.05)

    @torch.compile(backend="eager")
    def loss_of(x: Tensor, y: Tensor, weight) -> Tensor:
        losses = per_sample_cross_entropy(model(x), y)
        return (losses * weight).mean()

    for (x, y), weight in itertools.islice(WeightedStream(DATA.dataset, strategy).loader(batch_size=BATCH), 4):
        loss_of(x, y, weight).backward()
    assert strategy.updates_made == 4
    assert weight.tensor().std() > 0.01


def test_a_sample_whose_effect_is_not_finite_has_no_say() -> None:
    model, calls = classifier(), itertools.count()

    def loss_fn(model: nn.Module, batch) -> Tensor:
        broken = torch.tensor([0.0, torch.nan] if next(calls) >= 3 else [0.0, 0.0]).repeat(BATCH // 2)
        return per_sample_cross_entropy(model(batch[0]), batch[1]) + broken[: len(batch[0])]

    strategy = make(model, sgd(model), loss_fn=loss_fn)  # its calls: anchors, batch, target, and two for the effect
    (x, y), weight = next(iter(WeightedStream(DATA.dataset, strategy).loader(batch_size=BATCH)))
    weight.resolve(per_sample_cross_entropy(model(x), y))
    assert strategy.not_finite == BATCH // 2
    assert all(parameter.isfinite().all() for parameter in strategy._psi.values())
    assert weight.tensor().std() > 0


def test_a_stream_goes_on_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    def fresh():
        model = classifier()
        optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
        options = {"lr": 0.02, "stage_steps": 9, "updates": 4, "refresh_every": 5}
        return model, optimizer, WeightedStream(DATA.dataset, make(model, optimizer, **options))

    def steps(model, optimizer, stream, stop: int) -> list[tuple[list[int], Tensor]]:
        found: list[tuple[list[int], Tensor]] = []
        while len(found) < stop:
            for (x, y), weight in stream.loader(batch_size=BATCH, shuffle=True):
                losses = per_sample_cross_entropy(model(x), y)
                optimizer.zero_grad()
                (losses * weight).mean().backward()
                optimizer.step()
                found.append((weight.ids.tolist(), weight.tensor()))
                if len(found) == stop:
                    break
        return found

    expected = steps(*fresh(), 90)[70:]
    first, second = fresh(), fresh()
    steps(*first, 70)  # of 63 in an epoch
    torch.save([part.state_dict() for part in first], tmp_path / "checkpoint")
    for part, state in zip(second, torch.load(tmp_path / "checkpoint", weights_only=True), strict=True):
        part.load_state_dict(state)
    for (ids, weights), (expected_ids, expected_weights) in zip(steps(*second, 20), expected, strict=True):
        assert ids == expected_ids
        assert torch.equal(weights, expected_weights)
