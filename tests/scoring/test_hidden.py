"""HiddenStateEncoder: a model's own hidden states as vectors, ahead of the trainer."""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import tiny_models
import torch
from torch import nn

from weighted_stream import HiddenStateEncoder, ScoringError, StrategyError
from weighted_stream.scoring.base import Encoder
from weighted_stream.scoring.encoders import encode, encoder_name

SAMPLES = [[3, 4, 5], [7], [9, 8, 7, 6, 5], [1, 2], [4] * 6]


def prepare(samples, left: bool = False):
    width = max(map(len, samples))
    pads = [[0] * (width - len(row)) for row in samples]
    rows = [pad + row if left else row + pad for pad, row in zip(pads, samples, strict=True)]
    masks = [
        [0] * len(pad) + [1] * len(row) if left else [1] * len(row) + [0] * len(pad)
        for pad, row in zip(pads, samples, strict=True)
    ]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(masks)}


def only_first(samples):
    return prepare(samples[:1])


@pytest.mark.parametrize("make", tiny_models.MODELS.values(), ids=tiny_models.MODELS)
def test_it_is_phi_of_each_sample_in_any_batch(make) -> None:
    model = make(dropout=0.5)
    random = torch.get_rng_state()
    encoder = HiddenStateEncoder(model, prepare, batch_size=2)
    assert isinstance(encoder, Encoder)
    expected = torch.cat([tiny_models.phi(model, prepare([sample])) for sample in SAMPLES])
    torch.testing.assert_close(encode(encoder, SAMPLES), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.encode(SAMPLES)[1:4], encoder.encode(SAMPLES[1:4]), atol=1e-5, rtol=0)
    assert not encoder.encode(SAMPLES).requires_grad
    assert model.training
    assert not model._forward_pre_hooks
    assert torch.equal(torch.get_rng_state(), random)
    assert len(encoder.encode([])) == 0


def test_it_travels_to_another_process() -> None:
    encoder = HiddenStateEncoder(tiny_models.gpt2(), prepare, device="cpu")
    torch.testing.assert_close(pickle.loads(pickle.dumps(encoder)).encode(SAMPLES), encoder.encode(SAMPLES))
    samples = [[1, 2, 3], [4, 5, 6]]
    encoder = HiddenStateEncoder(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9)), torch.tensor, head="1")
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        vectors = pool.submit(encoder.encode, samples).result()
    torch.testing.assert_close(vectors, encoder.encode(samples))


def test_its_name() -> None:
    encoder = HiddenStateEncoder(tiny_models.gpt2(), prepare)
    assert encoder_name(encoder) == "HiddenStateEncoder(GPT2LMHeadModel)"


def test_what_cannot_work() -> None:
    with pytest.raises(StrategyError, match="head="):
        HiddenStateEncoder(nn.Linear(2, 2), prepare)
    with pytest.raises(StrategyError, match="batch_size"):
        HiddenStateEncoder(tiny_models.gpt2(), prepare, batch_size=0)
    with pytest.raises(ScoringError, match="1 vectors"):
        HiddenStateEncoder(tiny_models.gpt2(), only_first).encode(SAMPLES)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
    never = HiddenStateEncoder(model, torch.tensor, head=model[1], mask=lambda args, kwargs: 3)
    with pytest.raises(ScoringError, match="attention mask"):
        never.encode([[1, 2], [3, 4]])
