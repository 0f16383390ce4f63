"""Domain weights: DoReMi and OnlineDataMixing, their formulas, and what they share."""

from __future__ import annotations

import io
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
    DoReMi,
    LinUpper,
    LossError,
    OnlineDataMixing,
    Shuffled,
    StateError,
    StrategyError,
    WeightedStream,
    WeightStore,
    make_strategy,
)
from weighted_stream.strategies.do_re_mi import doremi
from weighted_stream.strategies.domains import DomainStrategy
from weighted_stream.strategies.online_data_mixing import exp3

NAMES = ["code", "text", "text", "web"]
"""Shares 1/4, 1/2, 1/4."""


def rows(n: int = 64, losses: dict[str, float] | None = None) -> list[dict[str, Any]]:
    losses = losses or {"code": 4.0, "text": 1.0, "web": 2.0}
    return [{"domain": NAMES[i % 4], "loss": losses[NAMES[i % 4]]} for i in range(n)]


def known(n: int, loss: float | NDArray[np.float32]) -> WeightStore:
    store = WeightStore()
    store.update(range(n), loss=np.broadcast_to(np.float32(loss), n))
    return store


def made(kind: str, **options: Any) -> DomainStrategy:
    return DoReMi(known(1000, 0.5), **options) if kind == "DoReMi" else OnlineDataMixing(**options)


KINDS = ["DoReMi", "OnlineDataMixing"]


def streamed(strategy: Any, data: list[dict[str, Any]], **options: Any) -> WeightedStream:
    return WeightedStream(data, strategy, group_fn="domain", **options)


def run(stream: WeightedStream, epochs: int = 1, **arguments: Any) -> list[dict[str, float]]:
    """Train; the weight of each domain in each batch, the same for all its samples."""
    found = []
    for _ in range(epochs):
        for batch, weight in stream.loader(**{"batch_size": 8, **arguments}):
            weights = weight.resolve(batch["loss"].float())
            table: dict[str, set[float]] = {}
            for name, value in zip(batch["domain"], weights.tolist(), strict=True):
                table.setdefault(name, set()).add(value)
            assert all(len(values) == 1 for values in table.values())
            found.append({name: values.pop() for name, values in table.items()})
    return found


# --- the formulas ---

WEIGHTS = st.lists(st.floats(1e-3, 1), min_size=1, max_size=6)


def test_doremi_by_hand() -> None:
    alpha = doremi(np.array([0.5, 0.25, 0.25]), np.array([0.0, math.log(2), math.log(2)]), eta=1.0, mix=0.3)
    assert alpha.tolist() == pytest.approx([0.7 / 3 + 0.1] * 3)
    alpha = doremi(np.array([0.6, 0.4]), np.array([1.0, 0.5]), eta=2.0, mix=0.001)
    first = 0.6 * math.exp(2.0) / (0.6 * math.exp(2.0) + 0.4 * math.exp(1.0))
    assert alpha.tolist() == pytest.approx([0.999 * first + 0.0005, 0.999 * (1 - first) + 0.0005])


@given(WEIGHTS, st.data(), st.floats(0.01, 5), st.sampled_from([1e-4, 1e-3, 0.1]))
def test_doremi_stays_a_distribution_and_raises_the_excess(
    values: list[float], data: st.DataObject, eta: float, mix: float
) -> None:
    alpha = np.array(values) / sum(values)
    excess = np.array([data.draw(st.floats(0, 500)) for _ in values])
    new = doremi(alpha, excess, eta, mix)
    assert new.sum() == pytest.approx(1.0)
    assert (new >= mix / len(new) * (1 - 1e-9)).all()
    pure = (new - mix / len(new)) / (1 - mix)
    for i in range(len(new)):
        for j in range(len(new)):
            if excess[i] >= excess[j] and pure[j] > 1e-9:
                assert pure[i] / pure[j] >= alpha[i] / alpha[j] * (1 - 1e-6)


