"""Hidden states seen from outside equal those a model gives when asked, whatever is around the model."""

from __future__ import annotations

import copy
import gc
import pickle

import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from weighted_stream import StrategyError
from weighted_stream.probes.hidden_states import FORWARDS, HiddenStateProbe, position_weighted_mean

pytestmark = [
    # Dynamo looks into things that warn when looked into; it hides that, but not where warnings are errors.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning"),
]
models = pytest.mark.parametrize("make", tiny_models.MODELS.values(), ids=tiny_models.MODELS)
paddings = pytest.mark.parametrize("padding", ["left", "right"])


class Toy(nn.Module):
    """Tokens to scores, with a mask that only the probe looks at."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Embedding(20, 4)
        self.head = nn.Linear(4, 20)

    def forward(self, tokens, attention_mask=None, *, last=0):
        return self.head(self.body(tokens)[:, -last:])


def tokens(size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 20, (size, 5), generator=torch.Generator().manual_seed(seed))


def want(model: Toy, rows: torch.Tensor) -> torch.Tensor:
    return position_weighted_mean(model.body.weight.detach()[rows])


def close(found: torch.Tensor | None, expected: torch.Tensor) -> None:
    assert found is not None
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_the_published_vector() -> None:
    hidden = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    found = position_weighted_mean(hidden, torch.ones(1, 3))
    torch.testing.assert_close(found, torch.tensor([[0.62470, 0.78087]]), atol=1e-5, rtol=0)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.sampled_from(["left", "right"]), st.booleans())
def test_padding_anywhere_equals_the_row_without_it(lengths: list[int], padding: str, boolean: bool) -> None:
    hidden = torch.randn(len(lengths), 6, 3, generator=torch.Generator().manual_seed(sum(lengths)))
    mask = (torch.arange(6) < torch.tensor(lengths)[:, None]).long()
    mask = mask.flip(1) if padding == "left" else mask
    found = position_weighted_mean(hidden, mask.bool() if boolean else mask)
    for row, length in enumerate(lengths):
        if length == 0:
            assert found[row].tolist() == [0.0, 0.0, 0.0]
        else:
            close(found[row], position_weighted_mean(hidden[row, mask[row].bool()][None])[0])


def test_it_is_computed_in_float32() -> None:
    hidden = torch.randn(2, 400, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = position_weighted_mean(hidden)
    assert found.dtype == torch.float32
    close(found, position_weighted_mean(hidden.double()).float())


@models
@paddings
def test_what_the_probe_sees_is_what_the_model_says(make, padding: str) -> None:
    model = make()
    with HiddenStateProbe(model) as probe:
        for seed in range(2):
            inputs = tiny_models.batch(5, padding, seed)
            tiny_models.losses(model, inputs).mean().backward()
            found = probe.take(5)
            close(found, tiny_models.phi(model, inputs))
            assert not found.requires_grad
            assert found.untyped_storage().nbytes() == found.numel() * 4
        assert probe.take(5) is None


@models
def test_under_compile(make) -> None:
    torch._dynamo.reset()
    model = make(layers=1)
    probe = HiddenStateProbe(model)
    compiled = torch.compile(model, backend="eager")
    for seed in range(2):
        inputs = tiny_models.batch(4, "left", seed)
        tiny_models.losses(compiled, inputs).mean().backward()
        close(probe.take(4), tiny_models.phi(model, inputs))


def test_under_compile_through_autograd() -> None:
    torch._dynamo.reset()
    model = Toy()
    probe = HiddenStateProbe(model, head="head")
    compiled = torch.compile(model, backend="aot_eager")
    for seed in range(2):
        compiled(tokens(3, seed)).square().mean().backward()
        close(probe.take(3), want(model, tokens(3, seed)))
    assert model.body.weight.grad is not None


def test_a_probe_made_of_a_compiled_model_that_has_not_run_yet() -> None:
    torch._dynamo.reset()
    model = Toy()
    compiled = torch.compile(model, backend="eager")
    probe = HiddenStateProbe(compiled, head="head")
    compiled(tokens(3))
    close(probe.take(3), want(model, tokens(3)))


def test_a_model_compiled_and_run_before_says_what_to_do() -> None:
    torch._dynamo.reset()
    model = Toy()
    compiled = torch.compile(model, backend="eager")
    compiled(tokens(3))
    probe = HiddenStateProbe(model, head="head")
    compiled(tokens(3))
    with pytest.raises(StrategyError, match="before the first call of a compiled model"):
        probe.take(3)


@models
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_is_seen_once(make, reentrant: bool) -> None:
    model = make()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    probe, inputs = HiddenStateProbe(model), tiny_models.batch(4)
    losses = tiny_models.losses(model, inputs)
    close(probe.take(4), tiny_models.phi(model, inputs))
    losses.mean().backward()
    assert probe.take(4) is None


def test_a_model_checkpointed_as_a_whole_is_seen_once() -> None:
    model = Toy()
    probe = HiddenStateProbe(model, head="head")
    output = checkpoint(model, tokens(3), use_reentrant=False)
    close(probe.take(3), want(model, tokens(3)))
    output.sum().backward()  # runs the forward again
    assert probe.take(3) is None


def test_several_forwards_are_taken_together_in_their_order() -> None:
    model = Toy()
    probe = HiddenStateProbe(model, head="head")
    for size in 1, 3, 2:
        model(tokens(size, size))
    close(probe.take(6), torch.cat([want(model, tokens(size, size)) for size in (1, 3, 2)]))


def test_a_batch_that_is_run_again_is_taken_as_it_ran_last() -> None:
    model = Toy()
    probe = HiddenStateProbe(model, head="head")
    model(tokens(4))
    nn.init.normal_(model.body.weight)
    model(tokens(2, 1))
    model(tokens(2, 2))
    close(probe.take(4), torch.cat([want(model, tokens(2, 1)), want(model, tokens(2, 2))]))
    assert probe.take(4) is None


def test_evaluation_leaves_no_trace() -> None:
    model = Toy()
    probe = HiddenStateProbe(model, head="head")
    model(tokens(3))
    with torch.no_grad():
        model(tokens(3, 9))
    with torch.inference_mode():
        model(tokens(5, 9))
    close(probe.take(3), want(model, tokens(3)))


def test_forwards_that_do_not_fit_the_batch() -> None:
    model = Toy()
    probe = HiddenStateProbe(model, head="head")
    model(tokens(3))
    model(tokens(4))
    with pytest.raises(StrategyError, match=r"…, 4|3, 4") as error:
        probe.take(5)
    assert "5 samples" in error.value.expected
    assert probe.take(5) is None
    model(tokens(3))
    with pytest.raises(StrategyError, match="found:    3 samples"):
        probe.take(5)


def test_memory_is_bounded() -> None:
    model = Toy()
    probe = HiddenStateProbe(model, head="head")
    for _ in range(FORWARDS + 50):
        model(tokens(1))
    assert len(probe._kept) == FORWARDS
    assert probe.take(FORWARDS).shape == (FORWARDS, 4)
    assert not probe._kept


def test_reading_on_the_side_leaves_what_is_pending() -> None:
    model = Toy()
    probe = HiddenStateProbe(model, head="head")
    model(tokens(3))
    with torch.no_grad():
        found = probe.read(lambda: [model(tokens(2, seed)) for seed in (5, 6)])
    close(found, torch.cat([want(model, tokens(2, seed)) for seed in (5, 6)]))
    close(probe.take(3), want(model, tokens(3)))
    with pytest.raises(StrategyError, match="No forward of Toy"):
        probe.read(lambda: None)


@models
def test_a_head_on_some_tokens_only(make) -> None:
    model, inputs = make(), tiny_models.batch(3)
    probe = HiddenStateProbe(model)
    model(**inputs, logits_to_keep=1)
    with pytest.raises(StrategyError, match="body=") as error:
        probe.take(3)
    assert "(3, 1, 32) for tokens (3, 7)" in error.value.found
    model(input_ids=inputs["input_ids"], logits_to_keep=1)  # without a mask the tokens tell
    with pytest.raises(StrategyError, match=r"\(3, 1, 32\) for tokens"):
        probe.take(3)
    probe.close()
    probe = HiddenStateProbe(model, body=model.base_model)
    model(**inputs, logits_to_keep=1)
    close(probe.take(3), tiny_models.phi(model, inputs))


class Fused(Toy):
    """As fused losses do it: the head's weight is used, the head is not called."""

    def forward(self, tokens, attention_mask=None):
        return self.body(tokens) @ self.head.weight.T


