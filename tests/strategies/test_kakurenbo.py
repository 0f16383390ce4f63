"""Kakurenbo: which samples an epoch hides, what the others weigh, and that it is the same with and without pruning."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from weighted_stream import (
    Clip,
    Kakurenbo,
    LinUpper,
    StateError,
    Strategy,
    StrategyError,
    Uniform,
    WeightedStream,
    WeightStore,
)
from weighted_stream.strategies.kakurenbo import Hidden, kakurenbo


def epoch(stream: WeightedStream, losses: Tensor | None = None, **arguments: Any) -> dict[int, float]:
    """One epoch in which the samples are their own losses: the weight of each id."""
    weights = {}
    for batch, weight in stream.loader(**arguments):
        found = weight.resolve(batch if losses is None else losses[weight.ids])
        weights |= dict(zip(weight.ids.tolist(), found.tolist(), strict=True))
    return weights


def primed(strategy: Kakurenbo, losses: NDArray[np.float64]) -> WeightedStream:
    """A stream whose store knows the losses, at the beginning of an epoch."""
    store = WeightStore()
    store.update(np.arange(len(losses)), loss=losses)
    return WeightedStream(torch.as_tensor(losses), strategy, store=store)


def test_the_rule_by_hand() -> None:
    losses = np.array([0.3, 0.1, 2.0, 0.2, 0.4, 0.05, 1.0, 0.15, 3.0, 0.25], np.float32)
    # Sure (exp(-l) >= 0.7, l <= 0.3567): 0.05 0.1 0.15 0.2 0.25 0.3.
    assert kakurenbo(losses, 10, 0.4) == Hidden(float(np.float32(0.2)), 1.0, 0.4)
    assert kakurenbo(losses, 10, 0.8) == Hidden(float(np.float32(0.3)), 1.0, 0.6)
    assert kakurenbo(losses, 10, 0.8, confidence=0.0) == Hidden(2.0 / 2, 1.0, 0.8)
    assert kakurenbo(losses, 10, 0.8, confidence=0.99).share == 0.0
    assert math.isnan(kakurenbo(losses, 10, 0.09).below)
    assert kakurenbo(np.zeros(8, np.float32), 8, 0.25) == Hidden(0.0, 0.25, 0.25)


@given(
    st.lists(st.floats(0, 5, width=32) | st.sampled_from([0.0, 0.25]), max_size=40),
    st.floats(0, 0.99),
    st.sampled_from([0.0, 0.3, 0.7, 0.95]),
    st.integers(0, 10),
)
def test_never_more_than_the_share_and_only_the_sure(
    values: list[float], share: float, confidence: float, more: int
) -> None:
    losses, count = np.array(values, np.float32), len(values) + more
    below, ties, hidden = kakurenbo(losses, count, share, confidence)
    less, equal = (losses < below).sum(), (losses == np.float32(below)).sum()
    assert hidden <= share + 1e-6
    if not hidden:
        assert less == 0
        return
    assert 0 < ties <= 1
    assert less + ties * equal == pytest.approx(hidden * count)
    assert confidence == 0 or math.exp(-below) >= confidence - 1e-6


def test_confidence_is_that_of_a_right_prediction() -> None:
    logits = torch.randn(2000, 4, generator=torch.manual_seed(0)) * 3
    labels = torch.arange(2000) % 4
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    top, guess = logits.softmax(1).max(1)
    published = (guess == labels) & (top >= 0.7)
    assert 0.1 < published.float().mean() < 0.9
    assert torch.equal(losses <= -math.log(0.7), published)


def test_hidden_samples_weigh_nothing_and_the_others_for_them() -> None:
    losses = np.linspace(0.0, 1.0, 100)
    stream = primed(Kakurenbo(share=0.2), losses)
    weights = epoch(stream, batch_size=10)
    assert [number for number, weight in weights.items() if not weight] == list(range(20))
    assert set(weights.values()) == {0.0, 1.25}
    assert np.mean(list(weights.values())) == pytest.approx(1.0)
    assert stream.strategy.hidden == 0.2  # type: ignore[attr-defined]
    epoch(stream, torch.from_numpy(losses[::-1].copy()), batch_size=10)
    assert min(number for number, weight in epoch(stream, batch_size=10).items() if not weight) == 80


def test_a_batch_run_again_hides_the_same() -> None:
    stream = primed(Kakurenbo(share=0.5), np.linspace(0.01, 0.3, 20))
    ((_, weight),) = stream.loader(batch_size=20)
    first = weight.resolve(torch.linspace(3.0, 0.01, 20))
    assert (first == 0).tolist() == [True] * 10 + [False] * 10
    assert torch.equal(weight.resolve(torch.linspace(3.0, 0.01, 20)), first)


def test_without_losses_it_is_plain_training_and_the_share_falls() -> None:
    stream = WeightedStream(torch.zeros(50), Kakurenbo(epochs=10, share=0.5))
    shares = []
    for _ in range(10):
        hidden = [weight == 0 for weight in epoch(stream, batch_size=10).values()]
        shares.append(stream.strategy.hidden)  # type: ignore[attr-defined]
        assert abs(np.mean(hidden) - shares[-1]) < 4 * math.sqrt(0.25 / 50)
    assert shares == [0.0, 0.5, 0.5, 0.4, 0.4, 0.4, 0.3, 0.3, 0.2, 0.2]


def test_of_equal_losses_chance_decides_anew_each_epoch() -> None:
    stream = primed(Kakurenbo(share=0.5), np.zeros(400))
    first, second = ({n for n, weight in epoch(stream, batch_size=40).items() if not weight} for _ in range(2))
    assert 150 < len(first) < 250
    assert 50 < len(first & second) < 150


def test_pruning_takes_the_same_steps_as_weighting() -> None:
    losses = np.random.default_rng(2).gamma(1.0, 0.4, size=120)
    steps = []
    for prune in (False, True):
        stream = primed(Kakurenbo(prune=prune, share=0.4), losses)
        steps.append([(len(weight), (batch * weight).mean().item()) for batch, weight in stream.loader(batch_size=25)])
    assert [size for size, _ in steps[0]] == [25, 25, 25, 25, 20]
    assert sum(few for few, _ in steps[1]) == 72
    assert np.allclose([mean for _, mean in steps[0]], [mean for _, mean in steps[1]], rtol=1e-6)


def test_what_was_left_out_takes_part_in_the_next_epoch() -> None:
    stream = primed(Kakurenbo(prune=True, share=0.25), np.linspace(0.0, 0.3, 80))
    hidden = [set(range(80)) - set(epoch(stream, batch_size=16, shuffle=True)) for _ in range(4)]
    assert hidden == [set(range(20)), set(range(20, 40))] * 2


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_a_batch_of_which_nothing_is_left(workers: int) -> None:
    stream = primed(Kakurenbo(prune=True, share=0.4), np.array([0.0, 0.0, 1.0, 1.0, 1.0]))
    weights = epoch(stream, batch_size=2, num_workers=workers)
    assert weights.keys() == {0, 2, 3, 4}
    assert weights[0] == 0.0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_leaves_out_what_it_has_learnt(workers: int) -> None:
    """Labels of one half can be learnt, those of the other cannot: as good with four fifths of the samples."""
    torch.manual_seed(0)
    x = torch.randn(400, 4)
    easy = torch.arange(400) % 2 == 0
    x[:, 0] = torch.where(easy, x[:, 0].sign() * (1 + x[:, 0].abs()), 0.0)
    labels = torch.where(easy, (x[:, 0] > 0).long(), torch.randint(2, (400,)))
    data = list(zip(x, labels, strict=True))

    def trained(strategy: Strategy) -> tuple[float, list[int]]:
        torch.manual_seed(1)
        model = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        stream, handed = WeightedStream(data, strategy), []
        for _ in range(8):
            for (a, b), weight in stream.loader(batch_size=20, shuffle=True, num_workers=workers):
                optimizer.zero_grad()
                (nn.functional.cross_entropy(model(a), b, reduction="none") * weight).mean().backward()
                optimizer.step()
                handed += weight.ids.tolist()
        with torch.no_grad():
            return nn.functional.cross_entropy(model(x[easy]), labels[easy]).item(), handed

    plain, everything = trained(Uniform())
    pruned, handed = trained(Kakurenbo(prune=True, share=0.4))
    counts = np.bincount(handed, minlength=400)
    assert len(handed) < 0.8 * len(everything)
    assert counts[easy.numpy()].mean() < 6
    assert counts[~easy.numpy()].mean() > 7
    assert pruned < 1.5 * plain < 0.1


def test_known_before_the_losses_and_the_same_for_parts() -> None:
    stream = primed(Kakurenbo(), np.linspace(0, 1, 64))
    ((batch, weight),) = stream.loader(batch_size=64)
    whole = weight.tensor()
    assert torch.equal(whole, torch.where(batch < batch[19], 0.0, 64 / 45))
    parts = [weight[:20].resolve(batch[:20]), weight[20:].resolve(batch[20:])]
    assert torch.equal(torch.cat(parts), whole)


def test_its_state_goes_on_in_the_middle_of_an_epoch() -> None:
    losses = np.zeros(60)
    first, second = (primed(Kakurenbo(share=0.5), losses) for _ in range(2))
    (one, *rest), other = list(first.loader(batch_size=20)), list(second.loader(batch_size=20))[1:]
    one[1].resolve(torch.ones(20))
    second.strategy.load_state_dict(json.loads(json.dumps(first.strategy.state_dict())))
    for (_, weight), (_, twin) in zip(rest, other, strict=True):
        assert torch.equal(weight.tensor(), twin.tensor())
    with pytest.raises(StateError):
        second.strategy.load_state_dict({"epoch": 1})


def test_in_a_product_and_clipped() -> None:
    losses = np.linspace(0.0, 1.0, 100)
    product = WeightedStream(torch.from_numpy(losses), LinUpper() * Kakurenbo(share=0.2))
    assert 0.0 not in epoch(product, batch_size=100).values()
    weights = epoch(product, batch_size=100)
    assert [number for number, weight in weights.items() if not weight] == list(range(20))
    clipped = WeightedStream(torch.from_numpy(losses), Clip(Kakurenbo(share=0.2), low=0.5, high=1.1))
    epoch(clipped, batch_size=100)
    assert sorted(set(epoch(clipped, batch_size=100).values())) == pytest.approx([0.5, 1.1])
    with pytest.raises(StrategyError, match="selecting"):
        Clip(Kakurenbo(prune=True))


def test_a_loader_of_ones_own_has_to_tell_the_epoch() -> None:
    stream = primed(Kakurenbo(), np.linspace(0, 1, 8))
    _, weight = next(iter(DataLoader(stream, batch_size=8)))  # type: ignore[arg-type]
    with pytest.raises(StrategyError, match="which epoch"):
        weight.tensor()
    stream.set_epoch(0)
    assert weight.tensor().tolist()[:2] == [0.0, 0.0]


@pytest.mark.parametrize(
    "options",
    [{"epochs": 0}, {"share": 0}, {"share": 1}, {"confidence": 0}, {"confidence": 1}, {"seed": -1}, {"prune": "no"}],
)
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(StrategyError):
        Kakurenbo(**options)
