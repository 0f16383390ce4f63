"""Inner products of per-sample gradients are those of explicit ones; the model does not notice."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import MODELS, batch, gpt2, llama
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from weighted_stream.errors import LossError, StrategyError
from weighted_stream.probes.factors import Factors
from weighted_stream.probes.gradients import GradientProbe

F64 = {"rtol": 1e-9, "atol": 1e-12}
TOKENS = torch.tensor([[1, 2, 1], [0, 6, 2], [2, 7, 0], [3, 2, 5], [8, 10, 3]])


def lm_losses(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Causal language modelling in the model's own dtype: (B,)."""
    logits = model(**inputs).logits
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    return nn.functional.cross_entropy(logits[:, :-1].mT, labels[:, 1:], reduction="none").mean(1)


def explicit(model: nn.Module, losses: Callable[[nn.Module], Tensor], names: list[str]) -> Tensor:
    """The gradients themselves, one backward a sample, in evaluation mode: (B, P)."""
    model = copy.deepcopy(model).eval()
    parameters = [dict(model.named_parameters())[name] for name in names]
    rows = []
    for loss in losses(model):
        one = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        rows.append(
            torch.cat(
                [torch.zeros(p.numel()) if g is None else g.flatten() for g, p in zip(one, parameters, strict=True)]
            )
        )
    return torch.stack(rows)


def check(probe: GradientProbe, losses: Callable[[nn.Module], Tensor]) -> None:
    """Pairs, direction, both with a scale, and the sum, against the gradients themselves."""
    draw = torch.Generator().manual_seed(1)
    direction, scale = (
        {name: torch.rand(p.shape, generator=draw, dtype=p.dtype) for name, p in probe.parameters.items()}
        for _ in range(2)
    )
    names = list(probe.parameters)
    flat, factor = (torch.cat([tensors[name].flatten() for name in names]) for tensors in (direction, scale))
    gradients = explicit(probe.model, losses, names)

    def run() -> Tensor:
        return losses(probe.model)

    size = gradients.norm() ** 2
    seen = probe.products(run, direction)
    torch.testing.assert_close(seen.gram / size, gradients @ gradients.T / size, **F64)
    torch.testing.assert_close(seen.along, gradients @ flat, **F64)
    alone = probe.products(run, direction.__getitem__, pairs=False)
    assert alone.gram is None
    torch.testing.assert_close(alone.along, gradients @ flat, **F64)
    seen = probe.products(run, direction, scale=scale)
    scaled = gradients * factor
    torch.testing.assert_close(seen.gram, scaled @ scaled.T, **F64)
    torch.testing.assert_close(seen.along, gradients @ flat, **F64)
    sums, count = probe.gradient(run)
    assert count == len(gradients)
    torch.testing.assert_close(torch.cat([sums[name].flatten() for name in names]), gradients.sum(0), **F64)


@pytest.mark.parametrize("order", ["positions", "parameters", None])
@pytest.mark.parametrize("workspace", [2**27, 2**9])
@pytest.mark.parametrize("kind", list(MODELS))
def test_language_models(kind: str, order: str | None, workspace: int) -> None:
    """GPT-2 ties its embeddings and has biases and Conv1D, Llama has neither; the padding is on the right."""
    model = MODELS[kind](dropout=0.1, layers=1).double()
    probe = GradientProbe(model, order=order, workspace=workspace)
    assert ("lm_head.weight" in probe.parameters) == (kind == "llama")
    check(probe, lambda m: lm_losses(m, batch(4)))


def test_explicit_gradients_by_torch_func() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(4, 6, dtype=torch.float64), torch.tensor([0, 2, 1, 1])
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(model, parameters, x[None]), y[None])

    each = vmap(grad(loss), (None, 0, 0))(parameters, x, y)
    gradients = torch.cat([one.flatten(1) for one in each.values()], dim=1)
    for order in ("positions", "parameters"):
        probe = GradientProbe(model, order=order)
        seen = probe.products(lambda: nn.functional.cross_entropy(model(x), y, reduction="none"))
        torch.testing.assert_close(seen.gram, gradients @ gradients.T, **F64)
    assert seen.along is None


