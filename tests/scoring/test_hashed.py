"""The embedded encoder: the same unit vectors everywhere, alike for texts with words in common."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from weighted_stream.errors import ScoringError
from weighted_stream.scoring.hashed import HashedEncoder

pytest.importorskip("sklearn")

TEXTS = ["Natalia sold clips to 48 friends", "Natalia sold half as many clips in May", "The senator spoke about war"]


def test_unit_vectors_of_shared_words() -> None:
    vectors = HashedEncoder(dim=512).encode(TEXTS)
    assert vectors.shape == (3, 512)
    assert vectors.dtype == torch.float32
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-6)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > 0.3
    assert cosines[0, 2].abs() < 0.2


def test_a_text_does_not_depend_on_its_batch() -> None:
    encoder = HashedEncoder()
    assert torch.equal(encoder.encode(TEXTS)[1:2], encoder.encode(TEXTS[1:2]))
    assert encoder.encode([]).shape == (0, 1024)


@pytest.mark.parametrize("text", ["", " \n", "? !", "the of and", "a"])
def test_a_text_without_words_resembles_nothing(text: str) -> None:
    vectors = HashedEncoder().encode([text, TEXTS[0]])
    assert not vectors[0].any()
    assert vectors[1].norm() == pytest.approx(1)


def test_the_same_in_another_process_and_after_pickling() -> None:
    encoder = HashedEncoder(dim=64, seed=3, idf=TEXTS)
    here = encoder.encode(TEXTS)
    copied = pickle.dumps(encoder)
    assert len(copied) < 2_000_000, "the projection travels"
    code = (
        "import pickle, sys\n"
        "encoder, texts = pickle.load(sys.stdin.buffer)\n"
        "print(encoder.encode(texts).numpy().tobytes().hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps((encoder, TEXTS)), capture_output=True, check=True
    )
    assert bytes.fromhex(done.stdout.decode().strip()) == here.numpy().tobytes()


def test_the_cosine_is_that_of_the_word_counts() -> None:
    from weighted_stream.scoring.scikit import HashedCounts

    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{n}" for n in rng.integers(0, 60, 40)) for _ in range(30)]
    counts = HashedCounts((1, 1), None)(texts).toarray()
    unit = counts / np.linalg.norm(counts, axis=1, keepdims=True)
    ours = HashedEncoder(dim=4096, stop_words=None).encode(texts).numpy()
    assert np.sqrt(((ours @ ours.T - unit @ unit.T) ** 2).mean()) < 2 / 4096**0.5


def test_options_change_vectors_and_name() -> None:
    kinds = [
        HashedEncoder(dim=64),
        HashedEncoder(dim=64, seed=1),
        HashedEncoder(dim=64, ngrams=(1, 2)),
        HashedEncoder(dim=64, stop_words=None),
        HashedEncoder(dim=64, stop_words=["clips"]),
        HashedEncoder(dim=64, stop_words=["may"]),
        HashedEncoder(dim=64, idf=TEXTS),
    ]
    assert len({kind.name for kind in kinds}) == len(kinds)
    assert len({kind.encode([" ".join([*TEXTS, "about the clips"])]).numpy().tobytes() for kind in kinds}) == len(kinds)


def test_idf_weighs_rare_words_more() -> None:
    common = [f"report number {n}" for n in range(50)]
    texts = ["report apple", "report"]
    plain, weighed = (HashedEncoder(dim=4096, idf=idf).encode(texts) for idf in (None, common))
    assert weighed[0] @ weighed[1] < 0.6 < plain[0] @ plain[1]


@pytest.mark.parametrize(
    "options", [{"dim": 4}, {"ngrams": (2, 1)}, {"ngrams": (0, 1)}, {"stop_words": "german"}, {"idf": []}]
)
def test_impossible_options(options) -> None:
    with pytest.raises(ScoringError, match=next(iter(options))):
        HashedEncoder(**options)


def test_what_is_no_text() -> None:
    with pytest.raises(ScoringError, match="a dict in row 0"):
        HashedEncoder().encode([{"text": "a"}])  # type: ignore[list-item]
