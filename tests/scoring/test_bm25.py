"""BM25 against the formula by hand, against bm25s, and as a scorer that sees the corpus first."""

from __future__ import annotations

import math
import pickle
import random
import warnings

import numpy as np
import pytest

from weighted_stream.errors import ScoringError
from weighted_stream.scoring.bm25 import BM25Scorer, bm25, bm25_idf, count_words, words
from weighted_stream.scoring.target_set import TargetSet

WORDS = ["apple", "pear", "rain", "wind", "tree", "stone", "river", "two", "three", "and", "the", "of", "a1", "über"]


def corpus(count: int, seed: int = 0) -> list[str]:
    """Texts of Zipf-like words, some long, one empty."""
    draw = random.Random(seed)
    shares = [1 / rank for rank in range(1, len(WORDS) + 1)]
    return ["", *(" ".join(draw.choices(WORDS, shares, k=draw.randint(1, 40))) for _ in range(count - 1))]


def batches(texts: list, size: int):
    return lambda: (texts[start : start + size] for start in range(0, len(texts), size))


def learned(texts: list, target: object, size: int = 7, **options) -> BM25Scorer:
    scorer = BM25Scorer(target, **options)
    scorer.learn(batches(texts, size))
    return scorer


def test_words() -> None:
    assert words("It's 2 apples, THREE pears; Über-wind_1!") == ["it", "apples", "three", "pears", "über", "wind_1"]


def test_by_hand() -> None:
    """N = 3, df(two) = 2, df(apples) = 1, lengths 2, 4, 0: mean 2. k1 = 1.5, b = 0.75."""
    counts = count_words(["two apples", "two two two pears", ""], {"two": 0, "apples": 1})
    idf = bm25_idf(np.array([2, 1]), 3)
    np.testing.assert_allclose(idf, [math.log(1 + 1.5 / 2.5), math.log(1 + 2.5 / 1.5)])
    # Length 2 of 2: damping 1.5. Length 4 of 2: damping 1.5 * (0.25 + 1.5) = 2.625.
    expected = [idf[0] * 1 / 2.5 + 2 * idf[1] * 1 / 2.5, idf[0] * 3 / 5.625, 0]
    np.testing.assert_allclose(bm25(counts, np.array([1, 2]) * idf, 2.0), expected)


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (1.2, 0.4), (0.5, 1.0)])
def test_equals_bm25s(k1: float, b: float) -> None:
    """The mean over the target of what an independent library gives, standardised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its optional dependencies
        bm25s = pytest.importorskip("bm25s")
    texts, target = corpus(150), ["two apple tree", "rain rain and the wind", "stone of a river, three stone"]
    index = bm25s.BM25(method="lucene", k1=k1, b=b)
    index.index([words(text) for text in texts], show_progress=False)
    known = set(index.vocab_dict)
    raw = np.mean([index.get_scores([w for w in words(query) if w in known]) for query in target], axis=0)
    scores = learned(texts, target, k1=k1, b=b).score(texts)
    np.testing.assert_allclose(scores, (raw - raw.mean()) / raw.std(), atol=1e-4)
    assert abs(scores.mean()) < 1e-6
    assert scores.std() == pytest.approx(1, abs=1e-6)


def test_neither_order_nor_batches_matter() -> None:
    texts, target = corpus(200), ["apple and pear", "river"]
    scores = learned(texts, target, size=200).score(texts)
    order = random.Random(1).sample(range(len(texts)), len(texts))
    other = learned([texts[i] for i in order], target, size=3)
    np.testing.assert_allclose(other.score(texts), scores, atol=1e-6)
    np.testing.assert_array_equal([other.score([text])[0] for text in texts], other.score(texts))
    assert len(other.score([])) == 0


def test_travels_before_and_after_it_has_learned() -> None:
    texts = corpus(50)
    scorer = pickle.loads(pickle.dumps(BM25Scorer(["apple river"])))
    scorer.learn(batches(texts, 8))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(scorer)).score(texts), scorer.score(texts))


def test_fields_of_samples_and_target() -> None:
    texts = corpus(40)
    rows = [{"body": text.encode(), "id": row} for row, text in enumerate(texts)]
    target = TargetSet([{"question": "apple river"}], text="question")
    np.testing.assert_array_equal(
        learned(rows, target, text="body").score(rows), learned(texts, ["apple river"]).score(texts)
    )
    with pytest.raises(ScoringError, match="no field 'text'"):
        learned(rows, target)


def test_identity_tells_constants_and_targets_apart() -> None:
    plain = BM25Scorer(["apple"]).identity
    assert (plain.encoder, plain.method, plain.centroid) == ("bm25(k1=1.5,b=0.75)", "bm25-mean", ())
    assert plain.conflict(BM25Scorer(["apple"]).identity) is None
    assert "bm25(k1=1.2" in str(plain.conflict(BM25Scorer(["apple"], k1=1.2).identity))
    assert "target" in str(plain.conflict(BM25Scorer(["pear"]).identity))
    assert "field" in str(plain.conflict(BM25Scorer(TargetSet(["apple"]), text="body").identity))


def test_a_corpus_of_one_text_scores_zero() -> None:
    assert learned(["two apples"] * 3, ["apples"]).score(["two apples"]).tolist() == [0.0]


@pytest.mark.parametrize("options", [{"k1": -1}, {"k1": math.inf}, {"k1": math.nan}, {"b": 1.1}, {"b": -0.1}])
def test_impossible_constants(options: dict) -> None:
    with pytest.raises(ScoringError, match="constants"):
        BM25Scorer(["apple"], **options)


def test_what_cannot_be_scored() -> None:
    with pytest.raises(ScoringError, match="no word"):
        BM25Scorer(["?!", "a b"])
    with pytest.raises(ScoringError, match="mean over the target"):
        BM25Scorer(TargetSet(["apple"], score="max"))
    with pytest.raises(ScoringError, match="empty"):
        BM25Scorer([])
    with pytest.raises(ScoringError, match="before learn"):
        BM25Scorer(["apple"]).score(["apple"])
    with pytest.raises(ScoringError, match="shares a word"):
        learned(["pear", "rain"], ["apple"])
    with pytest.raises(ScoringError, match="shares a word"):
        learned([], ["apple"])
    once = iter([["apple"]])
    with pytest.raises(ScoringError, match="none in the second"):
        BM25Scorer(["apple"]).learn(lambda: once)
    with pytest.raises(ScoringError, match="a int in row 1"):
        learned(["apple", 3], ["apple"], text=_same)


def _same(sample: object) -> object:
    return sample