@pytest.mark.parametrize("order", ["positions", "parameters"])
def test_padding_adds_nothing(order: str) -> None:
    """The same rows with more padding, and rows of other samples, leave a pair's product as it is."""
    model = llama().double()
    inputs = batch(3)
    longer = {name: nn.functional.pad(values, (0, 5)) for name, values in inputs.items()}
    probe = GradientProbe(model, order=order)

    def totals(inputs: dict[str, Tensor]) -> Tensor:
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        logits = model(**inputs).logits
        return nn.functional.cross_entropy(logits[:, :-1].mT, labels[:, 1:], reduction="none").sum(1)

    short = probe.products(lambda: totals(inputs)).gram
    torch.testing.assert_close(probe.products(lambda: totals(longer)).gram, short, **F64)
    pair = {name: values[:2] for name, values in inputs.items()}
    torch.testing.assert_close(probe.products(lambda: totals(pair)).gram, short[:2, :2], **F64)


class LoraLinear(nn.Module):
    """An adapter around a frozen layer, named as peft names it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, 3, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(3, base.out_features, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + 2.0 * self.lora_B["default"](self.lora_A["default"](x))


@pytest.mark.parametrize("layers", ["lora", "all"])
def test_adapters(layers: str) -> None:
    model = llama(layers=1).requires_grad_(False)
    attention = model.model.layers[0].self_attn
    attention.q_proj, attention.v_proj = LoraLinear(attention.q_proj), LoraLinear(attention.v_proj)
    model.double()
    probe = GradientProbe(model, layers)
    assert sorted(probe.parameters) == sorted(name for name, p in model.named_parameters() if "lora" in name)
    check(probe, lambda m: lm_losses(m, batch(4)))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # by peft
def test_adapters_of_peft() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.1, init_lora_weights=False)
    model = peft.get_peft_model(llama(layers=1), config).double()
    probe = GradientProbe(model, "lora")
    assert len(probe.parameters) == 4
    check(probe, lambda m: lm_losses(m, batch(4)))


def test_the_head_alone() -> None:
    model = llama().double()
    check(GradientProbe(model, "head"), lambda m: lm_losses(m, batch(4)))
    tied = gpt2().double()
    probe = GradientProbe(tied, "head")
    loose = copy.deepcopy(tied)
    loose.lm_head.weight = nn.Parameter(loose.lm_head.weight.detach().clone())
    expected = explicit(loose, lambda m: lm_losses(m, batch(4)), ["lm_head.weight"])
    seen = probe.products(lambda: lm_losses(tied, batch(4)))
    torch.testing.assert_close(seen.gram, expected @ expected.T, **F64)


class Odd(nn.Module):
    """A layer called three times, on different lengths; an embedding with padding; in-place activation; 4-d."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4, padding_idx=0)
        self.twice = nn.Linear(4, 4)
        self.four = nn.Linear(2, 2)
        self.unused = nn.Linear(4, 4)
        self.out = nn.Linear(4, 1, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = nn.functional.relu_(self.twice(self.embed(tokens)))
        hidden = hidden + self.twice(input=hidden)
        hidden = hidden + self.four(hidden.unflatten(2, (2, 2))).sin().flatten(2)
        return self.out(self.twice(hidden.mean(1)).tanh()).squeeze(1)


@pytest.mark.parametrize("order", ["positions", "parameters"])
def test_calls_embeddings_and_shapes(order: str) -> None:
    model = Odd().double()
    tokens = TOKENS
    probe = GradientProbe(model, ["embed", model.twice, "four", "out", "unused"], order=order)
    check(probe, lambda m: m(tokens) ** 2)


def test_modules_stand_for_the_layers_inside() -> None:
    model = gpt2()
    inside = GradientProbe(model, ["transformer.h.0"])
    assert {name.rsplit(".", 1)[0] for name in inside.parameters} == {
        f"transformer.h.0.{name}" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    frozen = llama()
    frozen.lm_head.requires_grad_(False)
    assert "lm_head.weight" not in GradientProbe(frozen).parameters


def test_nothing_is_left_behind() -> None:
    model = gpt2(dropout=0.1)
    model.transformer.h[0].eval()
    lm_losses(model, batch(3)).mean().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    flags = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    probe = GradientProbe(model)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch.no_grad():
        probe.products(lambda: lm_losses(model, batch(3)), probe.gradient(lambda: lm_losses(model, batch(4)))[0])
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    assert [module.training for module in model.modules()] == flags
    assert not any(module._forward_hooks for module in model.modules())
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.equal(p.grad, gradient)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])


