"""The encoder that needs no model: hashed words, a random projection, unit vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from weighted_stream.errors import ScoringError
from weighted_stream.scoring.fields import check_texts


class HashedEncoder:
    """Unit vectors of the words in a text: two texts are alike as far as they use the same words.

    Lower-cased words (runs of two or more letters or digits, so it wants a language with spaces) are hashed and
    counted, 1 + log(count), projected at random to ``dim`` and made unit. No file, no state, the same vectors in
    every process; some 20,000 paragraphs a second on one core. A text without a word gets the zero vector, which
    resembles nothing: its cosine is 0 with everything.

    Words that are in every text say nothing and drown those that do. Known without a look at the corpus are the
    English ones, left out by default; for other languages pass their list, or ``idf``. (Maths questions among ten
    kinds of text, ``benchmarks/scoring.py``: area under the curve 0.95 with the mean cosine, 0.98 with that of the 5
    nearest target samples; 0.70 and 0.88 with stop words kept.)

    Args:
        dim: size of the vectors. A cosine of two unlike texts is off by about 1 / sqrt(dim).
        seed: of the projection; vectors of two seeds do not compare.
        ngrams: the shortest and longest run of words to count; (1, 2) counts pairs, too. Pairs add noise that a
            projection to 1024 does not hold: worth it from about ``dim=8192``.
        stop_words: words to leave out: ``"english"`` (scikit-learn's 318), a list, or None.
        idf: reference texts, a few thousand of the kind of the corpus: weigh each word by its rarity there.

    Raises:
        ScoringError: for an impossible option.
        MissingExtraError: at the first use, if scikit-learn is not installed.

    Example:
        >>> vectors = HashedEncoder().encode(["Two apples and three apples", "Three apples fell", "Rain on Monday"])
        >>> vectors.shape, vectors.dtype
        (torch.Size([3, 1024]), torch.float32)
        >>> same, other = vectors[1:] @ vectors[0]
        >>> bool(same > 0.5), bool(abs(other) < 0.2)
        (True, True)
    """

    def __init__(
        self,
        dim: int = 1024,
        seed: int = 0,
        *,
        ngrams: tuple[int, int] = (1, 1),
        stop_words: str | Sequence[str] | None = "english",
        idf: Iterable[str] | None = None,
    ) -> None:
        if isinstance(stop_words, str) and stop_words != "english":
            raise _impossible("stop_words", stop_words, 'None, a list of words, or "english"')
        if dim < 8:
            raise _impossible("dim", dim, "an int of at least 8")
        if not 1 <= ngrams[0] <= ngrams[1]:
            raise _impossible("ngrams", ngrams, "(shortest, longest), both at least 1")
        self.dim, self.seed, self.ngrams = dim, seed, ngrams
        self.stop_words = stop_words if stop_words is None or isinstance(stop_words, str) else list(stop_words)
        self._idf = None if idf is None else self._rarity(idf)

    def _rarity(self, texts: Iterable[str]) -> Any:
        from weighted_stream.scoring import scikit

        known = check_texts(list(texts), "HashedEncoder")
        if not known:
            raise _impossible("idf", "no text", "a few thousand texts")
        return scikit.rarity(scikit.HashedCounts(self.ngrams, self.stop_words)(known))

    @property
    def name(self) -> str:
        """What tells its vectors from those of other options."""
        options = [f"dim={self.dim}, seed={self.seed}"]
        if self.ngrams != (1, 1):
            options.append(f"ngrams={self.ngrams}")
        if isinstance(self.stop_words, list):
            options.append(f"stop_words={_digest(chr(10).join(sorted(self.stop_words)).encode())}")
        elif self.stop_words is None:
            options.append("stop_words=None")
        if self._idf is not None:
            options.append(f"idf={_digest(self._idf.tobytes())}")
        return f"HashedEncoder({', '.join(options)})"

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        from weighted_stream.scoring import scikit

        return scikit.HashedCounts(self.ngrams, self.stop_words, self._idf), scikit.projection(self.dim, self.seed)

    def __getstate__(self) -> dict[str, Any]:
        # The projection is made again from its seed: megabytes that need not travel.
        return {key: value for key, value in self.__dict__.items() if key != "_parts"}

    def encode(self, samples: Sequence[str], /) -> Tensor:
        """Unit vectors, (n, dim) float32, on the CPU; zero for a text without a word.

        Raises:
            ScoringError: if a sample is no str.
        """
        texts = check_texts(samples, "HashedEncoder")
        if not texts:
            return torch.zeros(0, self.dim)
        counts, matrix = self._parts
        return torch.nn.functional.normalize(torch.from_numpy((counts(texts) @ matrix).toarray()), dim=1)


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:8]


def _impossible(option: str, found: object, expected: str) -> ScoringError:
    return ScoringError(
        f"HashedEncoder has an impossible {option}.", found=found, expected=expected, do=f"pass another {option}="
    )