def test_exp3_by_hand() -> None:
    rewards, p, eps = np.zeros(2), np.array([0.5, 0.5]), 0.5
    rewards, p, eps = exp3(rewards, p, np.array([4.0, np.nan]), 1, eps)
    assert rewards.tolist() == [0.8, 0.0]
    assert eps == 0.5  # sqrt(ln 2 / 2) is more
    assert p.tolist() == [0.5, 0.5]
    rewards, p, eps = exp3(rewards, p, np.array([2.0, 1.0]), 4, eps)
    assert rewards.tolist() == pytest.approx([1.2, 0.2])
    assert eps == pytest.approx(math.sqrt(math.log(2) / 8))
    soft = math.exp(0.6) / (math.exp(0.6) + math.exp(0.1))
    assert p.tolist() == pytest.approx([(1 - 2 * eps) * soft + eps, (1 - 2 * eps) * (1 - soft) + eps])


@given(WEIGHTS, st.data(), st.integers(1, 10**6))
def test_exp3_stays_a_distribution_and_goes_on_exploring(values: list[float], data: st.DataObject, t: int) -> None:
    count, p = len(values), np.array(values) / sum(values)
    losses = np.array([data.draw(st.floats(0, 1000) | st.just(math.nan)) for _ in values])
    rewards = np.array([data.draw(st.floats(0, 1e5)) for _ in values])
    new, probabilities, eps = exp3(rewards, p, losses, t, data.draw(st.floats(0, 1 / count)))
    assert 0 <= eps <= 1 / count
    assert probabilities.sum() == pytest.approx(1.0)
    assert (probabilities >= eps * (1 - 1e-9)).all()
    assert (new >= rewards).all()
    assert np.array_equal(new[np.isnan(losses)], rewards[np.isnan(losses)])
    order = new.argsort(kind="stable")
    assert (np.diff(probabilities[order]) >= -1e-12).all()


# --- the strategies ---


@pytest.mark.parametrize("workers", [0, 2])
def test_doremi_follows_its_definition(workers: int) -> None:
    rng = np.random.default_rng(0)
    losses, reference = rng.gamma(2.0, size=64).astype(np.float32), rng.gamma(1.0, size=64).astype(np.float32)
    data = [{"domain": NAMES[i % 4], "loss": losses[i]} for i in range(64)]
    strategy = DoReMi(known(64, reference), eta=0.5, mix=0.01)
    found = run(streamed(strategy, data), num_workers=workers)
    alpha, total = np.full(3, 1 / 3), np.zeros(3)
    share = np.array([0.25, 0.5, 0.25])
    assert found[0] == {"code": 1.0, "text": 1.0, "web": 1.0}
    for at in range(8):
        if at:
            assert list(found[at].values()) == pytest.approx((alpha / share).tolist(), rel=1e-6)
        part = slice(8 * at, 8 * at + 8)
        excess = np.maximum(losses[part] - reference[part], 0)
        means = [excess[[NAMES[i % 4] == name for i in range(8)]].mean() for name in ("code", "text", "web")]
        alpha = alpha * np.exp(0.5 * np.array(means))
        alpha = 0.99 * alpha / alpha.sum() + 0.01 / 3
        total += alpha
    assert strategy.domain_weights == pytest.approx(dict(zip(("code", "text", "web"), alpha, strict=True)))
    assert strategy.average == pytest.approx(dict(zip(("code", "text", "web"), total / 8, strict=True)))


@pytest.mark.parametrize("workers", [0, 2])
def test_online_data_mixing_follows_its_definition(workers: int) -> None:
    losses = np.random.default_rng(0).gamma(2.0, size=64).astype(np.float32)
    data = [{"domain": NAMES[i % 4], "loss": losses[i]} for i in range(64)]
    strategy = OnlineDataMixing({"code": 1, "text": 2, "web": 1})
    found = run(streamed(strategy, data), num_workers=workers)
    rewards, p, eps = np.zeros(3), np.full(3, 1 / 3), 1 / 3
    share = np.array([0.25, 0.5, 0.25])
    for at in range(8):
        assert list(found[at].values()) == pytest.approx((p / share).tolist(), rel=1e-6)
        means = [losses[8 * at : 8 * at + 8][[NAMES[i % 4] == name for i in range(8)]].mean() for name in p_names]
        rewards, p, eps = exp3(rewards, p, np.array(means, np.float64), at + 1, eps)
    assert strategy.domain_weights == pytest.approx(dict(zip(p_names, p, strict=True)))