def test_no_gradient_of_a_parameter_is_computed() -> None:
    model = llama(layers=1)
    fired = []
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(lambda p: fired.append(p))
        p.register_hook(lambda gradient: fired.append(gradient))
    GradientProbe(model).products(lambda: lm_losses(model, batch(3)))
    assert not fired
    assert all(p.grad is None for p in model.parameters())


def test_half_precision_and_autocast() -> None:
    model = llama(layers=1)
    exact = explicit(model, lambda m: lm_losses(m, batch(4)), list(GradientProbe(model).parameters))
    size = exact.norm() ** 2
    expected = exact @ exact.T / size

    def under_autocast() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return lm_losses(model, batch(4)).float()

    seen = GradientProbe(model).products(under_autocast)
    assert seen.gram.dtype == torch.float32
    torch.testing.assert_close(seen.gram / size, expected, rtol=0.02, atol=0.02)
    half = copy.deepcopy(model).bfloat16()
    seen = GradientProbe(half).products(lambda: lm_losses(half, batch(4)))
    assert seen.gram.dtype == torch.float32
    torch.testing.assert_close(seen.gram / size, expected, rtol=0.03, atol=0.03)


def test_small_gradients_in_float16() -> None:
    """Those of a mean over many tokens and words: below the smallest number there is in 16 bits."""
    model = llama(layers=1)

    def small() -> Tensor:
        return lm_losses(model, batch(4)).float() * 1e-6

    expected = GradientProbe(model).products(small).gram

    def under_autocast() -> Tensor:
        with torch.autocast("cpu", torch.float16):
            return small()

    found = GradientProbe(model).products(under_autocast).gram
    torch.testing.assert_close(found / expected.norm(), expected / expected.norm(), rtol=0.02, atol=0.02)


def test_wrapped_models() -> None:
    model = gpt2(layers=1).double()
    compiled = GradientProbe(torch.compile(model))
    assert compiled.model is model
    check(compiled, lambda m: lm_losses(m, batch(3)))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's compiler
def test_compiled_parts_run_as_written_while_they_are_looked_at() -> None:
    model, twin = llama(layers=1), llama(layers=1)
    runs = []

    def backend(graph: Any, inputs: list[Tensor]) -> Any:
        runs.append(graph)
        return graph.forward

    model.model.layers[0].compile(backend=backend)
    model.lm_head = torch.compile(model.lm_head, backend=backend)
    lm_losses(model, batch(3))
    compiled = len(runs)
    assert compiled
    seen = GradientProbe(model).products(lambda: lm_losses(model, batch(3)))
    torch.testing.assert_close(seen.gram, GradientProbe(twin).products(lambda: lm_losses(twin, batch(3))).gram)
    lm_losses(model, batch(3))
    assert len(runs) == compiled


@pytest.mark.parametrize("order", ["positions", "parameters"])
def test_checkpointing(order: str) -> None:
    """Layers that run again during the backward count once."""
    inner = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4)).double()

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = inner, nn.Linear(4, 1).double()

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False)
            return self.outer(x + hidden).square().sum((1, 2))

    draw = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, 4, dtype=torch.float64, generator=draw)
    check(GradientProbe(Checkpointed(), order=order), lambda m: m(x))


def test_a_reentrant_checkpoint_is_refused() -> None:
    model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)])

    def losses() -> Tensor:
        hidden = torch.utils.checkpoint.checkpoint(model[1], model[0](torch.ones(3, 4)), use_reentrant=True)
        return model[2](hidden).squeeze(1)

    with pytest.raises(StrategyError, match="reentrant checkpoint"):
        GradientProbe(model).products(losses)


def test_a_hook_of_the_users_that_changes_the_output() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    model[0].register_forward_hook(lambda module, args, output: output * torch.linspace(0, 3, 4).double())
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    check(GradientProbe(model), lambda m: m(x).square().sum(1))


