"""The sentence encoder: the vectors of the model's own encode, whatever the lengths, prompts and batches."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from minilm import minilm_path

from weighted_stream.errors import ScoringError
from weighted_stream.scoring.encoders import as_encoder
from weighted_stream.scoring.sentence import SentenceEncoder

pytest.importorskip("sentence_transformers")

TEXTS = [
    "",
    "Rain.",
    "Two apples and three apples are five apples.",
    "Ein Äpfelchen kostet 3,50 €; 数学",
    "the same length as another",
    "another same length as the",
    " leading and trailing ",
    "long " * 400,
    *(f"number {n} " * (n % 13) for n in range(16)),
]


@pytest.fixture(scope="module")
def model():
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(minilm_path(), device="cpu")


def cosines(ours, theirs) -> torch.Tensor:
    theirs = torch.as_tensor(theirs).float()
    assert torch.allclose(ours.norm(dim=1), torch.ones(len(ours)), atol=1e-5)
    return (ours * torch.nn.functional.normalize(theirs, dim=1)).sum(1)


@pytest.mark.parametrize(("dtype", "batch_tokens"), [(torch.float32, 64), (torch.bfloat16, None), (None, 1)])
def test_vectors_are_those_of_the_model(model, dtype, batch_tokens) -> None:
    encoder = SentenceEncoder(minilm_path(), "cpu", dtype, batch_tokens=batch_tokens)
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == torch.float32
    assert encoder.refused is None
    least = float(cosines(vectors, model.encode(TEXTS)).min())
    assert least > (1 - 1e-5 if dtype == torch.float32 else 1 - 1e-3)
    assert encoder.encode([]).shape == (0, vectors.shape[1])


def test_a_model_that_is_given_stays_as_it_is(model) -> None:
    before = model[0].auto_model.dtype
    encoder = as_encoder(model)
    assert isinstance(encoder, SentenceEncoder)
    encoder = pickle.loads(pickle.dumps(SentenceEncoder(model, "cpu", torch.bfloat16)))
    assert cosines(encoder.encode(TEXTS[:4]), model.encode(TEXTS[:4])).min() > 1 - 1e-3
    assert model[0].auto_model.dtype == before == torch.float32


def build(*modules, **options):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(modules=list(modules), device="cpu", **options)


def variant(model, pooling: str, **options):
    """The same transformer with another pooling and a dense layer behind it."""
    from sentence_transformers.models import Dense, Pooling

    torch.manual_seed(0)
    return build(model[0], Pooling(384, pooling, include_prompt=False), Dense(384, 16), **options)


@pytest.mark.parametrize("pooling", ["cls", "max", "mean", "lasttoken", "weightedmean"])
def test_the_models_own_modules_and_prompts_hold(model, pooling: str) -> None:
    other = variant(model, pooling, prompts={"task": "query: "}, default_prompt_name="task")
    other.truncate_dim = 12
    texts = TEXTS[:7]
    ours = SentenceEncoder(other, "cpu", torch.float32, batch_tokens=100)
    assert ours.refused is None
    found = ours.encode(texts)
    assert found.shape == (7, 12)
    assert cosines(found, other.encode(texts)).min() > 1 - 1e-5
    prompted = SentenceEncoder(other, "cpu", torch.float32, prompt="passage of text: ")
    assert cosines(prompted.encode(texts), other.encode(texts, prompt="passage of text: ")).min() > 1 - 1e-5
    assert not torch.allclose(prompted.encode(texts), found, atol=1e-3), "the prompt changes nothing"


def test_modules_behind_a_transformer_of_16_bits(model) -> None:
    full = variant(copy.deepcopy(model), "mean")
    half = SentenceEncoder(copy.deepcopy(full).bfloat16(), "cpu")
    assert cosines(half.encode(TEXTS[:7]), full.encode(TEXTS[:7])).min() > 1 - 1e-3


def test_max_seq_length_holds() -> None:
    from sentence_transformers import SentenceTransformer

    other = SentenceTransformer(minilm_path(), device="cpu")
    other.max_seq_length = 16
    ours = SentenceEncoder(other, "cpu", torch.float32)
    assert cosines(ours.encode(TEXTS), other.encode(TEXTS)).min() > 1 - 1e-5


class LastPosition(torch.nn.Module):
    """Takes it that texts are padded on the left."""

    def forward(self, features):
        return {**features, "sentence_embedding": features["token_embeddings"][:, -1]}


def test_left_padding_rotary_positions_and_several_windows(model, tmp_path) -> None:
    from sentence_transformers.models import Transformer
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(model.tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    LlamaModel(config).save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    decoder = Transformer(str(tmp_path), max_seq_length=64)
    decoder.tokenizer.padding_side = "left"
    other = build(decoder, LastPosition())
    texts = [text for text in TEXTS for _ in range(12)]
    theirs = other.encode(texts)
    for dtype, close in ((torch.float32, 1e-5), (torch.bfloat16, 1e-3)):
        ours = SentenceEncoder(other, "cpu", dtype, batch_tokens=300)
        assert cosines(ours.encode(texts), theirs).min() > 1 - close
        assert ours.refused is None


def test_a_model_without_a_transformer_encodes_by_itself(model) -> None:
    from sentence_transformers.models import StaticEmbedding

    static = build(StaticEmbedding(model.tokenizer.backend_tokenizer, embedding_dim=8))
    encoder = SentenceEncoder(static, "cpu")
    assert "StaticEmbedding" in str(encoder.refused)
    assert cosines(encoder.encode(TEXTS[1:8]), static.encode(TEXTS[1:8])).min() > 1 - 1e-6
    with pytest.raises(ScoringError, match="takes no dtype"):
        SentenceEncoder(static, "cpu", torch.bfloat16).encode(["a"])


def test_a_tokenizer_that_disagrees_is_not_imitated(model, monkeypatch) -> None:
    own = type(model).preprocess
    monkeypatch.setattr(type(model), "preprocess", lambda self, texts, **kw: own(self, [f"{t}." for t in texts], **kw))
    assert "tokens" in str(SentenceEncoder(model, "cpu").refused)


def test_what_cannot_be(tmp_path) -> None:
    with pytest.raises(ScoringError, match="Cannot load the sentence encoder"):
        SentenceEncoder(str(tmp_path / "none")).encode(["a"])
    with pytest.raises(ScoringError, match="batch_tokens"):
        SentenceEncoder("x", batch_tokens=0)
    with pytest.raises(ScoringError, match="a int in row 1"):
        SentenceEncoder(minilm_path(), "cpu").encode(["a", 1])  # type: ignore[list-item]
