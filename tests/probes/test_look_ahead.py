"""The effect of a step against autograd through the unrolled step, and that nothing of the model changes by it."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.utils.checkpoint import checkpoint

from weighted_stream import LossError, StrategyError, per_sample_cross_entropy
from weighted_stream.probes.look_ahead import LookAhead

SIZE = 6


def mlp(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 3)).to(dtype)


def rows(size: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(size, 4, generator=draw, dtype=dtype), torch.randint(0, 3, (size,), generator=draw)


def weights(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(SIZE, generator=torch.Generator().manual_seed(9), dtype=dtype) + 0.5


def token_losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return per_sample_cross_entropy(model(**batch).logits[:, :-1], labels[:, 1:])


def image_losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return per_sample_cross_entropy(model(batch[0]), batch[1])


class Losses(nn.Module):
    def __init__(self, model: nn.Module, loss_fn) -> None:
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, batch) -> Tensor:
        return self.loss_fn(self.model, batch)


def unrolled(model: nn.Module, loss_fn, batch, after, w: Tensor, optimizer, eta=None) -> Tensor:
    """``d L_val(theta'(w)) / d w`` by autograd through the step: (B,)."""
    model = copy.deepcopy(model).eval() if optimizer is None else model.eval()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    theta = {f"model.{name}": p.detach().clone().requires_grad_() for name, p in named.items()}
    w = w.clone().requires_grad_()
    whole = Losses(model, loss_fn)
    with sdpa_kernel(SDPBackend.MATH):  # has a second derivative
        loss = (functional_call(whole, theta, (batch,)) * w).mean()
        gradients = torch.autograd.grad(loss, list(theta.values()), create_graph=True, materialize_grads=True)
        ahead = {}
        for (name, values), gradient, parameter in zip(theta.items(), gradients, named.values(), strict=True):
            ahead[name] = (
                values - rate_of(optimizer, parameter, eta) * diagonal(optimizer, parameter, gradient) * gradient
            )
        return torch.autograd.grad(functional_call(whole, ahead, (after,)).mean(), w)[0]


def rate_of(optimizer, parameter: nn.Parameter, eta) -> float:
    if eta is not None:
        return eta
    return next(g["lr"] for g in optimizer.param_groups if any(parameter is p for p in g["params"]))


def diagonal(optimizer, parameter: nn.Parameter, gradient: Tensor) -> Tensor | float:
    """Adam's formula, for the step that takes this gradient; a constant."""
    if not isinstance(optimizer, (Adam, AdamW)):
        return 1.0
    group, state = optimizer.param_groups[0], optimizer.state.get(parameter, {})
    beta, step = group["betas"][1], float(state.get("step", 0)) + 1
    second = beta * state.get("exp_avg_sq", torch.zeros_like(parameter)) + (1 - beta) * gradient.detach() ** 2
    if group["amsgrad"]:
        second = torch.maximum(second, state.get("max_exp_avg_sq", second))
    return (second > 0) / ((second / (1 - beta**step)).sqrt() + group["eps"])


def stepped(model: nn.Module, optimizer, loss_fn, batches):
    for batch in batches:
        optimizer.zero_grad()
        loss_fn(model, batch).mean().backward()
        optimizer.step()
    optimizer.zero_grad()
    return optimizer


def derivative(ahead: LookAhead, batch, w: Tensor) -> Tensor:
    effect = ahead.effect(batch, w)
    return -effect.rate / len(w) * effect.helps


def off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


OPTIMIZERS = {
    "sgd": lambda m: SGD(m.parameters(), lr=0.3, momentum=0.9),
    "sgd, groups": lambda m: SGD([{"params": [p], "lr": 0.1 * (i + 1)} for i, p in enumerate(m.parameters())], lr=1.0),
    "adam, fresh": lambda m: Adam(m.parameters(), lr=0.01),
    "adam": lambda m: stepped(m, Adam(m.parameters(), lr=0.01), image_losses, [rows(5, s) for s in range(3)]),
    "adamw": lambda m: stepped(
        m, AdamW(m.parameters(), lr=0.01, betas=(0.8, 0.95), amsgrad=True), image_losses, [rows(5, s) for s in range(3)]
    ),
}


@pytest.mark.parametrize("derivatives", ["difference", "exact"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_autograd_through_the_unrolled_step(name: str, derivatives) -> None:
    model, batch, after = mlp().eval(), rows(SIZE, 11), rows(4, 12)
    optimizer = OPTIMIZERS[name](model)
    expected = unrolled(model, image_losses, batch, after, weights(), optimizer)
    ahead = LookAhead(model, [after], optimizer, derivatives=derivatives, reach=1e-6)
    assert off(derivative(ahead, batch, weights()), expected) < 1e-7
    losses = image_losses(model, batch)
    assert torch.equal(ahead.effect(batch, weights()).losses, losses.detach())


@pytest.mark.parametrize("derivatives", ["difference", "exact"])
@pytest.mark.parametrize("form", ["sgd", "adam"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_transformers_in_float32(kind: str, form: str, derivatives) -> None:
    """Tied embeddings (gpt2), padding, tokens that have had no gradient yet."""
    tiny_models = pytest.importorskip("tiny_models")
    model = tiny_models.MODELS[kind]().eval()
    batch, after = tiny_models.batch(SIZE, "right", 1), tiny_models.batch(4, "left", 2)
    optimizer = SGD(model.parameters(), lr=0.1)
    if form == "adam":
        optimizer = stepped(model, Adam(model.parameters(), 1e-3), token_losses, [batch, tiny_models.batch(4)])
    w = weights(torch.float32)
    expected = unrolled(model, token_losses, batch, after, w, optimizer)
    ahead = LookAhead(model, [after], optimizer, loss_fn=token_losses, derivatives=derivatives)
    assert off(derivative(ahead, batch, w), expected) < {"exact": 1e-5, "difference": 5e-3}[derivatives]


def test_a_difference_in_float64_is_right_to_1e_4_on_a_transformer() -> None:
    tiny_models = pytest.importorskip("tiny_models")
    model = tiny_models.gpt2().double().eval()
    batch, after = tiny_models.batch(SIZE, "right", 1), tiny_models.batch(4, "left", 2)
    for optimizer in SGD(model.parameters(), lr=0.1), Adam(model.parameters(), lr=1e-3):
        expected = unrolled(model, token_losses, batch, after, weights(), optimizer)
        ahead = LookAhead(model, [after], optimizer, loss_fn=token_losses, reach=1e-5)
        assert off(derivative(ahead, batch, weights()), expected) < 1e-5


def test_one_step_really_does_what_is_said() -> None:
    """More weight on the sample with the largest effect: the target's loss after a step of SGD is lower."""
    batch, after = rows(SIZE, 11), rows(40, 12)

    def target_loss(w: Tensor) -> float:
        model = mlp().eval()
        optimizer = SGD(model.parameters(), lr=0.1)
        (image_losses(model, batch) * w).mean().backward()
        optimizer.step()
        return image_losses(model, after).mean().item()

    effect = LookAhead(mlp(), [after], eta=0.1).effect(batch, torch.ones(SIZE))
    assert effect.target_loss.item() == pytest.approx(target_loss(torch.ones(SIZE)), rel=1e-9)
    best, worst = torch.ones(SIZE), torch.ones(SIZE)
    best[effect.helps.argmax()] += 0.1
    worst[effect.helps.argmin()] += 0.1
    gain = effect.rate / SIZE * 0.1
    assert target_loss(torch.ones(SIZE)) - target_loss(best) == pytest.approx(
        gain * effect.helps.max().item(), rel=0.01
    )
    assert target_loss(best) < target_loss(worst)


def test_nothing_of_the_model_changes_and_a_pending_graph_goes_on() -> None:
    def train(look: bool) -> list[Tensor]:
        torch.manual_seed(1)
        model = nn.Sequential(mlp(torch.float32), nn.BatchNorm1d(3), nn.Dropout(0.3))
        model[1].eval()
        optimizer = Adam(model.parameters(), lr=0.01)
        ahead = LookAhead(model, iter([rows(4, 3, torch.float32)]), optimizer)
        torch.manual_seed(2)
        for seed in range(3):
            batch = rows(SIZE, seed, torch.float32)
            losses = image_losses(model, batch)
            if look:
                ahead.effect(batch, weights(torch.float32))
                assert all(p.grad is None for p in model.parameters()) or seed
            losses.mean().backward()
            optimizer.step()
            assert model.training
            assert not model[1].training
        return [*model.state_dict().values(), *(p.grad for p in model.parameters()), torch.rand(2)]

    for one, other in zip(train(True), train(False), strict=True):
        assert torch.equal(one, other)


def test_autocast_of_the_training_is_not_used() -> None:
    model, batch = mlp(torch.float32), rows(SIZE, 11, torch.float32)
    ahead = LookAhead(model, [rows(4, 12, torch.float32)], eta=0.1)
    plain = ahead.effect(batch, weights()).helps
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(ahead.effect(batch, weights()).helps, plain)


class Checkpointed(nn.Module):
    """Runs its layers again in the backward, in evaluation mode too."""

    def __init__(self, on: bool) -> None:
        super().__init__()
        self.inner, self.on = mlp(), on

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False) if self.on else self.inner(x)


def test_checkpointing_runs_again_with_the_parameters_of_the_step() -> None:
    found = []
    for on in False, True:
        ahead = LookAhead(Checkpointed(on), [rows(4, 12)], eta=2.0)
        found.append(ahead.effect(rows(SIZE, 11), weights()).helps)
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)


def test_compiled_models() -> None:
    torch._dynamo.reset()
    batch, target = rows(SIZE, 11), [rows(4, 12)]
    expected = LookAhead(mlp(), target, eta=0.1).effect(batch, weights()).helps
    in_place = mlp()
    in_place.compile(backend="eager")
    for model in torch.compile(mlp(), backend="eager"), in_place:
        model(batch[0])
        assert torch.equal(LookAhead(model, target, eta=0.1).effect(batch, weights()).helps, expected)


def test_a_learning_rate_of_zero_still_tells_the_direction() -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.0)
    effect = LookAhead(model, [rows(4, 12)], optimizer, derivatives="exact").effect(rows(SIZE, 11), weights())
    assert effect.rate == 0
    optimizer.param_groups[0]["lr"] = 1e-9
    again = LookAhead(model, [rows(4, 12)], optimizer, derivatives="exact").effect(rows(SIZE, 11), weights())
    torch.testing.assert_close(effect.helps, again.helps, rtol=1e-6, atol=1e-9)
    assert effect.helps.abs().min() > 0


def test_only_what_the_optimizer_steps() -> None:
    model, batch, after = mlp().eval(), rows(SIZE, 11), rows(4, 12)
    model[3].requires_grad_(False)
    optimizer = SGD(model.parameters(), lr=0.3)
    expected = unrolled(model, image_losses, batch, after, weights(), optimizer)
    assert off(derivative(LookAhead(model, [after], optimizer, derivatives="exact"), batch, weights()), expected) < 1e-9
    model[3].requires_grad_(True)
    first = SGD(model[0].parameters(), lr=0.3)
    assert off(derivative(LookAhead(model, [after], first, derivatives="exact"), batch, weights()), expected) < 1e-9


def test_no_effect_where_the_target_is_met() -> None:
    model = nn.Linear(2, 2)

    def losses(model: nn.Module, batch: Tensor) -> Tensor:
        return (model(batch) * batch).sum(1)

    for derivatives in "difference", "exact":
        ahead = LookAhead(model, [torch.zeros(3, 2)], eta=0.1, loss_fn=losses, derivatives=derivatives)
        assert ahead.effect(torch.randn(4, 2), torch.ones(4)).helps.abs().max() == 0


def test_batches_of_the_target_take_turns() -> None:
    targets, batch = [rows(4, 12), rows(3, 13)], rows(SIZE, 11)
    ahead = LookAhead(mlp(), iter(targets), eta=0.1)
    found = [ahead.effect(batch, weights()).target_loss for _ in range(4)]
    assert found[0] == found[2] != found[1] == found[3]
    assert ahead.position == 4


class OnlyBackwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient * 2


def test_what_has_no_forward_derivative() -> None:
    def losses(model: nn.Module, batch) -> Tensor:
        return OnlyBackwards.apply(image_losses(model, batch))

    with pytest.raises(StrategyError, match='derivatives="difference"'):
        LookAhead(mlp(), [rows(4, 1)], eta=0.1, loss_fn=losses, derivatives="exact").effect(rows(SIZE, 2), weights())
    LookAhead(mlp(), [rows(4, 1)], eta=0.1, loss_fn=losses).effect(rows(SIZE, 2), weights())


@pytest.mark.parametrize("half", ["all", "frozen"])
def test_parameters_of_16_bits(half: str) -> None:
    model = mlp(torch.float32)
    (model if half == "all" else model[0].requires_grad_(False)).bfloat16()
    autocast = {"all": nullcontext(), "frozen": torch.autocast("cpu", torch.bfloat16)}[half]

    def losses(model: nn.Module, batch) -> Tensor:
        with autocast:
            return image_losses(model, batch)

    batch, target = rows(SIZE, 1, torch.float32), [rows(4, 2, torch.float32)]
    with pytest.raises(StrategyError, match="less than 32 bits: 0"):
        LookAhead(model, target, eta=0.1, loss_fn=losses).effect(batch, weights())
    exact = LookAhead(model, target, eta=0.1, loss_fn=losses, derivatives="exact")
    if half == "all":
        with pytest.raises(StrategyError, match="less than 32 bits"):
            exact.effect(batch, weights())
    else:
        assert exact.effect(batch, weights()).helps.isfinite().all()


@pytest.mark.parametrize("place", ["loss_fn", "forward"])
def test_a_difference_in_16_bits_is_refused(place: str) -> None:
    model = mlp(torch.float32)
    autocast = torch.autocast("cpu", torch.bfloat16)
    losses = autocast(image_losses) if place == "loss_fn" else image_losses
    if place == "forward":  # as accelerate does
        model.forward = autocast(model.forward)
    batch, target = rows(SIZE, 1, torch.float32), [rows(4, 2, torch.float32)]
    with pytest.raises(StrategyError, match="drowns in the rounding of 16 bits"):
        LookAhead(model, target, eta=0.1, loss_fn=losses).effect(batch, weights())
    assert not any(layer._forward_hooks for layer in model.modules())
    exact = LookAhead(model, target, eta=0.1, loss_fn=losses, derivatives="exact")
    assert exact.effect(batch, weights()).helps.isfinite().all()


def test_no_tf32_on_the_side() -> None:
    seen = []
    newer: Any = torch.backends if hasattr(torch.backends, "fp32_precision") else None

    def precision() -> Any:
        if newer is None:
            return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        return newer.cuda.matmul.fp32_precision, newer.cudnn.conv.fp32_precision

    def losses(model: nn.Module, batch) -> Tensor:
        seen.append(precision())
        return image_losses(model, batch)

    ahead = LookAhead(mlp(), [rows(4, 1)], eta=0.1, loss_fn=losses)
    ways = ["medium", "high", "highest"] if newer is None else ["tf32", "ieee", "none"]
    for way in ways:
        try:
            if newer is None:
                torch.set_float32_matmul_precision(way)
            else:
                newer.cuda.matmul.fp32_precision = newer.cudnn.conv.fp32_precision = way
            before = precision()
            ahead.effect(rows(SIZE, 2), weights())
            assert precision() == before
        finally:
            if newer is None:
                torch.set_float32_matmul_precision("highest")
    assert set(seen) == {("highest", False) if newer is None else ("ieee", "ieee")}


def test_steps_that_are_not_known() -> None:
    model = mlp()
    with pytest.raises(StrategyError, match="optimizer=None and eta=None"):
        LookAhead(model, [rows(4, 1)])
    with pytest.raises(StrategyError, match="torch's RMSprop"):
        LookAhead(model, [rows(4, 1)], RMSprop(model.parameters()))
    with pytest.raises(StrategyError, match="a parameter in common"):
        LookAhead(model, [rows(4, 1)], SGD(mlp().parameters())).effect(rows(SIZE, 2), weights())


def test_losses_that_are_none() -> None:
    target = [rows(4, 1)]
    wrong = {
        "6 losses": None,
        "shape|float64 \\(\\)": lambda model, batch: image_losses(model, batch).mean(),
        "without a graph": lambda model, batch: image_losses(model, batch).detach(),
        "int": lambda model, batch: 3,
    }
    for found, loss_fn in wrong.items():
        with pytest.raises(LossError, match=found):
            LookAhead(mlp(), target, eta=0.1, loss_fn=loss_fn).effect(rows(SIZE, 2), torch.ones(5))


def test_gradients_that_are_not_finite() -> None:
    broken = rows(4, 1)
    broken[0][0, 0] = math.nan
    with pytest.raises(StrategyError, match="gradient of the target is not finite"):
        LookAhead(mlp(), [broken], eta=0.1).effect(rows(SIZE, 2), weights())
    with pytest.raises(StrategyError, match="gradient of the batch is not finite"):
        LookAhead(mlp(), [rows(4, 2)], eta=0.1).effect(broken, torch.ones(4))
