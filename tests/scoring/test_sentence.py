"""The sentence encoder: the vectors of the model's own encode, whatever the lengths, prompts and batches."""

from __future__ import annotations

import pytest
import torch
from minilm import minilm_path

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
    *(f"number {n} " * (n % 13) for n in range(40)),
]


@pytest.fixture(scope="module")
def model():
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(minilm_path(), device="cpu")


def cosines(ours, theirs) -> torch.Tensor:
    theirs = torch.as_tensor(theirs).float()
    assert torch.allclose(ours.norm(dim=1), torch.ones(len(ours)), atol=1e-5)
    return (ours * torch.nn.functional.normalize(theirs, dim=1)).sum(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, None])
@pytest.mark.parametrize("batch_tokens", [64, None])
def test_vectors_are_those_of_the_model(model, dtype, batch_tokens) -> None:
    encoder = SentenceEncoder(minilm_path(), "cpu", dtype, batch_tokens=batch_tokens)
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == torch.float32
    assert encoder.refused is None
    least = float(cosines(vectors, model.encode(TEXTS)).min())
    assert least > (1 - 1e-5 if dtype == torch.float32 else 1 - 1e-3)
