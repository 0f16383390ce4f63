"""A pass on the side leaves everything as it was."""

from __future__ import annotations

import random
import sys
from collections import UserDict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from weighted_stream.probes.running import aside, eager, on_device, run, unwrapped


def random_numbers() -> list[float]:
    return [torch.rand(()).item(), random.random(), float(np.random.rand())]


class Merging(nn.Linear):
    """Adds its adapter to its weight for evaluation, as loralib does."""

    merged = False

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        if self.merged is mode:
            with torch.no_grad():
                self.weight += -1.0 if mode else 1.0
            self.merged = not mode
        return self


def test_layers_that_merge_for_evaluation_are_taken_apart_again() -> None:
    model = nn.Sequential(Merging(2, 2), nn.Sequential(Merging(2, 2), nn.Dropout()).eval())
    weights = [model[0].weight.detach().clone(), model[1][0].weight.detach().clone()]
    with aside(model):
        assert [model[0].merged, model[1][0].merged] == [True, True]
    assert [model[0].merged, model[1][0].merged] == [False, True]
    assert [module.training for module in model.modules()] == [True, True, False, False, False]
    for layer, weight in zip((model[0], model[1][0]), weights, strict=True):
        torch.testing.assert_close(layer.weight.detach(), weight)


Pair = namedtuple("Pair", "x y")


def test_a_batch_keeps_its_type_on_the_way_to_the_model() -> None:
    given = {"pair": Pair(torch.ones(2), [torch.ones(1)]), "tuple": (torch.ones(1),), "user": UserDict(x=torch.ones(3))}
    moved = on_device(given, nn.Linear(1, 1).double())
    assert torch.equal(moved["pair"].x, torch.ones(2))
    assert [type(part) for part in (moved, *moved.values())] == [dict, Pair, tuple, UserDict]
    assert moved["user"] is not given["user"]
    assert torch.equal(moved["user"]["x"], torch.ones(3))


@pytest.mark.parametrize("fails", [False, True])
def test_modes_and_random_states_are_restored(fails: bool) -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(), nn.Sequential(nn.Dropout()).eval())
    flags = [module.training for module in model.modules()]
    statistics = model[0].running_mean.clone()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    expected = random_numbers()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    try:
        with aside(model):
            assert not any(module.training for module in model.modules())
            for rows in DataLoader(torch.randn(8, 2), batch_size=4, shuffle=True):
                assert not model(rows).requires_grad
            random_numbers()
            if fails:
                raise MemoryError
    except MemoryError:
        assert fails
    assert [module.training for module in model.modules()] == flags
    assert torch.is_grad_enabled()
    assert random_numbers() == expected
    torch.testing.assert_close(model[0].running_mean, statistics)


def test_batches_go_in_as_they_are() -> None:
    model = nn.Bilinear(2, 2, 1)
    one, two = torch.randn(3, 2), torch.randn(3, 2)
    expected = model(one, two)
    for batch in (one, two), [one, two], {"input1": one, "input2": two}:
        torch.testing.assert_close(run(model, on_device(batch, model)), expected)
    assert on_device({"name": "a", "more": [one, 3]}, model)["name"] == "a"


def test_what_is_around_a_model() -> None:
    model = nn.Linear(2, 2)
    assert unwrapped(model) is model
    assert unwrapped(nn.DataParallel(torch.compile(model))) is model


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="None is counted no more")
def test_running_as_written_gives_back_no_references_that_were_not_taken() -> None:
    import torch._dynamo

    assert torch._dynamo.__name__ in sys.modules
    before = sys.getrefcount(None)
    for _ in range(200):
        with eager():
            pass
    # torch 2.7 by itself: 600 fewer; Python ends when there is none left.
    assert sys.getrefcount(None) > before - 50
