"""BM25: likeness to a target by the rare words that are shared; no encoder, but two passes over the corpus first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weighted_stream.errors import ScoringError
from weighted_stream.scoring.base import Scorer, Scores
from weighted_stream.scoring.fields import TextField, check_texts, sample_field
from weighted_stream.scoring.identity import ScoreIdentity
from weighted_stream.scoring.target_set import TargetSet

Floats = NDArray[np.float64]

_WORD = re.compile(r"\b\w\w+\b")


def words(text: str) -> list[str]:
    """Lower-cased runs of two or more letters or digits.

    Example:
        >>> words("Two apples & a pear.")
        ['two', 'apples', 'pear']
    """
    return _WORD.findall(text.lower())


@dataclass(frozen=True)
class Counts:
    """How often the words of a vocabulary occur in n documents, as triples (document, word, count).

    Attributes:
        rows: (z,) int64, the documents, ascending.
        terms: (z,) int64, the words' places in the vocabulary.
        counts: (z,) float64, at least 1.
        lengths: (n,) float64, all words of a document, those outside the vocabulary too.
    """

    rows: NDArray[np.int64]
    terms: NDArray[np.int64]
    counts: Floats
    lengths: Floats


def count_words(texts: Sequence[str], vocabulary: Mapping[str, int]) -> Counts:
    """The counts of a vocabulary's words in these documents.

    Example:
        >>> count_words(["two and two", "no more"], {"and": 0, "two": 1})
        Counts(rows=array([0, 0]), terms=array([0, 1]), counts=array([1., 2.]), lengths=array([3., 2.]))
    """
    lengths = np.empty(len(texts), np.float64)
    found: list[int] = []
    per_text = np.empty(len(texts), np.int64)
    for row, text in enumerate(texts):
        spelled = words(text)
        known = [vocabulary[word] for word in spelled if word in vocabulary]
        lengths[row], per_text[row] = len(spelled), len(known)
        found += known
    size = max(len(vocabulary), 1)
    places = np.repeat(np.arange(len(texts), dtype=np.int64), per_text) * size + np.array(found, np.int64)
    cells, counts = np.unique(places, return_counts=True)
    return Counts(cells // size, cells % size, counts.astype(np.float64), lengths)


def bm25_idf(frequencies: NDArray[np.int64], documents: int) -> Floats:
    """``ln(1 + (N - df + 1/2) / (df + 1/2))`` of words that df of N documents have: Lucene's form, never negative."""
    idf: Floats = np.log1p((documents - frequencies + 0.5) / (frequencies + 0.5))
    return idf


def bm25(counts: Counts, weights: Floats, mean_length: float, k1: float = 1.5, b: float = 0.75) -> Floats:
    """``sum_t weights_t * tf / (tf + k1 (1 - b + b |x| / mean length))`` of each document: (n,) float64.

    It is linear in the weights, so the mean score over many queries is the score of their mean.

    Args:
        counts: of the documents.
        weights: (V,) the words' inverse document frequency times their count in the query.
        mean_length: of the documents of the corpus, in words.
        k1: how slowly further occurrences of a word stop counting.
        b: how much a document's length is held against it, 0 to 1.
    """
    damping = k1 * (1 - b + b * counts.lengths / mean_length)
    shares = counts.counts / (counts.counts + damping[counts.rows])
    scores = np.bincount(counts.rows, weights[counts.terms] * shares, minlength=len(counts.lengths))
    return np.asarray(scores, np.float64)