def test_a_head_whose_weight_is_used_and_that_is_not_called() -> None:
    model = llama()

    def losses() -> Tensor:
        hidden = model.model(**batch(4)).last_hidden_state
        return nn.functional.linear(hidden, model.lm_head.weight).square().mean((1, 2))

    with pytest.raises(StrategyError, match="No call of the layers was seen"):
        GradientProbe(model, "head").products(losses)


@pytest.mark.parametrize("kind", list(MODELS))
def test_factors_are_freed_layer_by_layer(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a layer's products are made, output gradients of no other layer are held, but for tied embeddings."""
    model = MODELS[kind](layers=3)
    probe = GradientProbe(model)
    born: list[weakref.ref[Tensor]] = []
    alive = []

    def summed_up(name: str, parts: list[Factors], *rest: Any) -> Any:
        alive.append(sum(ref() is not None for ref in born))
        born.extend(weakref.ref(part.rows) for part in parts)
        return GradientProbe._multiply(probe, name, parts, *rest)

    monkeypatch.setattr(probe, "_multiply", summed_up)
    probe.products(lambda: lm_losses(model, batch(3)))
    assert len(alive) == len(probe.parameters) > 12
    assert max(alive) <= 1


def test_projected_products_are_right_on_average() -> None:
    model = gpt2(layers=1).double()
    exact = GradientProbe(model)
    direction, _ = exact.gradient(lambda: lm_losses(model, batch(3, seed=1)))
    expected = exact.products(lambda: lm_losses(model, batch(4)), direction)
    grams, alongs = [], []
    for seed in range(40):
        probe = GradientProbe(model, projection=(16, 16))
        probe.projection.seed = seed
        seen = probe.products(lambda: lm_losses(model, batch(4)), direction)
        again = probe.products(lambda: lm_losses(model, batch(4)), direction)
        torch.testing.assert_close(again.gram, seen.gram, rtol=0, atol=0)
        grams.append(seen.gram)
        alongs.append(seen.along)
        # A gram matrix of what was projected, together with the direction: no eigenvalue below 0.
        assert torch.linalg.eigvalsh(seen.gram).min() > -1e-9
    size = expected.gram.diagonal().mean()
    assert (torch.stack(grams).mean(0) - expected.gram).abs().max() < 0.1 * size
    assert 0.01 * size < (grams[0] - expected.gram).abs().max() < 1.0 * size
    error = (torch.stack(alongs).mean(0) - expected.along).abs().max()
    assert error < 0.1 * expected.along.abs().max() + 0.1 * size


def test_sketches_multiply_over_several_forwards() -> None:
    model = gpt2(layers=1).double()
    extra = nn.ModuleDict({"model": model, "unused": nn.Linear(40, 3)}).double()
    inputs = batch(5)
    probe = GradientProbe(extra, projection=(8, 4))
    direction, _ = probe.gradient(lambda: lm_losses(model, batch(3, seed=1)))
    whole = probe.products(lambda: lm_losses(model, inputs), direction)
    parts = [{name: values[some] for name, values in inputs.items()} for some in (slice(0, 2), slice(2, 5))]
    seen = [probe.sketches(lambda part=part: lm_losses(model, part)) for part in parts]
    rows = torch.cat([sketches for _, sketches in seen])
    torch.testing.assert_close(torch.cat([values for values, _ in seen]), whole.losses)
    torch.testing.assert_close(rows @ rows.T, whole.gram, **F64)
    torch.testing.assert_close(rows @ probe.sketch(direction), whole.along, **F64)
    with pytest.raises(StrategyError, match="projection"):
        GradientProbe(model).sketches(lambda: lm_losses(model, inputs))
    with pytest.raises(StrategyError, match="projection"):
        GradientProbe(model).sketch(direction)


def test_a_projection_that_is_no_shorter_changes_nothing() -> None:
    model = Odd().double()
    tokens = TOKENS
    layers, y = ["embed", "twice", "out"], torch.zeros(4)
    direction, _ = GradientProbe(model, layers).gradient(lambda: model(tokens))
    plain = GradientProbe(model, layers).products(lambda: model(tokens), direction)
    same = GradientProbe(model, layers, projection=(50, 50)).products(lambda: model(tokens), direction)
    torch.testing.assert_close(same.gram, plain.gram, **F64)
    torch.testing.assert_close(same.along, plain.along, **F64)
    with pytest.raises(StrategyError, match="projection"):
        GradientProbe(model, layers, projection=(2, 2)).products(lambda: model(tokens), scale=direction)
    square = GradientProbe(model, ["twice"], projection=(2, 2)).sketch({"twice.weight": torch.eye(4), "twice.bias": y})
    assert (square[:4].view(2, 2) - square[:4].view(2, 2).T).abs().max() > 0.01  # both sides are projected by their own
    with pytest.raises(StrategyError, match="nothing"):
        GradientProbe(model, layers, projection=(0, 2))


@pytest.mark.parametrize("cut", ["no_grad", "detach", "unused"])
def test_calls_without_a_part_in_the_losses(cut: str) -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4).double()

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.layer(x).tanh()
            with torch.set_grad_enabled(cut != "no_grad"):
                more = self.layer(hidden)
            hidden = hidden if cut == "unused" else hidden * more.detach()
            return self.layer(hidden).sum((1, 2))

    draw = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, 4, dtype=torch.float64, generator=draw)
    check(GradientProbe(Cut()), lambda m: m(x))


