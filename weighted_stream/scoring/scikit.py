"""What scikit-learn gives the scoring: counts of hashed words, their random projection, and k-means."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weighted_stream.errors import missing_extra

try:
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped]
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
except ImportError as error:
    raise missing_extra("scikit-learn", "embed") from error

FEATURES = 1 << 18
"""Buckets that words are hashed into: few enough for a projection of 25 MB, enough for common words."""

NONZERO = 8
"""Dimensions that one bucket goes to."""


class HashedCounts:
    """Texts to sparse rows (n, FEATURES), float32: 1 + log(count) of each n-gram, times its rarity where that is known.

    Args:
        ngrams: the shortest and the longest run of words.
        stop_words: words to leave out; "english" for scikit-learn's list.
        idf: (FEATURES,) the weight of each bucket; None: all alike.
    """

    def __init__(self, ngrams: tuple[int, int], stop_words: Any, idf: NDArray[np.float32] | None = None) -> None:
        self._idf = idf
        self._count = HashingVectorizer(
            n_features=FEATURES,
            ngram_range=ngrams,
            stop_words=stop_words,
            alternate_sign=False,
            norm=None,
            dtype=np.float32,
        )

    def __call__(self, texts: Iterable[str]) -> Any:
        """The rows of these texts."""
        counts = self._count.transform(texts)
        counts.data = 1 + np.log(counts.data)
        if self._idf is not None:
            counts.data *= self._idf[counts.indices]
        return counts


def rarity(counts: Any) -> NDArray[np.float32]:
    """The inverse document frequency of each bucket: (FEATURES,), smoothed as scikit-learn does."""
    return np.asarray(TfidfTransformer().fit(counts).idf_, dtype=np.float32)


def projection(dim: int, seed: int) -> Any:
    """A sparse random matrix (FEATURES, dim) that keeps inner products on average (Li, Hastie, Church 2006).

    scikit-learn's own takes 3 s to make; this takes 20 ms. Each bucket goes to a few dimensions, with random signs.
    """
    draw = np.random.RandomState(seed)  # whose numbers stay the same in every version of numpy
    columns = draw.randint(0, dim, FEATURES * NONZERO, dtype=np.int32)
    signs = draw.randint(0, 2, FEATURES * NONZERO, dtype=np.int8) * np.float32(2) - 1
    ends = np.arange(0, FEATURES * NONZERO + 1, NONZERO, dtype=np.int32)
    return csr_matrix((signs / np.float32(NONZERO**0.5), columns, ends), shape=(FEATURES, dim))


def unit_centroids(vectors: Tensor, k: int, seed: int = 0) -> Tensor:
    """The ``k`` centroids of k-means on unit vectors (m, d), m >= k, made unit: (k, d) float32, on the same device."""
    with warnings.catch_warnings():
        # Fewer different vectors than centroids: some centroids coincide, which changes no nearest one.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(k, n_init=4, random_state=seed).fit(vectors.cpu().numpy()).cluster_centers_
    return torch.nn.functional.normalize(torch.from_numpy(found.astype(np.float32)), dim=1).to(vectors.device)
