"""chunk_size: the losses and gradients of the logits, without the logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")
pytest.importorskip("datasets")

import transformers
from test_hf_trainer import TOKENS, VOCABULARY, labels, logged, parameters, running, tokens, trainer
from test_hf_trainer import language_model as gpt2

from weighted_stream import LossError, causal_lm_losses, label_losses
from weighted_stream.trainers import chunked_head
from weighted_stream.trainers.chunked_head import ChunkedHead, ChunkedModel

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def llama(**more: Any) -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SMALL, **more}))


def gemma2() -> Any:
    return transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=30.0, attn_implementation="eager")
    )


def with_lora() -> Any:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    return peft.get_peft_model(llama(), config)


def with_a_bias() -> Any:
    model = llama()
    model.lm_head = nn.Linear(16, VOCABULARY)
    return model


MODELS = {
    "tied": gpt2,
    "untied": llama,
    "a bias": with_a_bias,
    "scaled": lambda: transformers.CohereForCausalLM(transformers.CohereConfig(**SMALL, logit_scale=0.0625)),
    "divided": lambda: transformers.GraniteForCausalLM(transformers.GraniteConfig(**SMALL, logits_scaling=3.0)),
    "lora": with_lora,
    "half": lambda: llama().to(torch.bfloat16),
}


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("kind", MODELS)
def test_losses_and_gradients_are_those_of_the_logits(kind: str) -> None:
    torch.manual_seed(0)
    model = MODELS[kind]().train()
    x, y = tokens()[:5], labels()[:5]
    weights = torch.tensor([0.5, 0.0, 1.5, 2.0, 1.0])
    logits = model(input_ids=x).logits
    expected = causal_lm_losses({"logits": logits}, {"labels": y})
    (expected * weights).sum().backward()
    wanted = gradients(model)
    model.zero_grad()
    chunked = ChunkedModel(model, 7, shifts=True)
    outputs = model(input_ids=x, labels=y)
    assert outputs.logits is None
    (outputs.loss * weights).sum().backward()
    close = {"atol": 1e-2, "rtol": 0.05} if kind == "half" else {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(outputs.loss, expected, **close)
    found = gradients(model)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}", **close)
    assert torch.equal(model.eval()(input_ids=x, labels=y).logits, logits) or kind == "half"
    chunked.end()
    assert "forward" not in vars(model)
    assert torch.equal(model.train()(input_ids=x, labels=y).logits, logits)


def test_an_autocast_around_all_of_it() -> None:
    """As Composer has it: what looks for the factor leaves no casts without a graph to the training forward."""
    torch.manual_seed(0)
    model = llama().train()
    chunked = ChunkedModel(model, 7, shifts=True)
    with torch.autocast("cpu", torch.bfloat16):
        model(input_ids=tokens()[:5], labels=labels()[:5]).loss.mean().backward()
    assert gradients(model).keys() == dict(model.named_parameters()).keys()
    chunked.end()


def test_an_encoder_and_decoder() -> None:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    config.decoder_start_token_id = 0
    model = transformers.T5ForConditionalGeneration(config).train()
    y = labels()[:5]
    batch = {"input_ids": tokens()[:5], "decoder_input_ids": tokens()[5:10]}
    expected = label_losses(model(**batch), {"labels": y})
    ChunkedModel(model, 7, shifts=False)
    torch.testing.assert_close(model(**batch, labels=y).loss, expected, atol=1e-5, rtol=0)


def test_the_logits_of_a_chunk_are_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = llama(vocab_size=1000).train(), []
    ChunkedModel(model, 7, shifts=True)
    x, y = tokens()[:5], labels()[:5]

    class Sizes(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = function(*args, **(kwargs or {}))
            sizes.extend([made.shape] if isinstance(made, torch.Tensor) and made.shape[-1:] == (1000,) else [])
            return made

    with Sizes():
        loss = model(input_ids=x, labels=y).loss.sum()
    loss.backward()
    assert {shape[:-1].numel() for shape in sizes} <= set(range(1, 8))
    assert sizes


def test_a_cap_behind_the_output_layer_is_refused() -> None:
    model = gemma2().train()
    ChunkedModel(model, 7, shifts=True)
    with pytest.raises(LossError, match="capped"):
        model(input_ids=tokens()[:2], labels=labels()[:2])
    assert "forward" not in vars(model.lm_head)


def test_what_is_no_plain_output_layer_is_refused() -> None:
    with pytest.raises(LossError, match="no output layer"):
        ChunkedHead(nn.Linear(2, 2), 7)
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    with pytest.raises(LossError, match="target_modules"):
        ChunkedHead(peft.get_peft_model(llama(), config), 7)

    class Silent(nn.Module):
        """Never asks its output layer."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, VOCABULARY)

        def get_output_embeddings(self) -> nn.Module:
            return self.head

        def forward(self, input_ids: Any, labels: Any = None) -> Any:
            return {"logits": input_ids[..., None].float()}

    model = Silent()
    ChunkedModel(model, 7, shifts=True)
    with pytest.raises(LossError, match="asked 0 times"):
        model(input_ids=tokens()[:2], labels=labels()[:2])


@pytest.mark.parametrize("more", [{}, {"extra_forward": True}], ids=["parts", "extra forward"])
def test_a_trainer_trains_the_same(tmp_path: Path, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from weighted_stream import LinUpper

    strategy = LinUpper if more else running
    whole = trainer(tmp_path, strategy(), **more)
    whole.train()
    calls, own = [], chunked_head.chunked_cross_entropy
    monkeypatch.setattr(
        chunked_head, "chunked_cross_entropy", lambda *args, **more: calls.append(more) or own(*args, **more)
    )
    made = trainer(tmp_path, strategy(), chunk_size=5, **more)
    made.train()
    assert {call["chunk_size"] for call in calls} == {5}
    torch.testing.assert_close(parameters(made), parameters(whole), atol=1e-5, rtol=0)
    assert logged(made) == pytest.approx(logged(whole), abs=1e-4)
    assert made.stream.stats()["loss_mean"] == pytest.approx(whole.stream.stats()["loss_mean"], abs=1e-5)
    assert made.evaluate(made.train_dataset)["eval_loss"] > 0


def test_rows_of_several_samples(tmp_path: Path) -> None:
    rows = [{"input_ids": x[: 3 + at % 4].tolist()} for at, x in enumerate(tokens())]
    flat = transformers.DataCollatorWithFlattening(return_position_ids=True)
    more: dict[str, Any] = {"dataset": rows, "data_collator": flat, "max_steps": 2}
    made, whole = trainer(tmp_path, running(), chunk_size=5, **more), trainer(tmp_path, running(), **more)
    made.train()
    whole.train()
    torch.testing.assert_close(parameters(made), parameters(whole), atol=1e-5, rtol=0)
    assert made.diary == whole.diary
    assert made.stream.stats()["loss_mean"] == pytest.approx(whole.stream.stats()["loss_mean"], abs=1e-5)
    assert TOKENS > 6


def test_two_ways_to_the_losses_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LossError, match="chunk_size beside losses"):
        trainer(tmp_path, running(), chunk_size=5, losses=label_losses)
