"""From samples to scores: any encoder, checked vectors, an identity that tells scores apart."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from weighted_stream.errors import ScoringError
from weighted_stream.scoring import similarity_scorer
from weighted_stream.scoring.encoders import FunctionEncoder, as_encoder, encode, encoder_name
from weighted_stream.scoring.hashed import HashedEncoder
from weighted_stream.scoring.identity import ScoreIdentity
from weighted_stream.scoring.sentence import SentenceEncoder
from weighted_stream.scoring.similarity_scorer import SimilarityScorer
from weighted_stream.scoring.target_set import TargetSet

CORPUS = [{"text": text} for text in ["three apples and two", "rain on Monday", "", "apples two apples", "war"]]


def letters(texts: Sequence[str], scale: float = 1.0) -> np.ndarray:
    """Counts of letters: no unit vectors."""
    return scale * np.array([[text.count(letter) for letter in "aepw"] for text in texts], dtype=np.float64)


class Letters:
    def encode(self, samples: Sequence[str], /) -> torch.Tensor:
        return torch.from_numpy(letters(samples)).to(torch.bfloat16)


@pytest.mark.parametrize(
    ("encoder", "kind", "name"),
    [
        (None, HashedEncoder, "HashedEncoder(dim=1024, seed=0)"),
        (letters, FunctionEncoder, f"{__name__}.letters"),
        (functools.partial(letters, scale=2.0), FunctionEncoder, f"{__name__}.letters"),
        (Letters(), Letters, f"{__name__}.Letters"),
        ("models/mini", SentenceEncoder, "SentenceEncoder('mini')"),
    ],
)
def test_whatever_makes_vectors(encoder, kind: type, name: str) -> None:
    found = as_encoder(encoder)
    assert isinstance(found, kind)
    assert encoder_name(found) == name
    assert encoder_name(pickle.loads(pickle.dumps(found))) == name


@pytest.mark.parametrize("encoder", [3, Letters, object()])
def test_what_makes_none(encoder) -> None:
    with pytest.raises(ScoringError, match="no encoder"):
        as_encoder(encoder)


@pytest.mark.parametrize("score", ["mean", "max", "top-k", "centroids"])
@pytest.mark.parametrize("chunk", [2, 100])
def test_scores_are_cosines_with_the_target(score, chunk: int, monkeypatch) -> None:
    monkeypatch.setattr(similarity_scorer, "CHUNK", chunk)
    target = TargetSet(["apples", "peep", "we"], score=score, k=2 if score in ("top-k", "centroids") else None)
    scorer = pickle.loads(pickle.dumps(SimilarityScorer(target, letters)))
    scores = scorer.score(CORPUS)
    assert scores.dtype == np.float32

    def unit(vectors: np.ndarray) -> np.ndarray:
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    cosines = unit(letters([s["text"] for s in CORPUS])) @ unit(letters(target.samples)).T
    if score != "centroids":
        plain = {"mean": cosines.mean(1), "max": cosines.max(1), "top-k": np.sort(cosines)[:, 1:].mean(1)}
        np.testing.assert_allclose(scores, plain[score], atol=1e-6)
    assert scores[2] == 0
    assert scorer.score([]).shape == (0,)


def test_the_identity_tells_scores_apart() -> None:
    first = SimilarityScorer(["two apples"], letters).identity
    assert first.conflict(SimilarityScorer(["two apples"], letters).identity) is None
    others = [
        SimilarityScorer(["two pears"], letters),
        SimilarityScorer(["two apples"]),
        SimilarityScorer(TargetSet(["two apples"], score="max"), letters),
    ]
    assert all(first.conflict(other.identity) for other in others)
    np.testing.assert_allclose(np.linalg.norm(first.centroid), 1, atol=1e-6)


def test_the_identity_tells_fields_apart() -> None:
    body, title = (SimilarityScorer(TargetSet(["two apples"]), letters, text=text) for text in ("body", "title"))
    assert body.identity.conflict(title.identity) == "the field 'title' instead of 'body'"
    assert ScoreIdentity.from_json(body.identity.to_json()).text == "body"
    function = SimilarityScorer(TargetSet(["two apples"]), letters, text=str)
    assert function.identity.text is None  # nobody knows which field it reads
    assert body.identity.conflict(function.identity) is None
    older = {name: value for name, value in body.identity.to_json().items() if name != "text"}
    assert title.identity.conflict(ScoreIdentity.from_json(older)) is None


@pytest.mark.parametrize("chunk", [2, 100])
def test_what_is_no_text_is_named_by_its_row(chunk: int, monkeypatch) -> None:
    monkeypatch.setattr(similarity_scorer, "CHUNK", chunk)
    scorer = SimilarityScorer(["two apples"])
    with pytest.raises(ScoringError, match="a NoneType in row 3"):
        scorer.score([*CORPUS[:3], {"text": None}])
    with pytest.raises(ScoringError, match="a int in row 3 of the target"):
        SimilarityScorer([{"text": "a"}] * 3 + [{"text": 3}]).score(CORPUS)


def test_the_field_is_that_of_the_target_unless_it_has_its_own() -> None:
    rows = [{"body": "two apples"}]
    assert SimilarityScorer(rows, letters, text="body").score(rows) == pytest.approx([1.0])
    own = TargetSet(["two apples"])
    assert SimilarityScorer(own, letters, text="body").score(rows) == pytest.approx([1.0])
    with pytest.raises(ScoringError, match="no field 'text'"):
        SimilarityScorer(own, letters).score(rows)


def nan_for_rain(texts: Sequence[str]) -> np.ndarray:
    return np.array([[np.nan if "rain" in text else 1.0, 2.0] for text in texts])


class Growing:
    """One number more with every call."""

    def __init__(self) -> None:
        self.size = 1

    def encode(self, samples: Sequence[str], /) -> torch.Tensor:
        self.size += 1
        return torch.ones(len(samples), self.size)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (lambda texts: torch.ones(len(texts) + 1, 4), r"shape \(6, 4\)"),
        (lambda texts: torch.ones(len(texts)), r"shape \(5,\)"),
        (lambda texts: torch.ones(len(texts), 0), r"shape \(5, 0\)"),
        (lambda texts: [torch.ones(len(text) + 1) for text in texts], "stack"),
        (lambda texts: [[1.0] * (len(text) + 1) for text in texts], "list"),
        (lambda texts: None, "NoneType"),
        (nan_for_rain, "1 of 5 with NaN or infinity.*rain"),
    ],
)
def test_vectors_that_cannot_be_used(encoder, message: str) -> None:
    with pytest.raises(ScoringError, match=message):
        encode(FunctionEncoder(encoder), [sample["text"] for sample in CORPUS])


def test_vectors_of_another_size_than_the_target(monkeypatch) -> None:
    with pytest.raises(ScoringError, match=r"shape \(5, 3\)\n.*\(5, 2\)"):
        SimilarityScorer(["a"], Growing()).score(CORPUS)
    monkeypatch.setattr(similarity_scorer, "CHUNK", 1)
    with pytest.raises(ScoringError, match=r"shape \(1, 3\)\n.*\(1, 2\)"):
        SimilarityScorer(["a", "b"], Growing()).score(CORPUS)


def test_vectors_of_any_length_are_made_unit() -> None:
    vectors = torch.tensor([[3e30, 4e30], [3e-30, 4e-30], [0.0, 0.0]])
    found = encode(FunctionEncoder(lambda samples: vectors), ["a", "b", "c"])
    assert torch.allclose(found, torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.0, 0.0]]))


def test_a_target_that_nothing_can_resemble() -> None:
    with pytest.raises(ScoringError, match="No target sample has a vector"):
        SimilarityScorer(["", "!"]).score(CORPUS)
