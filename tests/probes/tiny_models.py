"""Small randomly initialised language models of transformers, and batches for them. Nothing is downloaded."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

VOCAB, TOKENS = 50, 7
transformers = pytest.importorskip("transformers")


def gpt2(dropout: float = 0.0, layers: int = 2) -> nn.Module:
    sizes = {"n_positions": 16, "n_embd": 32, "n_layer": layers, "n_head": 2, "eos_token_id": 0, "bos_token_id": 0}
    drops = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=VOCAB, **sizes, **drops)).train()


def llama(dropout: float = 0.0, layers: int = 2) -> nn.Module:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers, "num_attention_heads": 2}
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, num_key_value_heads=2, max_position_embeddings=16, attention_dropout=dropout, **sizes
    )
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).train()


MODELS = {"gpt2": gpt2, "llama": llama}


def batch(size: int, padding: str = "right", seed: int = 0) -> dict[str, Tensor]:
    """Rows of 2 to `TOKENS` real tokens."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, TOKENS + 1, (size, 1), generator=draw)
    mask = (torch.arange(TOKENS) < lengths).long()
    if padding == "left":
        mask = mask.flip(1)
    tokens = torch.randint(1, VOCAB, (size, TOKENS), generator=draw)
    return {"input_ids": tokens * mask, "attention_mask": mask}


def phi(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The definition, by `output_hidden_states`, a loop, and float64: (B, H)."""
    with torch.no_grad():
        hidden = copy.deepcopy(model).eval()(**inputs, output_hidden_states=True).hidden_states[-1].double()
    vectors = []
    for states, mask in zip(hidden, inputs["attention_mask"], strict=True):
        real = states[mask.bool()]
        places = torch.arange(1, len(real) + 1, dtype=torch.float64)
        mean = (places[:, None] * real).sum(0) / places.sum()
        vectors.append(mean / mean.norm())
    return torch.stack(vectors).float()


def losses(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """A loss per sample, with a graph: (B,)."""
    logits = model(**inputs).logits.float()
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    return nn.functional.cross_entropy(logits[:, :-1].mT, labels[:, 1:], reduction="none").sum(1) / TOKENS