class BM25Scorer(Scorer):
    """ADAPT-BM25 (arXiv 2605.05227): ``s(x) = mean_v BM25(x, v)`` over the target samples v, standardised.

    Each target sample is a query, and the sample x the document; document frequencies and the mean length are those of
    the corpus. The score is standardised, (s - mean) / deviation over the corpus [ours], as the raw one has no scale
    that a gate could know. The inverse document frequency is Lucene's (`bm25_idf`); the factor k1 + 1 of other
    forms drops out in standardising.

    It sees the corpus twice before it scores: for the document frequencies, and for mean and deviation. Only the words
    of the target are counted, so memory is bounded by the target. Samples added later are scored by another corpus
    than the earlier ones were, which changes scores a little; nothing in the identity says so.

    Args:
        target: a `TargetSet` (with score ``"mean"``), or anything that one is made of (then with the same ``text``).
        text: the field of a sample that is scored, or a function of the sample.
        k1: how slowly further occurrences of a word stop counting, >= 0.
        b: how much a sample's length is held against it, 0 to 1.

    Raises:
        ScoringError: if the target is none, has no word, or an option is outside its range.

    Example:
        >>> corpus = ["two apples", "three apples and a pear", "rain on monday", "wind and rain"]
        >>> scorer = BM25Scorer(["how many apples"])
        >>> scorer.learn(lambda: [corpus])
        >>> scorer.score(corpus).round(2)
        array([ 1.27,  0.68, -0.98, -0.98], dtype=float32)
    """

    first_pass = True

    def __init__(self, target: Any, *, text: TextField = "text", k1: float = 1.5, b: float = 0.75) -> None:
        if not (0 <= k1 < float("inf") and 0 <= b <= 1):
            raise ScoringError(
                "BM25 cannot be computed with these constants.",
                found=f"k1={k1}, b={b}",
                expected="k1 >= 0 and 0 <= b <= 1",
                do="leave them at 1.5 and 0.75, the published values",
            )
        self.target = target if isinstance(target, TargetSet) else TargetSet(target, text=text)
        if self.target.score != "mean":
            raise ScoringError(
                "BM25 scores by the mean over the target.",
                found=f"a TargetSet with score={self.target.method!r}",
                expected='score="mean"',
                do="leave score= out of the TargetSet",
            )
        self.k1, self.b = k1, b
        self._field = sample_field(text)
        self._text = text if isinstance(text, str) else None
        queries = Counter(word for sample in check_texts(self.target.samples, "BM25") for word in words(sample))
        if not queries:
            raise ScoringError(
                "The target has no word to look for.",
                found=f"{len(self.target)} target samples without a run of two letters or digits",
                expected="text",
                do="name the field of the text with text=",
            )
        self._vocabulary = {word: place for place, word in enumerate(queries)}
        self._queries = np.array(list(queries.values()), np.float64) / len(self.target)  # mean count in a target sample
        self._learned: _Learned | None = None

    @property
    def identity(self) -> ScoreIdentity:
        """``bm25`` with its constants, the target's digest, the field's name; known before the corpus is."""
        encoder = f"bm25(k1={self.k1:g},b={self.b:g})"
        return ScoreIdentity(encoder, self.target.digest, "bm25-mean", text=self._text)

    def learn(self, sweep: Callable[[], Iterable[Sequence[Any]]]) -> None:
        """Document frequencies and mean length in a first pass, mean and deviation of the score in a second.

        Raises:
            ScoringError: if no sample shares a word with the target, or a sample lacks its text.
        """
        frequencies = np.zeros(len(self._vocabulary), np.int64)
        documents, total = 0, 0.0
        for samples in sweep():
            counts = self._count(samples)
            frequencies += np.bincount(counts.terms, minlength=len(frequencies))
            documents, total = documents + len(counts.lengths), total + float(counts.lengths.sum())
        if not frequencies.any():
            raise ScoringError(
                "No sample of the corpus shares a word with the target.",
                found=f"{documents:,} samples, {total:,.0f} words; {len(frequencies):,} words in the target",
                expected="text of one language in both",
                do="check the field that text= names, in the target and in the samples",
            )
        weights = self._queries * bm25_idf(frequencies, documents)
        mean_length = total / documents
        seen, mean, squares = 0, 0.0, 0.0  # merged batch by batch (Chan et al. 1983)
        for samples in sweep():
            raw = bm25(self._count(samples), weights, mean_length, self.k1, self.b)
            if len(raw):
                seen, ahead = seen + len(raw), float(raw.mean()) - mean
                squares += float(((raw - raw.mean()) ** 2).sum()) + ahead**2 * len(raw) * (seen - len(raw)) / seen
                mean += ahead * len(raw) / seen
        if not seen:
            raise ScoringError(
                "The second pass over the corpus gave nothing.",
                found=f"{documents:,} samples in the first pass, none in the second",
                expected="sweep() that begins anew each time",
                do="return a new iterator each time",
            )
        deviation = (squares / seen) ** 0.5
        self._learned = _Learned(weights, mean_length, mean, deviation if deviation > 1e-12 * mean else 1.0)

    def score(self, samples: Sequence[Any]) -> Scores:
        """Standardised scores, (n,) float32: mean 0 and deviation 1 over the corpus.

        Raises:
            ScoringError: before `learn`, or if a sample lacks its text.
        """
        known = self._learned
        if known is None:
            raise ScoringError(
                "BM25 needs the document frequencies of the corpus first.",
                found="score before learn",
                expected="learn(sweep) with all of the corpus",
                do="scorer.learn(lambda: batches_of_samples)",
            )
        raw = bm25(self._count(samples), known.weights, known.mean_length, self.k1, self.b)
        return ((raw - known.mean) / known.deviation).astype(np.float32)

    def _count(self, samples: Sequence[Any]) -> Counts:
        return count_words(check_texts([self._field(sample) for sample in samples], "BM25"), self._vocabulary)


@dataclass(frozen=True)
class _Learned:
    """What the corpus told."""

    weights: Floats
    mean_length: float
    mean: float
    deviation: float
