"""model2vec: a small model made by hand."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from weighted_stream.errors import ScoringError
from weighted_stream.scoring.encoders import as_encoder
from weighted_stream.scoring.static import Model2VecEncoder

# model2vec leaves the files it reads and writes to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

model2vec = pytest.importorskip("model2vec")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["[UNK]", "two", "apples", "rain", "fell"]


@pytest.fixture(scope="module")
def model():
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: row for row, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return model2vec.StaticModel(np.eye(len(WORDS), dtype=np.float32), tokenizer)


def test_vectors_are_averages_of_the_words_made_unit(model) -> None:
    encoder = as_encoder(model)
    assert isinstance(encoder, Model2VecEncoder)
    vectors = encoder.encode(["two apples", "rain", ""])
    half = 0.5**0.5
    assert torch.allclose(vectors, torch.tensor([[0, half, half, 0, 0], [0, 0, 0, 1, 0], [0.0] * 5]), atol=1e-6)
    assert encoder.encode([]).shape == (0, 5)


def test_from_a_folder_and_in_another_process(model, tmp_path) -> None:
    model.save_pretrained(str(tmp_path / "words"))
    encoder = pickle.loads(pickle.dumps(Model2VecEncoder(tmp_path / "words")))
    assert encoder.name == "Model2VecEncoder('words')"
    assert torch.equal(encoder.encode(["two rain"]), Model2VecEncoder(model).encode(["two rain"]))


def test_a_folder_without_a_model(tmp_path) -> None:
    with pytest.raises(ScoringError, match="Cannot load the static model"):
        Model2VecEncoder(str(tmp_path)).encode(["a"])
