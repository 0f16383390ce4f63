"""Loaders of a selecting strategy: what they draw, what they hand over, what is remembered."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from weighted_stream import (
    Clip,
    LinUpper,
    Product,
    Selecting,
    Shuffled,
    Signals,
    StrategyError,
    Uniform,
    WeightedStream,
    WeightStore,
)
from weighted_stream.chooser import Chooser
from weighted_stream.feedback import Feedback
from weighted_stream.selection import Candidates, Choice


class Largest(Selecting):
    """The candidates of the largest ids; the weights rise from 0.5 to 1.5."""

    def __init__(self, budget: float = 0.25) -> None:
        super().__init__(budget)
        self.seen: list[Candidates] = []
        self.epochs: list[int] = []

    def choose(self, candidates: Candidates) -> Choice:
        self.seen.append(candidates)
        places = np.sort(np.argsort(candidates.ids)[-candidates.count :])
        return Choice(places, torch.linspace(0.5, 1.5, len(places)))

    def begin_epoch(self, epoch: int, memory: Any) -> None:
        self.epochs.append(epoch)
        self.known = sum(len(ids) for ids, _ in memory())


class Returns(Selecting):
    """Whatever it is told to return."""

    def __init__(self, choice: Any) -> None:
        super().__init__(0.5)
        self.choice = choice

    def choose(self, candidates: Candidates) -> Choice:
        choice: Choice = self.choice
        return choice


def rows(n: int) -> list[dict[str, Any]]:
    return [{"x": torch.full((3,), float(i)), "name": str(i)} for i in range(n)]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_chosen_come_with_their_weights(workers: int) -> None:
    strategy = Largest()
    loader = WeightedStream(rows(25), strategy).loader(batch_size=2, num_workers=workers)
    assert loader.batch_size == 2
    assert len(loader) == 4
    ids = []
    for batch, weight in loader:
        ids.append(weight.ids.tolist())
        assert batch["x"][:, 0].tolist() == ids[-1]
        assert batch["x"].shape == (len(weight), 3)
        assert batch["name"] == [str(number) for number in ids[-1]]
        assert torch.equal(weight.tensor(), torch.linspace(0.5, 1.5, len(weight)))
    assert ids == [[6, 7], [14, 15], [22, 23], [24]]
    assert [(len(seen), seen.count, seen.step) for seen in strategy.seen] == [
        (8, 2, 0),
        (8, 2, 1),
        (8, 2, 2),
        (1, 1, 3),
    ]
    for seen in strategy.seen:
        assert seen.batch["x"][:, 0].tolist() == seen.ids.tolist()


@pytest.mark.parametrize(
    ("count", "drop_last", "sizes"),
    [(24, False, [2, 2, 2]), (20, False, [2, 2, 1]), (20, True, [2, 2]), (18, False, [2, 2, 1])],
)
def test_a_smaller_last_batch_is_chosen_from_in_proportion(count: int, drop_last: bool, sizes: list[int]) -> None:
    loader = WeightedStream(rows(count), Largest()).loader(batch_size=2, drop_last=drop_last)
    assert [len(weight) for _, weight in loader] == sizes


@pytest.mark.parametrize(
    ("size", "budget", "drawn"), [(1, 0.05, 20), (3, 0.1, 30), (7, 0.7, 10), (2, 0.3, 7), (4, 1.0, 4)]
)
def test_how_many_are_drawn(size: int, budget: float, drawn: int) -> None:
    strategy = Largest(budget)
    _, weight = next(iter(WeightedStream(rows(60), strategy).loader(batch_size=size)))
    assert len(strategy.seen[0]) == drawn
    assert len(weight) == size


def test_those_passed_over_are_seen_but_have_no_loss() -> None:
    stream = WeightedStream(rows(8), Largest())
    for batch, weight in stream.loader(batch_size=1):
        _ = batch["x"][:, 0] * weight
    records = stream.store.get(range(8))
    assert records["weight"].tolist() == [0, 0, 0, 0.5, 0, 0, 0, 0.5]
    assert records["visits"].tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    assert records["last_step"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert np.isnan(records["loss"]).tolist() == [True, True, True, False] * 2
    assert records["nonfinite"].sum() == 0
    assert stream.stats()["samples"] == 8
    assert stream.stats()["visits"] == 2


def test_the_losses_do_not_change_the_weights_and_the_product_has_the_gradient() -> None:
    stream = WeightedStream(rows(8), Largest())
    ((_, weight),) = stream.loader(batch_size=2)
    losses = torch.tensor([100.0, 1.0], requires_grad=True)
    (losses * weight).sum().backward()
    assert losses.grad is not None
    assert losses.grad.tolist() == [0.5, 1.5]
    again = losses.detach().double()
    assert weight.resolve(again).tolist() == [0.5, 1.5]
    assert stream.store.get([6, 7])["visits"].tolist() == [1, 1]


def test_a_loss_that_is_not_finite_counts_for_nothing() -> None:
    stream = WeightedStream(rows(16), Largest())
    ((_, weight),) = stream.loader(batch_size=4)
    losses = torch.tensor([1.0, torch.nan, 3.0, torch.inf])
    assert torch.equal(losses * weight, torch.tensor([1.0, 0.0, 3.0, 0.0]) * torch.linspace(0.5, 1.5, 4))
    assert stream.store.get(weight.ids)["nonfinite"].tolist() == [0, 1, 0, 1]
    assert weight.resolve(torch.ones(4)).tolist() == torch.linspace(0.5, 1.5, 4).tolist()


@pytest.mark.parametrize("joint", [False, True])
def test_micro_batches(joint: bool) -> None:
    strategy = Largest()
    strategy.joint = joint  # their weights are decided: no part has to wait for the others
    stream = WeightedStream(rows(16), strategy)
    ((batch, weight),) = stream.loader(batch_size=4)
    whole = torch.linspace(0.5, 1.5, 4)
    for part, x, expected in zip(weight.split(2), batch["x"][:, 0].split(2), whole.split(2), strict=True):
        assert torch.equal(part.tensor(), expected)
        assert torch.equal(x * part, x * expected)
    assert torch.equal(weight[torch.tensor([3, 0])].resolve(torch.ones(2)), whole[[3, 0]])
    assert stream.store.get(weight.ids)["visits"].tolist() == [1, 1, 1, 1]
    assert stream.store.get(weight.ids)["weight"].tolist() == whole.tolist()


def test_dict_batches_find_their_weights_by_id() -> None:
    stream = WeightedStream(rows(40), Largest(), as_dict=True)
    batches = list(stream.loader(batch_size=4))
    assert [batch["sample_id"].tolist() for batch in batches] == [[12, 13, 14, 15], [28, 29, 30, 31], [38, 39]]
    for batch in batches:
        ids = batch["sample_id"]
        assert batch["x"][:, 0].tolist() == ids.tolist()
        whole = torch.linspace(0.5, 1.5, len(ids))
        assert torch.equal(stream.weight(ids).tensor(), whole)
        for part, expected in zip(ids.split(2), whole.split(2), strict=True):
            assert torch.equal(stream.weight(part).resolve(torch.ones(len(part))), expected)
        assert torch.equal(stream.weight(ids.flip(0)).resolve(torch.ones(len(ids))), whole.flip(0))
        assert stream.store.get(ids)["visits"].tolist() == [1] * len(ids)
    for unknown in ([0], [12, 28], [1000]):
        with pytest.raises(StrategyError, match="has not chosen these"):
            stream.weight(unknown)


def test_epochs_are_counted_told_and_shuffled() -> None:
    strategy = Largest()
    stream = WeightedStream(rows(24), strategy)
    loader = stream.loader(batch_size=2, shuffle=True)
    orders = []
    for _ in range(2):
        strategy.seen.clear()
        for batch, weight in loader:
            _ = batch["x"][:, 0] * weight
        orders.append([number for seen in strategy.seen for number in seen.ids.tolist()])
        assert sorted(orders[-1]) == list(range(24))
    assert orders[0] != orders[1]
    assert strategy.epochs == [0, 1]
    assert strategy.known == 24  # all that were drawn in the first epoch
    stream.set_epoch(5)
    assert strategy.epochs == [0, 1, 5]


class Scorer:
    """Stands for a scorer that runs ahead."""

    def __init__(self, store: WeightStore) -> None:
        self.store, self.counted = store, 0

    def check(self) -> None:
        pass

    def meet(self, signals: Signals) -> None:
        self.store.update(signals.ids, similarity=np.cos(signals.ids))

    def passed(self, count: int) -> None:
        self.counted += count


class MostSimilar(Selecting):
    def choose(self, candidates: Candidates) -> Choice:
        order = np.argsort(-candidates.records(candidates.ids)["similarity"])
        return Choice(np.sort(order[: candidates.count]), torch.ones(candidates.count))


def test_scores_made_ahead_are_there_for_the_choice() -> None:
    store = WeightStore()
    scorer = Scorer(store)
    chooser = Chooser(Feedback(MostSimilar(0.5), store, scorer))
    chosen, batch = chooser.choose(np.arange(6), torch.arange(6), 3)  # cosines 1, 0.54, -0.42, -0.99, -0.65, 0.28
    assert batch.tolist() == chosen.ids.tolist() == [0, 1, 5]
    assert scorer.counted == 3  # those passed over; the chosen count with their losses


class Numbers(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(rows(20))


def test_a_dataset_read_in_order() -> None:
    stream = WeightedStream(Numbers(), Largest(), id_fn=lambda sample: int(sample["name"]))
    assert [weight.ids.tolist() for _, weight in stream.loader(batch_size=2)] == [[6, 7], [14, 15], [19]]


def test_a_wrapped_loader_keeps_its_batch_size() -> None:
    stream: Any = WeightedStream(DataLoader(rows(24), batch_size=3, collate_fn=names_and_x), Largest())
    assert len(stream) == 2
    for (names, x), weight in stream:
        assert len(names) == len(x) == len(weight) == 3
        assert names == [str(number) for number in weight.ids.tolist()]


def names_and_x(samples: list[dict[str, Any]]) -> Any:
    return [sample["name"] for sample in samples], torch.stack([sample["x"] for sample in samples])


def test_parquet_in_whole_batches(tmp_path: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    from weighted_stream import ParquetDataset

    parquet.write_table(pa.table({"x": list(range(20))}), tmp_path / "part-0.parquet")
    loader = WeightedStream(ParquetDataset(tmp_path), Largest()).loader(batch_size=2)
    assert loader.batch_size == 2
    assert len(loader) == 3
    sizes = []
    for batch, weight in loader:
        sizes.append(len(weight))
        assert torch.as_tensor(batch["x"]).shape == (len(weight),)
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize("data", [rows(8), Numbers()])
def test_a_loader_of_ones_own_cannot_select(data: Any) -> None:
    stream: Any = WeightedStream(data, Largest(), id_fn=lambda sample: int(sample["name"]))
    with pytest.raises(StrategyError, match=r"let stream\.loader"):
        next(iter(DataLoader(stream, batch_size=2)))


def test_nor_can_a_workers_copy_of_the_stream() -> None:
    copy = pickle.loads(pickle.dumps(WeightedStream(rows(8), Largest())))
    with pytest.raises(StrategyError, match=r"let stream\.loader"):
        copy[0]


@pytest.mark.parametrize(
    "arguments", [{"batch_size": None}, {"batch_sampler": BatchSampler(SequentialSampler(range(8)), 2, False)}]
)
def test_loaders_that_cannot_draw_more(arguments: dict[str, Any]) -> None:
    with pytest.raises(StrategyError, match="this loader cannot draw them"):
        WeightedStream(rows(8), Largest()).loader(**arguments)


@pytest.mark.parametrize("budget", [0, -0.1, 1.1, None, True, "0.1", float("nan")])
def test_budgets_that_are_none(budget: Any) -> None:
    with pytest.raises(StrategyError, match="above 0 and at most 1"):
        Largest(budget)


@pytest.mark.parametrize(
    "wrap", [Clip, Shuffled, lambda inner: Product(LinUpper(), inner), lambda inner: Uniform() * inner]
)
def test_nothing_stands_around_a_selecting_strategy(wrap: Callable[[Any], Any]) -> None:
    with pytest.raises(StrategyError, match="cannot change what a selecting strategy decides"):
        wrap(Largest())


def test_a_budget_without_choose() -> None:
    strategy = Uniform()
    strategy.budget = 0.5
    with pytest.raises(StrategyError, match="does not choose"):
        next(iter(WeightedStream(rows(8), strategy).loader(batch_size=2)))


def test_a_strategy_that_chooses_nothing_leaves_no_trace() -> None:
    stream = WeightedStream(rows(8), Returns(None))
    with pytest.raises(StrategyError, match="made no choice"):
        next(iter(stream.loader(batch_size=2)))
    assert len(stream.store) == 0


def test_a_batch_that_cannot_be_cut_leaves_no_trace() -> None:
    stream = WeightedStream(rows(8), Returns(Choice(np.array([0]), torch.ones(1))))
    with pytest.raises(StrategyError, match="cannot be cut"):
        next(iter(stream.loader(batch_size=2, collate_fn=lambda samples: {"lengths": torch.zeros(len(samples) + 1)})))
    assert len(stream.store) == 0


def test_fewer_than_asked_for_may_be_chosen_or_all() -> None:
    for places in ([1], [0, 1, 3], [0, 1, 2, 3]):
        stream = WeightedStream(rows(4), Returns(Choice(np.array(places), torch.ones(len(places)))))
        ((batch, weight),) = stream.loader(batch_size=2)
        assert weight.ids.tolist() == places
        assert batch["x"][:, 0].tolist() == places