p_names = ["code", "text", "web"]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_average_one_over_the_stream(kind: str) -> None:
    strategy = made(kind, shares={"code": 0.25, "text": 0.5, "web": 0.25})
    for table in run(streamed(strategy, rows(400))):
        assert 0.25 * table["code"] + 0.5 * table["text"] + 0.25 * table["web"] == pytest.approx(1.0)
        assert sum(strategy.domain_weights.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_domain_with_most_to_learn_gains(kind: str) -> None:
    strategy = made(kind)
    tables = run(streamed(strategy, rows(400)))
    weights = strategy.domain_weights
    assert weights["code"] > weights["web"] > weights["text"]
    assert tables[-1]["code"] > tables[-1]["web"] > tables[-1]["text"]


def test_proportions_cannot_run_away() -> None:
    data = rows(8, {"code": 400.0, "text": 0.0, "web": 0.0})
    group, mixing = DoReMi(known(8, 0.0), mix=1e-3), OnlineDataMixing()
    for strategy in (group, mixing):
        stream = streamed(strategy, data)
        stepped = run(stream, epochs=300)
        assert all(np.isfinite(list(table.values())).all() for table in stepped)
    assert min(group.domain_weights.values()) == pytest.approx(1e-3 / 3)
    assert min(mixing.domain_weights.values()) >= math.sqrt(math.log(3) / (3 * 300)) * (1 - 1e-9)
    equal = OnlineDataMixing()
    run(streamed(equal, rows(8, {"code": 4.0, "text": 1.0, "web": 1.0})), epochs=300)
    assert 0.4 < equal.domain_weights["code"] < 0.8  # dividing by the proportion holds the others up


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["model", "callable", "store"])
def test_doremi_raises_what_can_be_learnt_and_not_what_is_noise(kind: str, workers: int) -> None:
    torch.manual_seed(0)
    symbols = torch.arange(600) % 4
    noisy = (torch.arange(600) // 4) % 2 == 0
    labels = torch.where(noisy, torch.randint(4, (600,)), symbols)
    data = [
        {"x": int(x) + 4 * is_noise, "y": int(y), "domain": "noise" if is_noise else "new"}
        for x, y, is_noise in zip(symbols, labels, noisy.tolist(), strict=True)
    ]

    def entropies(model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch["x"]), batch["y"], reduction="none")

    model, best = nn.Embedding(8, 4), nn.Embedding(8, 4)
    with torch.no_grad():
        model.weight.zero_()
        best.weight.zero_()[:4] = 4 * torch.eye(4)
        stored = entropies(best, {"x": torch.tensor([row["x"] for row in data]), "y": labels})
    reference: Any = {
        "model": best,
        "callable": lambda batch: entropies(best, batch),
        "store": known(600, stored.numpy()),
    }[kind]
    strategy = DoReMi(reference, entropies if kind == "model" else None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = dict.fromkeys(("noise", "new"), 0.0)
    for batch, weight in streamed(strategy, data).loader(batch_size=20, num_workers=workers):
        found = entropies(model, batch)
        optimizer.zero_grad()
        (found * weight).mean().backward()
        optimizer.step()
        for name, loss in zip(batch["domain"], found.tolist(), strict=True):
            losses[name] += loss
    assert best.training
    assert best.weight.grad is None
    assert losses["noise"] > losses["new"]  # by loss alone the noise would win
    mixed = OnlineDataMixing()
    run(streamed(mixed, [{"domain": row["domain"], "loss": loss} for row, loss in zip(data, stored, strict=True)]))
    assert mixed.domain_weights["noise"] > 0.6
    assert strategy.average["new"] > 0.8


def test_references_of_all_kinds_agree_also_in_parts() -> None:
    data = rows(32)
    averages = []
    for kind in ("store", "callable", "model", "model in parts"):

        class Half(nn.Module):
            def forward(self, batch: Any) -> Tensor:
                return batch["loss"].float() / 2

        reference: Any = {
            "store": known(32, np.array([row["loss"] / 2 for row in data], np.float32)),
            "callable": lambda batch: batch["loss"].float() / 2,
        }.get(kind, Half())
        strategy = DoReMi(reference, (lambda model, batch: model(batch)) if "model" in kind else None)
        for batch, weight in streamed(strategy, data).loader(batch_size=8):
            losses = batch["loss"].float()
            if "parts" in kind:
                weight[3:].resolve(losses[3:])
                weight[:3].resolve(losses[:3])
            else:
                weight.resolve(losses)
        averages.append(strategy.average)
    assert averages[0] == averages[1] == averages[2]
    assert averages[3] == pytest.approx(averages[0], rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_one_update_and_get_one_weight(kind: str) -> None:
    whole, parts = made(kind), made(kind)
    run(streamed(whole, rows()))
    for batch, weight in streamed(parts, rows()).loader(batch_size=8):
        before = weight.tensor()
        found = [
            part.resolve(losses) for part, losses in zip(weight.split(2), batch["loss"].float().split(2), strict=True)
        ]
        assert torch.equal(torch.cat(found), before)
    assert parts.domain_weights == pytest.approx(whole.domain_weights, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_look_at_the_next_batch_between_parts_settles_nothing(kind: str) -> None:
    plain, looked = made(kind), made(kind)
    losses = torch.tensor([row["loss"] for row in rows(8)])
    for strategy in (plain, looked):
        stream = streamed(strategy, rows())
        stream.store.set_groups(range(64), [row["domain"] for row in rows()])
        for first in range(0, 64, 8):
            weight = stream.weight(range(first, first + 8))
            weight[:4].resolve(losses[:4])
            if strategy is looked:
                stream.weight([(first + 8) % 64]).tensor()
            weight[4:].resolve(losses[4:])
    assert looked.state_dict() == plain.state_dict()


@pytest.mark.parametrize("kind", KINDS)
def test_a_retry_and_losses_that_are_not_finite_teach_nothing(kind: str) -> None:
    once, twice = made(kind), made(kind)
    run(streamed(once, rows()))
    for batch, weight in streamed(twice, rows()).loader(batch_size=8):
        first = weight.resolve(batch["loss"].float())
        assert torch.equal(weight.resolve(batch["loss"].float() + 1), first)
    assert once.domain_weights == twice.domain_weights
    broken = made(kind)
    for batch, weight in streamed(broken, rows(8)).loader(batch_size=8):
        losses = torch.where(
            torch.tensor([name == "web" for name in batch["domain"]]), torch.nan, batch["loss"].float()
        )
        assert weight.resolve(losses)[3] == 0
    assert set(broken.domain_weights) == {"code", "text"}


def test_reference_losses_that_are_not_finite_teach_nothing() -> None:
    reference = np.where(np.arange(64) % 4 == 0, np.inf, 0.5).astype(np.float32)
    strategy = DoReMi(lambda batch: torch.from_numpy(reference[:8]))
    run(streamed(strategy, rows(losses={"code": 100.0, "text": 0.5, "web": 0.5})))
    assert strategy.domain_weights == pytest.approx(dict.fromkeys(p_names, 1 / 3))


@pytest.mark.parametrize("kind", KINDS)
def test_known_before_the_losses(kind: str) -> None:
    strategy = made(kind)
    for batch, weight in streamed(strategy, rows()).loader(batch_size=8):
        early = weight.tensor()
        assert torch.equal(early, weight.resolve(batch["loss"].float()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_keeps_the_weights_it_was_given(kind: str) -> None:
    """Also when others are weighed between its parts, or before it is run again."""
    batches = [(batch["loss"].float(), weight) for batch, weight in streamed(made(kind), rows()).loader(batch_size=8)]
    for losses, weight in batches[:5]:
        weight.resolve(losses)
    losses, weight = batches[5]
    part = weight[:4].resolve(losses[:4])
    assert not torch.equal(batches[6][1].resolve(losses + 9)[:4], part)
    assert torch.equal(weight[4:].resolve(losses[4:]), part)
    assert torch.equal(weight.resolve(losses), part.repeat(2))


def test_of_a_domain_that_is_absent_the_latest_excess_counts() -> None:
    losses = [2.0, 1.0, 1.5, 1.5, 0.5, 1.0]
    domains = ["a", "b", "b", "b", "a", "b"]
    data = [{"domain": name, "loss": loss} for name, loss in zip(domains, losses, strict=True)]
    strategy = DoReMi(known(6, 0.5), eta=1.0, mix=0.1)
    run(streamed(strategy, data), batch_size=2)
    alpha = np.array([0.5, 0.5])
    for excess in ([1.5, 0.5], [1.5, 1.0], [0.0, 0.5]):
        alpha = doremi(alpha, np.array(excess), 1.0, 0.1)
    assert list(strategy.domain_weights.values()) == pytest.approx(alpha.tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_domains_that_come_late(kind: str) -> None:
    late = [*rows(40, {"code": 3.0, "text": 1.0, "web": 1.0}), *({"domain": "new", "loss": 1.0} for _ in range(16))]
    strategy = made(kind, **({"eta": 0.1} if kind == "DoReMi" else {}))
    stream = streamed(strategy, late)
    tables = run(stream)
    assert tables[5]["new"] == 1.0
    assert set(tables[6]) == {"new"}
    weights = strategy.domain_weights
    assert list(weights) == ["code", "text", "web", "new"]
    assert sum(weights.values()) == pytest.approx(1.0)
    assert 0.05 < weights["new"] < 0.5
    assert weights["code"] > weights["web"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_its_state_goes_on_bit_for_bit_also_with_other_numbers(kind: str, steps: int) -> None:
    first, second = made(kind), made(kind)
    one = streamed(first, rows())
    batches = list(one.loader(batch_size=8))
    for batch, weight in batches[:steps]:
        weight.resolve(batch["loss"].float())
    _, weight = batches[steps]
    weight[:3].resolve(torch.tensor([7.0, 1.0, 2.0]))  # in the middle of a batch
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert state == json.loads(json.dumps(first.state_dict()))
    store = WeightStore()
    store.set_groups(range(1000, 1003), ["web", "something", "text"])
    second.load_state_dict(state)
    other = list(streamed(second, rows(), store=store).loader(batch_size=8))
    other[0][1]._live().step = one._live().step
    for rest in (batches, other):
        for batch, weight in rest[steps + 1 :]:
            weight.resolve(batch["loss"].float())
    assert first.state_dict() == second.state_dict()
    for (_, weight), (_, twin) in zip(batches[steps + 1 :], other[steps + 1 :], strict=True):
        assert torch.equal(weight.tensor(), twin.tensor())
    assert first.domain_weights == second.domain_weights


def test_states_of_others() -> None:
    with pytest.raises(StateError):
        OnlineDataMixing().load_state_dict({})
    with pytest.raises(StateError, match="learned"):
        OnlineDataMixing().load_state_dict(made("DoReMi").state_dict())
    with pytest.raises(StateError, match="other domains"):
        OnlineDataMixing({"a": 1}).load_state_dict(OnlineDataMixing({"b": 1}).state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_clipped_shuffled_and_in_a_product(kind: str) -> None:
    clipped = made(kind, shares={"code": 0.001, "text": 0.5, "web": 0.499})
    assert max(max(table.values()) for table in run(streamed(Clip(clipped, high=3.0), rows()))) == 3.0
    shuffled = Shuffled(made(kind))
    for batch, weight in streamed(shuffled, rows()).loader(batch_size=8):
        weight.resolve(batch["loss"].float())
    assert len(shuffled.strategy.domain_weights) == 3  # type: ignore[attr-defined]
    product = made(kind)
    for batch, weight in streamed(LinUpper() * product, rows()).loader(batch_size=8):
        assert weight.resolve(batch["loss"].float()).mean().item() == pytest.approx(1.0, rel=1e-5)
    assert product.domain_weights["code"] > product.domain_weights["text"]


def test_without_groups() -> None:
    stream = WeightedStream(rows(), OnlineDataMixing())
    ((batch, weight), *_) = stream.loader(batch_size=8)
    with pytest.raises(StrategyError, match="no group of 8 of 8 samples"):
        weight.resolve(batch["loss"].float())
    stream.store.update(range(4), group=[0, 1, 0, 1])
    with pytest.raises(StrategyError, match="no group of 4 of 8 samples"):
        weight.resolve(batch["loss"].float())
    stream.store.update(range(8), group=[5, 7] * 4)
    weight.resolve(batch["loss"].float())
    assert list(stream.strategy.domain_weights) == ["5", "7"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
def test_domains_without_a_share(kind: str) -> None:
    stream = streamed(made(kind, shares={"code": 1, "text": 2}), rows())
    with pytest.raises(StrategyError, match="'web'"):
        run(stream)


def test_a_reference_needs_the_batch() -> None:
    strategy = DoReMi(lambda batch: batch["loss"].float())
    stream = streamed(strategy, rows())
    batch, weight = next(iter(DataLoader(stream, batch_size=8)))  # type: ignore[arg-type]
    with pytest.raises(StrategyError, match="needs the samples"):
        weight.resolve(batch["loss"].float())
    stored = streamed(DoReMi(known(64, 0.5)), rows())
    batch, weight = next(iter(DataLoader(stored, batch_size=8)))  # type: ignore[arg-type]
    weight.resolve(batch["loss"].float())
    as_dict = streamed(DoReMi(lambda batch: batch["loss"].float() / 2), rows(), as_dict=True)
    for batch in as_dict.loader(batch_size=8):
        as_dict.weight(batch["sample_id"]).resolve(batch["loss"].float())
    assert as_dict.strategy.domain_weights["code"] > 0.9  # type: ignore[attr-defined]


@pytest.mark.parametrize("bad", [lambda *_: torch.tensor(1.0), lambda *_: torch.ones(7), lambda *_: [1.0] * 8])
def test_reference_losses_that_are_none(bad: Any) -> None:
    for strategy in (DoReMi(bad), DoReMi(nn.Linear(1, 1), bad)):
        with pytest.raises(LossError, match=r"DoReMi needs one (reference )?loss per sample"):
            run(streamed(strategy, rows()))
    with pytest.raises(StrategyError, match="no last_loss of 5 samples"):
        run(streamed(DoReMi(known(3, 1.0)), rows()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shares", [{}, {"a": 0}, {"a": -1}, {"a": math.nan}, {"a": "x"}, {1: 0.5}, ["a"], 3])
def test_shares_that_cannot_be(kind: str, shares: Any) -> None:
    with pytest.raises(StrategyError, match="shares"):
        made(kind, shares=shares)


def test_options_that_cannot_be() -> None:
    store = WeightStore()
    for options in ({"eta": 0}, {"eta": math.inf}, {"mix": 0}, {"mix": 1}):
        with pytest.raises(StrategyError):
            DoReMi(store, **options)  # type: ignore[arg-type]
    for arguments in ((None,), ({1: 0.5},), (nn.Linear(1, 1),), (store, len), (lambda batch: batch, len)):
        with pytest.raises(StrategyError, match="DoReMi cannot work with this"):
            DoReMi(*arguments)  # type: ignore[arg-type]
    assert isinstance(make_strategy("online-data-mixing"), OnlineDataMixing)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("journal", [False, True])
def test_a_stream_that_stops_and_goes_on(tmp_path: Any, kind: str, workers: int, journal: bool) -> None:
    """The weights of the rest of the epoch and of the next are those of a run that never stopped."""
    losses = np.random.default_rng(0).gamma(2.0, size=64).astype(np.float32)
    data = [{"domain": NAMES[i % 4], "loss": losses[i]} for i in range(64)]
    arguments: dict[str, Any] = {"batch_size": 8, "shuffle": True, "num_workers": workers}

    def weighed(stream: WeightedStream, stop: int | None = None) -> list[list[float]]:
        found = []
        for batch, weight in stream.loader(**arguments):
            found.append(weight.resolve(batch["loss"].float() + stream.epoch).tolist())
            if len(found) == stop:
                break
        return found

    path = str(tmp_path / "store") if journal else None
    whole = streamed(made(kind), data)
    expected = [*weighed(whole), *weighed(whole)]
    with streamed(made(kind), data, store=path) as first:
        begun = weighed(first, stop=3)
        state = first.state_dict()
        if journal:
            weighed(first, stop=2)  # is undone
    with streamed(made(kind), data, store=path) as second:
        second.load_state_dict(state)
        rest = [*weighed(second), *weighed(second)]
        assert sorted(second.store.groups) == p_names
        groups = second.store.get(range(64))["group"]
        assert [second.store.groups[n] for n in groups] == [NAMES[i % 4] for i in range(64)]
    assert begun + rest == expected
    assert second.strategy.state_dict() == whole.strategy.state_dict()
