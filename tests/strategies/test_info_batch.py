"""InfoBatch: the formula, the expected gradient of plain training, epochs, and the published code's faults."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from weighted_stream import InfoBatch, LinUpper, StrategyError, WeightedStream, WeightStore
from weighted_stream.strategies.chance import chance
from weighted_stream.strategies.info_batch import info_batch


def epoch(stream: WeightedStream, losses: Tensor | None = None, **arguments: Any) -> dict[int, float]:
    """One epoch in which the samples are their own losses: the weight of each id."""
    weights = {}
    for batch, weight in stream.loader(**arguments):
        found = weight.resolve(batch if losses is None else losses[weight.ids])
        weights |= dict(zip(weight.ids.tolist(), found.tolist(), strict=True))
    return weights


def primed(n: int, strategy: InfoBatch, losses: NDArray[np.float64]) -> WeightedStream:
    """A stream whose store knows the losses, at the beginning of an epoch."""
    store = WeightStore()
    store.update(np.arange(n), loss=losses)
    return WeightedStream(torch.as_tensor(losses), strategy, store=store)


def test_the_published_rule() -> None:
    losses = np.array([0.1, 0.1, 0.99, 1.0, 3.0, np.nan], np.float32)
    drawn = np.array([0.0, 0.49, 0.5, 0.0, 0.0, 0.0])
    assert info_batch(losses, 1.0, drawn).tolist() == [0, 0, 2, 1, 1, 1]
    assert info_batch(losses, 1.0, drawn, ratio=0.75).tolist() == [0, 0, 0, 1, 1, 1]
    assert info_batch(losses, 1.0, drawn + 0.4, ratio=0.75).tolist() == [0, 4, 4, 1, 1, 1]
    assert info_batch(losses, float("nan"), drawn).tolist() == [1] * 6


def test_draws_are_uniform_and_independent() -> None:
    ids = np.arange(2**24, 2**24 + 20_000)
    steps = np.stack([chance(ids, 0, step) for step in range(20)])
    assert steps.min() >= 0
    assert steps.max() < 1
    counts = np.histogram(steps, bins=20, range=(0, 1))[0]
    assert abs(counts - 20_000).max() < 5 * np.sqrt(20_000)
    correlations = np.corrcoef(steps) - np.eye(20)
    assert abs(correlations).max() < 5 / np.sqrt(20_000)
    assert abs(np.corrcoef(steps[:, 1:].ravel(), steps[:, :-1].ravel())[0, 1]) < 5 / np.sqrt(400_000)
    assert not np.array_equal(chance(ids, 0, 1), chance(ids, 1, 1))


def test_below_the_mean_of_all_stored_losses_half_counts_twice() -> None:
    losses = np.random.default_rng(0).gamma(2.0, size=4000)
    stream = primed(4000, InfoBatch(epochs=10), losses)
    weights = epoch(stream, batch_size=100)
    below = [weight for number, weight in weights.items() if losses[number] < losses.mean()]
    above = [weight for number, weight in weights.items() if losses[number] >= losses.mean()]
    assert set(above) == {1.0}
    assert set(below) == {0.0, 2.0}
    assert abs(np.mean(below) - 1) < 5 / np.sqrt(len(below))


def test_without_losses_and_at_the_end_it_is_plain_training() -> None:
    stream = WeightedStream(torch.arange(64.0), InfoBatch(epochs=8))
    plain = [set(epoch(stream, batch_size=16).values()) == {1.0} for _ in range(8)]
    assert plain == [True, False, False, False, False, False, False, True]
    endless = WeightedStream(torch.arange(64.0), InfoBatch())
    endless.set_epoch(1000)
    assert set(epoch(endless, batch_size=16).values()) == {1.0}
    assert set(epoch(endless, batch_size=16).values()) == {0.0, 1.0, 2.0}


def test_the_mean_is_that_of_the_beginning_of_the_epoch() -> None:
    stream = primed(40, InfoBatch(), np.arange(40.0))
    weights = epoch(stream, torch.zeros(40), batch_size=1)  # would pull a running mean down
    assert all((weights[number] == 1.0) == (number >= 20) for number in range(40))


def test_the_expected_gradient_is_that_of_plain_training() -> None:
    n, steps = 32, 1500
    rng = np.random.default_rng(1)
    losses, gradients = rng.gamma(2.0, size=n), torch.from_numpy(rng.normal(1.0, 1.0, size=(n, 5)))
    plain = gradients.mean(0)
    below = torch.from_numpy(losses < losses.mean())
    spread = gradients[below].square().sum(0).sqrt() / n  # of one step: a weight of 0 or 2 has variance 1
    for prune in (False, True):
        stream = primed(n, InfoBatch(prune=prune), losses)
        total, handed = torch.zeros(5, dtype=torch.float64), 0
        loader = stream.loader(batch_size=n)
        for _ in range(steps):
            ((_, weight),) = loader
            total += (gradients[weight.ids] * weight.resolve(torch.from_numpy(losses)[weight.ids])[:, None]).mean(0)
            handed += len(weight)
        assert ((total / steps - plain).abs() < 4 * spread / np.sqrt(steps)).all()
        share = 1 - 0.5 * below.double().mean().item() if prune else 1.0
        assert abs(handed / (n * steps) - share) < 0.01


def test_pruning_takes_the_same_steps_as_weighting() -> None:
    losses = np.random.default_rng(2).gamma(2.0, size=120)
    values = torch.from_numpy(losses)
    steps = []
    for prune in (False, True):
        stream = primed(120, InfoBatch(epochs=4, prune=prune), losses)
        steps.append([(len(weight), (batch * weight).mean().item()) for batch, weight in stream.loader(batch_size=25)])
    assert [size for size, _ in steps[0]] == [25, 25, 25, 25, 20]  # it ends, with its last batch
    assert all(few < many for (few, _), (many, _) in zip(steps[1], steps[0], strict=True))
    assert np.allclose([mean for _, mean in steps[0]], [mean for _, mean in steps[1]], rtol=1e-6)
    assert values.dtype is torch.float64


def test_what_was_pruned_is_remembered_and_comes_back() -> None:
    losses = np.full(64, 0.5)
    losses[0] = 100.0
    stream = primed(64, InfoBatch(prune=True), losses)
    pruned: set[int] = set(range(1, 64))
    for _ in range(12):
        handed = epoch(stream, batch_size=16)
        assert 0 < len(handed) < 64
        pruned -= set(handed)
    assert not pruned  # each had its turn
    assert (stream.store.get(range(64))["last_step"] >= 44).all()


def test_of_a_batch_without_weight_one_sample_is_handed_over() -> None:
    stream = primed(2, InfoBatch(prune=True), np.array([0.0, 1.0]))
    handed = [epoch(stream, batch_size=1) for _ in range(20)]
    assert {weights[0] for weights in handed} == {0.0, 2.0}
    assert {weights[1] for weights in handed} == {1.0}


def test_ids_beyond_float32_and_losses_in_bfloat16() -> None:
    base = 2**40 + 1
    store = WeightStore()
    store.update(base + np.arange(64), loss=np.arange(64.0))
    stream = WeightedStream([{"n": n} for n in range(64)], InfoBatch(), store=store, id_fn=lambda s: base + int(s["n"]))
    for batch, weight in stream.loader(batch_size=10):
        found = weight.resolve(batch["n"].to(torch.bfloat16))
        assert weight.ids.tolist() == (base + batch["n"]).tolist()
        assert found.dtype is torch.float32
        assert ((found == 1) == (batch["n"] >= 32)).all()
    assert stream.store.get([base + 63])["visits"].tolist() == [2]


@pytest.mark.parametrize("prune", [False, True])
def test_a_trainer_that_looks_one_batch_ahead(prune: bool) -> None:
    losses = np.random.default_rng(3).gamma(2.0, size=60)
    stream = primed(60, InfoBatch(prune=prune), losses)
    loader = iter(stream.loader(batch_size=10))
    following = next(loader, None)
    while following is not None:
        (batch, weight), following = following, next(loader, None)
        assert torch.equal(batch, torch.from_numpy(losses)[weight.ids])
        assert torch.equal((batch * weight).float(), (batch * weight.tensor()).float())
    assert (stream.store.get(range(60))["last_step"] == np.arange(60) // 10).all()


def test_workers_that_are_spawned() -> None:
    stream = WeightedStream(torch.arange(12.0), InfoBatch(prune=True))
    for _ in range(2):
        weights = epoch(stream, batch_size=5, num_workers=1, multiprocessing_context="spawn", persistent_workers=True)
    assert all(weights[number] > 0 for number in range(6, 12))


def test_a_batch_run_again_or_in_parts_gets_the_same_weights() -> None:
    stream = primed(64, InfoBatch(), np.arange(64.0))
    ((batch, weight),) = stream.loader(batch_size=64)
    whole = weight.resolve(batch)
    assert torch.equal(weight.resolve(batch.clone()), whole)
    assert torch.equal(torch.cat([weight[:20].resolve(batch[:20] + 1), weight[20:].resolve(batch[20:] + 1)]), whole)


@pytest.mark.parametrize("size", [7, 64])
def test_what_a_batch_told_the_store_does_not_change_its_own_weights(size: int) -> None:
    stream = primed(64, InfoBatch(), np.arange(64.0))
    ((batch, weight),) = stream.loader(batch_size=64)
    parts = [slice(start, start + size) for start in range(0, 64, size)]
    first = torch.cat([weight[part].resolve(63.0 - batch[part]) for part in parts])
    assert set(first[:32].tolist()) == {0.0, 2.0}
    assert set(first[32:].tolist()) == {1.0}
    assert torch.equal(weight.resolve(63.0 - batch), first)
    assert torch.equal(weight[20:40].resolve(batch[20:40]), first[20:40])


def test_copies_in_a_batch_share_a_draw_and_the_next_batch_draws_anew() -> None:
    stream = primed(64, InfoBatch(), np.arange(64.0))
    drawn = []
    for batch, weight in stream.loader(batch_size=64, sampler=[*range(32), *range(32)] * 2):
        whole = weight.resolve(batch)
        assert torch.equal(whole[:32], whole[32:])
        drawn.append(whole[:32].tolist())
    assert drawn[0] != drawn[1]


def test_known_before_the_losses() -> None:
    stream = primed(64, InfoBatch(), np.arange(64.0))
    for batch, weight in stream.loader(batch_size=64):
        assert torch.equal(weight.tensor(), weight.resolve(batch))


def test_a_restart_goes_on_with_the_store(tmp_path: Any) -> None:
    with WeightedStream(torch.arange(64.0), InfoBatch(), store=tmp_path / "store") as stream:
        assert set(epoch(stream, batch_size=16).values()) == {1.0}
    with WeightedStream(torch.arange(64.0), InfoBatch(), store=tmp_path / "store") as stream:
        assert set(epoch(stream, batch_size=16).values()) == {0.0, 1.0, 2.0}


def test_a_loader_of_ones_own_has_to_tell_the_epoch() -> None:
    stream = primed(64, InfoBatch(), np.arange(64.0))
    _, weight = next(iter(DataLoader(stream, batch_size=64)))  # type: ignore[arg-type]
    with pytest.raises(StrategyError, match="which epoch"):
        weight.tensor()
    stream.set_epoch(0)
    for batch, weight in DataLoader(stream, batch_size=64):  # type: ignore[arg-type]
        assert set(weight.resolve(batch).tolist()) == {0.0, 1.0, 2.0}


def test_in_a_product_it_is_told_of_epochs() -> None:
    stream = primed(64, LinUpper() * InfoBatch(), np.arange(64.0))  # type: ignore[arg-type]
    assert 10 < list(epoch(stream, batch_size=64).values()).count(0.0) < 22


@pytest.mark.parametrize(
    "options",
    [{"epochs": 0}, {"ratio": 0}, {"ratio": 1}, {"delta": 0}, {"delta": 1}, {"seed": -1}, {"prune": "no"}],
)
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(StrategyError):
        InfoBatch(**options)
