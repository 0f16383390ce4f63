"""Batches that are kept for strategies that look at them: whose, how long, and only for those."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from weighted_stream import Clip, Signals, Strategy, StrategyError, Uniform, WeightedStream
from weighted_stream.handed_over import KEPT, HandedOver

ROWS = [{"x": torch.full((3,), float(i)), "name": str(i)} for i in range(200)]


class Looks(Strategy):
    """Remembers the samples that it was shown."""

    keeps_samples = True

    def weights(self, signals: Signals) -> Tensor:
        self.shown, self.places = signals.samples, signals.places
        return torch.ones(len(signals))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("around", [lambda s: s, Clip, lambda s: Uniform() * s])
def test_the_batch_of_each_weight(around, workers: int) -> None:
    looks = Looks()
    stream = WeightedStream(ROWS[:12], around(looks))
    pairs = list(stream.loader(batch_size=4, num_workers=workers))
    for batch, weight in pairs:
        names = batch.pop("name")  # a training that takes its batch apart
        weight.resolve(torch.ones(4))
        assert looks.shown["name"] == names
        assert looks.shown["x"] is batch["x"]
        weight[1:3].resolve(torch.ones(2))
        assert looks.shown["name"] == names
        assert looks.places.tolist() == [1, 2]


def test_dict_batches_are_found_by_their_ids() -> None:
    looks = Looks()
    stream = WeightedStream(ROWS[:12], looks, as_dict=True)
    batches = list(stream.loader(batch_size=4))
    for batch in reversed(batches):
        stream.weight(batch["sample_id"][[2, 0]]).resolve(torch.ones(2))
        assert looks.shown["name"] == [batch["name"][2], batch["name"][0]]
        assert looks.shown["sample_id"].tolist() == batch["sample_id"][[2, 0]].tolist()
        stream.weight(batch["sample_id"]).resolve(torch.ones(4))
        assert looks.shown["name"] == batch["name"]
    stream.weight(batches[0]["sample_id"]).resolve(torch.ones(4))
    assert looks.shown is None  # all of it was asked for before
    stream.weight([3, 4]).resolve(torch.ones(2))
    assert looks.shown is None  # of two batches


def test_only_the_latest_are_kept() -> None:
    latest = HandedOver()
    for number in range(KEPT + 1):
        latest.add(np.array([number]), number)
    assert latest.find(np.array([0])) is None
    assert latest.find(np.array([1])) == 1
    latest.add(np.array([7]), "again")
    assert latest.find(np.array([7])) == "again"  # the latest of two
    assert latest.find(np.array([], np.int64)) is None


def test_a_part_that_cannot_be_cut() -> None:
    latest = HandedOver()
    latest.add(np.arange(4), {"x": torch.zeros(3)})
    with pytest.raises(StrategyError, match="cannot be cut"):
        latest.find(np.array([1]))


def test_nothing_is_kept_for_strategies_that_do_not_look() -> None:
    for strategy, as_dict in (Uniform(), False), (Uniform(), True), (Looks(), False):
        stream = WeightedStream(ROWS[:8], strategy, as_dict=as_dict)
        kept = []
        for item in stream.loader(batch_size=4):
            batch = item if as_dict else item[0]
            kept.append(weakref.ref(batch["x"]))
        del item, batch
        gc.collect()
        assert [ref() for ref in kept] == [None, None]


def test_a_loader_of_ones_own_shows_nothing() -> None:
    looks = Looks()
    for _, weight in DataLoader(WeightedStream(ROWS[:4], looks), batch_size=4):
        weight.resolve(torch.ones(4))
    assert looks.shown is None
