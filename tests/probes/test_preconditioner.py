"""Adam's diagonal is what Adam divides by."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, NAdam

from weighted_stream.errors import StrategyError
from weighted_stream.probes.preconditioner import AdamPreconditioner

FORMS = [{"foreach": False}, {"foreach": True}, {"fused": True}, {"amsgrad": True}, {"foreach": True, "amsgrad": True}]


@pytest.mark.parametrize("kind", [Adam, AdamW])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_it_is_what_adam_multiplies_its_momentum_by(kind: type[Adam], form: dict[str, bool]) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    optimizer = kind(layer.parameters(), lr=0.01, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.0, **form)
    for _ in range(3):
        for p in layer.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
    before = copy.deepcopy(layer)
    for p in layer.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    preconditioner = AdamPreconditioner(optimizer)
    for p, old in zip(layer.parameters(), before.parameters(), strict=True):
        momentum = optimizer.state[p]["exp_avg"] / (1 - 0.8**4)
        torch.testing.assert_close(old - 0.01 * preconditioner.diagonal(p) * momentum, p, rtol=1e-6, atol=1e-12)
        assert not preconditioner.diagonal(p).requires_grad


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("looks", [False, True])
def test_counts_on_a_gpu_are_left_there(form: dict[str, bool], looks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused optimizers count there: the same without reading it back."""
    torch.manual_seed(0)
    stepped, new = (nn.Parameter(torch.randn(3)) for _ in range(2))
    optimizer = AdamW([stepped, new], betas=(0.8, 0.9), eps=1e-3, **form)
    for _ in range(3):
        stepped.grad = torch.randn(3)
        optimizer.step()
    optimizer.state[new] = {key: torch.zeros_like(value) for key, value in optimizer.state[stepped].items()}
    gradient = torch.tensor([0.5, 0.0, -2.0]) if looks else None
    found = [AdamPreconditioner(optimizer).diagonal(p, gradient) for p in (stepped, new)]
    monkeypatch.setattr("weighted_stream.probes.preconditioner._count", torch.as_tensor)
    for p, expected in zip((stepped, new), found, strict=True):
        torch.testing.assert_close(AdamPreconditioner(optimizer).diagonal(p, gradient), expected, rtol=1e-5, atol=0)


def test_it_is_one_at_first_and_follows_the_optimizer() -> None:
    first, second = (nn.Parameter(torch.ones(2, dtype=torch.bfloat16)) for _ in range(2))
    optimizer = Adam([first, second], eps=0.0)
    preconditioner = AdamPreconditioner(optimizer)
    assert torch.equal(preconditioner.diagonal(first), torch.ones(2))
    first.grad = torch.full_like(first, 0.25)
    optimizer.step()
    torch.testing.assert_close(preconditioner.diagonal(first), torch.full((2,), 4.0), rtol=0.02, atol=0)
    assert torch.equal(preconditioner.diagonal(second), torch.ones(2))
    late = nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [late]})
    assert torch.equal(preconditioner.diagonal(late), torch.ones(3))


def test_a_wrapper_is_looked_through() -> None:
    class Wrapper(torch.optim.Optimizer):
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer

    optimizer = AdamW([nn.Parameter(torch.ones(2))])
    assert AdamPreconditioner(Wrapper(Wrapper(optimizer))).optimizer is optimizer


def test_other_optimizers_are_refused_by_name() -> None:
    parameters = [nn.Parameter(torch.ones(2))]
    for other in SGD, NAdam:
        with pytest.raises(StrategyError, match=f"torch's {other.__name__}"):
            AdamPreconditioner(other(parameters, lr=0.1))
    # The shape of bitsandbytes: an optimizer of its own, not derived from torch's Adam.
    eight_bit = type("AdamW8bit", (torch.optim.Optimizer,), {"__module__": "bitsandbytes.optim.adamw"})
    with pytest.raises(StrategyError, match="bitsandbytes's AdamW8bit"):
        AdamPreconditioner(eight_bit(parameters, {}))


def test_parameters_it_does_not_have_whole() -> None:
    parameter = nn.Parameter(torch.ones(4))
    optimizer = Adam([parameter])
    with pytest.raises(StrategyError, match=r"\(7,\)"):
        AdamPreconditioner(optimizer).diagonal(nn.Parameter(torch.ones(7)))
    optimizer.state[parameter] = {"step": torch.tensor(1.0), "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}
    with pytest.raises(StrategyError, match="shard"):
        AdamPreconditioner(optimizer).diagonal(parameter)
