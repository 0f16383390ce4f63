"""What training should become good at: samples, and how likeness to them becomes one score."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from itertools import islice
from typing import Any, Literal, TypeAlias, get_args

from torch import Tensor

from weighted_stream.errors import SampleIdError, ScoringError
from weighted_stream.scoring.fields import TextField, sample_field
from weighted_stream.scoring.similarity import mean_cosine, top_k_cosine
from weighted_stream.scoring.target_files import read_samples
from weighted_stream.sources.ids import content_id

Method: TypeAlias = Literal["mean", "max", "top-k", "centroids"]
DEFAULT_K = {"top-k": 5, "centroids": 8}


class TargetSet:
    """Samples of what training should become good at, and how a sample's likeness to them is measured.

    The score of a sample is made of its cosines with the target samples: their mean (one product with the
    centroid, so any number of targets costs as much as one), the largest, the mean of the ``k`` largest, or the
    largest with ``k`` centroids of the target (k-means). The mean suits a target of one kind; the others let a sample
    be like one part of a mixed target.

    Args:
        samples: a list, a dataset (iterable, or map-style), or the path of a ``.jsonl``, ``.jsonl.gz`` or ``.parquet``
            file.
        text: the field of a sample that is encoded, or a function of the sample; see `sample_field`.
        score: ``"mean"``, ``"max"``, ``"top-k"`` or ``"centroids"``.
        k: for ``"top-k"`` (default 5) and ``"centroids"`` (default 8).
        limit: take the first so many samples; None: all. They are held in memory, and so are their vectors.

    Attributes:
        samples: what the field gave, one value per sample, for text: str.
        digest: tells this target from another, as hexadecimal text.
        method: ``"mean"``, ``"max"``, ``"top-5"``, ``"centroids-8"``.

    Raises:
        ScoringError: if there is no sample, a sample lacks the field, the file cannot be read, or an option cannot be.

    Example:
        >>> target = TargetSet([{"text": "Two and two"}, {"text": "Four apples"}], score="max")
        >>> target
        TargetSet(2 samples, score='max', digest='cd2b05973f33')
    """

    def __init__(
        self,
        samples: Any,
        *,
        text: TextField = "text",
        score: Method = "mean",
        k: int | None = None,
        limit: int | None = None,
    ) -> None:
        if score not in get_args(Method):
            raise _impossible("score", score, f"one of {', '.join(get_args(Method))}")
        if k is not None and (score not in DEFAULT_K or k < 1):
            raise _impossible("k", f"k={k} with score={score!r}", 'an int of at least 1, for "top-k" or "centroids"')
        if limit is not None and limit < 1:
            raise _impossible("limit", limit, "an int of at least 1, or None")
        field = sample_field(text)
        self.samples: list[Any] = [field(s) for s in islice(read_samples(samples, text), limit)]
        if not self.samples:
            raise ScoringError(
                "The target set is empty.",
                found=f"no sample in {samples!r:.80}",
                expected="some samples of what training should become good at (a few hundred will do)",
                do="check the file or dataset",
            )
        self.score: Method = score
        self.k = k or DEFAULT_K.get(score, 1)
        if self.k > len(self.samples):
            raise _impossible("k", f"k={self.k} with {len(self.samples)} target samples", "at most as many")
        self.digest = _digest(self.samples)

    @property
    def method(self) -> str:
        """How the cosines become a score, with its number."""
        names = {"top-k": f"top-{self.k}", "centroids": f"centroids-{self.k}"}
        return names.get(self.score, self.score)

    def references(self, vectors: Tensor) -> Tensor:
        """What samples are compared with: the target's own vectors (m, d), or their (k, d) centroids."""
        if self.score != "centroids":
            return vectors
        from weighted_stream.scoring.scikit import unit_centroids

        return unit_centroids(vectors, self.k)

    def scores(self, vectors: Tensor, references: Tensor) -> Tensor:
        """One score per vector.

        Args:
            vectors: (n, d) float32, unit.
            references: what `references` made of the target's vectors, on the same device.

        Returns:
            (n,) float32, from -1 to 1.
        """
        if self.score == "mean":
            return mean_cosine(vectors, references)
        return top_k_cosine(vectors, references, self.k if self.score == "top-k" else 1)

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        return f"TargetSet({len(self)} samples, score={self.method!r}, digest={self.digest!r})"


def _digest(values: Sequence[Any]) -> str:
    digest = sha256()
    for value in values:
        try:
            digest.update(content_id(value).to_bytes(8, "big"))
        except SampleIdError as error:
            raise ScoringError(
                "Cannot tell this target from another: its samples cannot be read as plain data.",
                found=f"a {type(value).__name__}",
                expected=error.expected,
                do="pass text= a function that makes plain data of a sample",
            ) from error
    return digest.hexdigest()[:12]


def _impossible(option: str, found: object, expected: str) -> ScoringError:
    return ScoringError(
        f"TargetSet has an impossible {option}.", found=found, expected=expected, do=f"pass another {option}="
    )
