"""Optimizer steps are counted once, whoever makes them."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn
from torch.optim import optimizer as registry

from weighted_stream.probes.optimizer_steps import OptimizerSteps


@pytest.fixture
def model():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model(torch.ones(1, 2)).sum().backward()
    return model


@pytest.fixture
def steps(model):
    with OptimizerSteps(model) as steps:
        yield steps


class Loud(torch.optim.SGD):
    """A subclass whose step is its parent's and something more."""

    def step(self, closure=None):
        return super().step(closure)


def test_steps_of_this_model_are_counted(model, steps) -> None:
    assert not steps.ever
    ours = torch.optim.AdamW(model.parameters())
    other = torch.optim.AdamW(nn.Linear(2, 2).parameters())
    for _ in range(3):
        ours.step()
        other.step()
    assert (steps.count, steps.ever) == (3, True)
    steps.reset()
    assert (steps.count, steps.ever) == (0, True)
    ours.step(lambda: torch.zeros(()))
    assert steps.count == 1


def test_a_step_within_a_step_is_one(model, steps) -> None:
    torch.optim.SGD(model.parameters(), lr=0.1).step()  # the parent's step has its hooks from here on
    steps.reset()
    Loud(model.parameters(), lr=0.1).step()
    assert steps.count == 1


def test_a_step_that_failed_does_not_stop_the_counting(model, steps) -> None:
    ours = torch.optim.SGD(model.parameters(), lr=0.1)

    def out_of_memory():
        raise MemoryError

    with pytest.raises(MemoryError):
        ours.step(out_of_memory)
    assert steps.count == 0
    ours.step()
    assert steps.count == 1


def test_optimizers_that_share_a_model_are_one(model, steps) -> None:
    pair = [torch.optim.SGD(part.parameters(), lr=0.1) for part in model]
    for _ in range(4):
        for optimizer in pair:
            optimizer.step()
    assert steps.count == 4


def test_a_step_that_the_scaler_skips_is_none(model, steps) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    ours = torch.optim.SGD(model.parameters(), lr=0.1)
    for wrong in 1.0, torch.inf, 1.0:
        ours.zero_grad()
        scaler.scale(model(torch.ones(1, 2)).sum() * wrong).backward()
        scaler.step(ours)
        scaler.update()
    assert steps.count == 2


def test_optimizers_of_accelerate(model, steps) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    prepared, ours = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    for _ in range(6):
        with accelerator.accumulate(prepared):
            accelerator.backward(prepared(torch.ones(1, 2)).sum())
            ours.step()
            ours.zero_grad()
    assert steps.count == 3


def test_hooks_go_with_the_counter(model) -> None:
    before = len(registry._global_optimizer_post_hooks), len(registry._global_optimizer_pre_hooks)
    steps = OptimizerSteps(model)
    assert len(registry._global_optimizer_post_hooks) == before[0] + 1
    del steps
    gc.collect()
    assert (len(registry._global_optimizer_post_hooks), len(registry._global_optimizer_pre_hooks)) == before