def test_a_fused_loss_says_what_to_do_and_body_does_it() -> None:
    model = Fused()
    probe = HiddenStateProbe(model, head="head")
    model(tokens(3))
    with pytest.raises(StrategyError, match="fused loss") as error:
        probe.take(3)
    assert "body=" in error.value.do
    with pytest.raises(StrategyError, match="fused loss"):
        probe.read(lambda: model(tokens(3)))
    probe = HiddenStateProbe(model, body="body")
    model(tokens(3))
    close(probe.take(3), want(model, tokens(3)))


def test_a_head_called_by_itself_has_no_mask_and_is_refused() -> None:
    model = Toy()
    probe = HiddenStateProbe(model, head="head")
    model.head(model.body(tokens(3)))
    with pytest.raises(StrategyError, match="called by itself"):
        probe.take(3)
    model.head(model.body(tokens(3)))  # of no interest to whoever does not ask
    model(tokens(3))
    close(probe.take(3), want(model, tokens(3)))


def test_where_the_mask_is() -> None:
    model, mask = Toy(), torch.tensor([[0, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    expected = position_weighted_mean(model.body.weight.detach()[tokens(2)], mask)
    probe = HiddenStateProbe(model, head="head")
    model(tokens(2), mask)
    close(probe.take(2), expected)
    model(tokens=tokens(2), attention_mask=mask)
    close(probe.take(2), expected)
    probe = HiddenStateProbe(model, head=model.head, mask=lambda args, kwargs: args[0] != 7)
    model(tokens(2))
    close(probe.take(2), position_weighted_mean(model.body.weight.detach()[tokens(2)], tokens(2) != 7))


def test_a_mask_that_is_none() -> None:
    model = Toy()
    probe = HiddenStateProbe(model, head="head")
    model(tokens(2), torch.ones(2, 1, 5, 5))
    with pytest.raises(StrategyError, match=r"mask of shape \(2, 1, 5, 5\)"):
        probe.take(2)


def test_a_decoder_has_its_own_mask() -> None:
    sizes = {"vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = tiny_models.transformers.T5Config(**sizes, decoder_start_token_id=0)
    model = tiny_models.transformers.T5ForConditionalGeneration(config).eval()
    probe = HiddenStateProbe(model)
    decoder_mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    inputs = {"input_ids": torch.ones(2, 3).long(), "attention_mask": torch.tensor([[1, 0, 0], [1, 1, 0]])}
    inputs |= {"decoder_input_ids": torch.tensor([[0, 5, 0], [0, 6, 7]]), "decoder_attention_mask": decoder_mask}
    out = model(**inputs, output_hidden_states=True)
    close(probe.take(2), position_weighted_mean(out.decoder_hidden_states[-1].detach(), decoder_mask))


def test_a_head_that_sees_one_vector_a_sample() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    probe, rows = HiddenStateProbe(model, head="2"), torch.randn(5, 3)
    model(rows)
    close(probe.take(5), nn.functional.normalize(model[:2](rows).detach(), dim=1))


def test_under_autocast() -> None:
    model, inputs = tiny_models.llama(), tiny_models.batch(4)
    probe = HiddenStateProbe(model)
    with torch.autocast("cpu", torch.bfloat16):
        tiny_models.losses(model, inputs).mean().backward()
        torch.testing.assert_close(probe.take(4), tiny_models.phi(model, inputs), atol=1e-5, rtol=0)
    assert probe.autocast == ("cpu", torch.bfloat16, True)


class Adapter(nn.Module):
    """As PEFT wraps a model: named arguments, everything else passed on."""

    def __init__(self, base) -> None:
        super().__init__()
        self.base = base

    def forward(self, input_ids=None, attention_mask=None, **rest):
        return self.base(input_ids=input_ids, attention_mask=attention_mask, **rest)

    def get_output_embeddings(self):
        return self.base.get_output_embeddings()


def test_inside_an_adapter() -> None:
    model, inputs = Adapter(tiny_models.llama()), tiny_models.batch(4, "left")
    probe = HiddenStateProbe(model)
    model(inputs["input_ids"], inputs["attention_mask"])
    close(probe.take(4), tiny_models.phi(model, inputs))


def test_a_copy_of_the_model_is_not_heard() -> None:
    model = Toy()
    probe = HiddenStateProbe(model, head="head")
    replica = copy.copy(model)  # as DataParallel makes them
    replica._modules = {name: copy.copy(module) for name, module in model._modules.items()}
    copies = replica, copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    for other in copies:
        other(tokens(3))
    assert probe.take(3) is None
    model(tokens(3))
    close(probe.take(3), want(model, tokens(3)))


def test_hooks_go_with_the_probe() -> None:
    model = Toy()
    probe = HiddenStateProbe(model, head="head")
    probe.close()
    model(tokens(3))
    assert probe.take(3) is None
    probe = HiddenStateProbe(model, head="head")
    assert model._forward_pre_hooks
    del probe
    gc.collect()
    assert not model._forward_pre_hooks
    assert not model.head._forward_pre_hooks


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, "no get_output_embeddings"),
        ({"head": "lm_head"}, "no module named 'lm_head'"),
        ({"head": "head", "body": "body"}, "both head and body"),
        ({"head": nn.Linear(4, 20)}, "not a part of it"),
    ],
)
def test_a_head_that_cannot_be_found(options, found: str) -> None:
    with pytest.raises(StrategyError, match=found) as error:
        HiddenStateProbe(Toy(), **options)
    assert "head=" in error.value.do


def test_no_model() -> None:
    with pytest.raises(StrategyError, match=r"torch\.nn\.Module"):
        HiddenStateProbe(lambda x: x)
