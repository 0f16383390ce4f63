"""The training loop: what it reports, that it repeats itself, and that weights matter in it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from weighted_stream import LinUpper, Uniform, WeightedStream
from weighted_stream.demo.model import GPT, GPTConfig
from weighted_stream.demo.tokenizer import BPE, PADDING
from weighted_stream.demo.train import Curve, endless, evaluate, per_sample_loss, train

pytest.importorskip("tokenizers")

CONFIG = GPTConfig(vocab=30, context=12, layers=1, width=24, heads=2)


def rows(count: int, seed: int = 0) -> Tensor:
    """Sequences that count upwards from a random token."""
    start = torch.randint(1, 30, (count, 1), generator=torch.Generator().manual_seed(seed))
    return (start + torch.arange(13)) % 29 + 1


def run(strategy: object, steps: int = 24) -> tuple[Curve, GPT]:
    stream = WeightedStream(rows(96), strategy)  # type: ignore[arg-type]
    model = GPT(CONFIG)
    loader = stream.loader(batch_size=16, shuffle=True, seed=0)
    held_out = {"target": rows(40, seed=1), "rest": rows(20, seed=2)}
    return train(endless(loader), model, steps=steps, held_out=held_out, evaluate_every=10), model


def test_reports_what_it_saw() -> None:
    curve, model = run(LinUpper())
    assert curve.steps == [10, 20, 24]
    assert curve.final("target") == pytest.approx(evaluate(model, rows(40, seed=1)))
    assert curve.losses["target"][0] > curve.losses["target"][1] > curve.final("target")
    assert len(curve.ess) == len(curve.seconds) == 24
    assert all(0.5 < share < 1.0 for share in curve.ess)
    assert curve.batch_size == 16
    assert curve.samples_per_second() > 0
    assert run(Uniform(), steps=2)[0].ess == pytest.approx([1.0, 1.0])


def test_same_seed_same_numbers() -> None:
    assert run(LinUpper())[0].losses == run(LinUpper())[0].losses
    assert run(LinUpper())[0].losses != run(Uniform())[0].losses


def test_steps_to_a_loss() -> None:
    curve = Curve(steps=[10, 20, 30], losses={"target": [3.0, 2.0, 2.5]})
    assert curve.steps_to("target", 2.2) == 20
    assert curve.steps_to("target", 3.5) == 10
    assert curve.steps_to("target", 1.0) is None


def test_padding_is_not_counted() -> None:
    model = GPT(CONFIG)
    with torch.no_grad():
        model.head.bias.normal_(generator=torch.Generator().manual_seed(0))
    tokens = rows(2)
    tokens[1, 5:] = PADDING
    losses = per_sample_loss(model, tokens)
    assert losses[1].item() == pytest.approx(F.cross_entropy(model(tokens[1:, :4])[0], tokens[1, 1:5]).item(), rel=1e-5)


def test_an_empty_loader_ends() -> None:
    assert list(endless([])) == []
    assert train([], GPT(CONFIG)).steps == []


def test_bpe() -> None:
    texts = ["the quick brown fox", "the lazy dog", "naïve\n\ttext"] * 5
    bpe, again = BPE(texts, vocab=280), BPE(texts, vocab=280)
    encoded = bpe.encode(texts, 8)
    assert encoded.shape == (15, 8)
    assert encoded.dtype == torch.int64
    assert torch.equal(encoded, again.encode(texts, 8))
    assert encoded.max() < bpe.vocab
    short = bpe.encode(["a", ""], 4)
    assert (short[0] == PADDING).sum() == 3
    assert (short[1] == PADDING).all()


def test_loss_starts_at_the_frequencies_of_the_tokens() -> None:
    tokens = rows(64)
    model = GPT(CONFIG, frequencies=torch.bincount(tokens.flatten(), minlength=30))
    assert evaluate(model, tokens) == pytest.approx(math.log(29), abs=0.15)