class Shared(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.table = nn.Embedding(5, 4)
        self.inner = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.inner(self.table(tokens))
        if self.kind == "functional":
            hidden = hidden + nn.functional.linear(hidden, self.inner.weight)
        if self.kind == "attention":
            hidden, _ = self.attention(hidden, hidden, hidden)
        if self.kind == "flat":
            hidden = self.inner(hidden.flatten(0, 1)).view_as(hidden)
        if self.kind == "broadcast":
            hidden = hidden + self.table(torch.arange(3)[None])
        return hidden.square().sum((1, 2))


@pytest.mark.parametrize(
    ("kind", "layers", "message"),
    [
        ("functional", "all", "inner.weight"),
        ("attention", "all", "attention.out_proj"),
        ("flat", "all", r"\(6, 4\)"),
        ("broadcast", ["table"], r"\(1, 3\)"),
    ],
)
def test_what_cannot_be_seen_is_said(kind: str, layers: object, message: str) -> None:
    model = Shared(kind)
    with pytest.raises(StrategyError, match=message):
        GradientProbe(model, layers).products(lambda: model(torch.ones(2, 3, dtype=torch.long)))
    assert not any(module._forward_hooks for module in model.modules())


def test_layers_that_cannot_be_treated() -> None:
    odd = nn.Sequential(nn.Conv2d(1, 2, 1), nn.LayerNorm(4), nn.Linear(4, 4))
    with pytest.raises(StrategyError, match="Conv2d"):
        GradientProbe(odd, ["0"])
    with pytest.raises(StrategyError, match="LayerNorm"):
        GradientProbe(odd, ["2", odd[1]])
    with pytest.raises(StrategyError, match="no 'none'"):
        GradientProbe(odd, ["none"])
    with pytest.raises(StrategyError, match="'heads'"):
        GradientProbe(odd, "heads")
    with pytest.raises(StrategyError, match="no such layer"):
        GradientProbe(odd, "lora")
    with pytest.raises(StrategyError, match="frozen"):
        GradientProbe(odd.requires_grad_(False))
    with pytest.raises(StrategyError, match="parametrizations"):
        GradientProbe(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))))
    with pytest.raises(StrategyError, match="max_norm"):
        GradientProbe(nn.Sequential(nn.Embedding(3, 2, max_norm=1.0)), ["0"])

    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    with pytest.raises(StrategyError, match="forward of its own"):
        GradientProbe(nn.Sequential(Scaled(2, 2)))
    patched = nn.Linear(2, 2)
    patched.forward = lambda x: 2 * nn.functional.linear(x, patched.weight)
    with pytest.raises(StrategyError, match="in the place of its own"):
        GradientProbe(nn.Sequential(patched))


def test_losses_must_be_per_sample() -> None:
    model = llama(layers=1)
    probe = GradientProbe(model)
    with pytest.raises(LossError, match=r"shape \(\)"):
        probe.products(lambda: lm_losses(model, batch(3)).mean())
    with pytest.raises(LossError, match="graph"):
        probe.products(lambda: lm_losses(model, batch(3)).detach())
