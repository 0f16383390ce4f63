"""The scorer: samples in, likeness to a target set out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weighted_stream.errors import ScoringError
from weighted_stream.scoring.base import Scorer, Scores
from weighted_stream.scoring.encoders import as_encoder, encode, encoder_name
from weighted_stream.scoring.fields import NoTextError, TextField, sample_field
from weighted_stream.scoring.identity import ScoreIdentity
from weighted_stream.scoring.target_set import TargetSet

CHUNK = 8192
"""Samples whose vectors are held at once: 32 MiB at 1,024 numbers each."""


class SimilarityScorer(Scorer):
    """Scores samples by their cosines with a target set: the offline relative of ADAPT (arXiv 2605.05227), which uses
    the states of the model in training where this uses an encoder of its own.

    The target is encoded once, at the first use; memory is bounded by its vectors and those of 8,192 samples.

    Args:
        target: a `TargetSet`, or anything that one is made of (then with the same ``text``).
        encoder: see `as_encoder`; None is `HashedEncoder`.
        text: the field of a sample that is encoded, or a function of the sample. (The target has its own.)

    Raises:
        ScoringError: if the target or the encoder is none.

    Example:
        >>> scorer = SimilarityScorer(["Two apples and three apples", "Five apples less two"])
        >>> apples, rain = scorer.score([{"text": "Three apples"}, {"text": "Rain on Monday"}])
        >>> bool(apples > 0.5), bool(abs(rain) < 0.2), scorer.identity.encoder
        (True, True, 'HashedEncoder(dim=1024, seed=0)')
    """

    def __init__(self, target: Any, encoder: Any = None, *, text: TextField = "text") -> None:
        self.target = target if isinstance(target, TargetSet) else TargetSet(target, text=text)
        self.encoder = as_encoder(encoder)
        self._field = sample_field(text)
        self._text = text if isinstance(text, str) else None

    @cached_property
    def _encoded(self) -> tuple[Tensor, tuple[float, ...]]:
        """What samples are compared with, and the target's centroid."""
        try:
            vectors = self._vectors(self.target.samples)
        except NoTextError as error:
            raise error.at(f"row {error.row} of the target") from error
        if not vectors.any():
            raise ScoringError(
                "No target sample has a vector, so nothing can resemble the target.",
                found=f"{len(vectors)} zero vectors of {encoder_name(self.encoder)!r}",
                expected="a target whose texts have words",
                do="look at the target's samples, and name the field of their text with text=",
            )
        return self.target.references(vectors), tuple(vectors.mean(0, dtype=torch.float64).tolist())

    def _vectors(self, values: Sequence[Any], size: int | None = None) -> Tensor:
        parts: list[Tensor] = []
        for start in range(0, len(values), CHUNK):
            parts.append(self._encode(values[start : start + CHUNK], start, size))
            size = parts[-1].shape[1]
        return torch.cat(parts)

    def _encode(self, values: Sequence[Any], start: int, size: int | None) -> Tensor:
        try:
            return encode(self.encoder, values, size)
        except NoTextError as error:
            raise error.moved(start) from error

    @property
    def identity(self) -> ScoreIdentity:
        """The encoder's name, the target's digest, the method, the mean target vector, the name of the field."""
        name, target = encoder_name(self.encoder), self.target
        return ScoreIdentity(name, target.digest, target.method, self._encoded[1], self._text)

    def score(self, samples: Sequence[Any]) -> Scores:
        """One score per sample: (n,) float32, from -1 to 1; see `TargetSet`.

        Raises:
            ScoringError: if a sample lacks its field, or the encoder gives no vectors that can be used.
        """
        references, centroid = self._encoded
        scores = np.empty(len(samples), np.float32)
        for start in range(0, len(samples), CHUNK):
            part = [self._field(sample) for sample in samples[start : start + CHUNK]]
            vectors = self._encode(part, start, len(centroid)).to(references.device)
            scores[start : start + CHUNK] = self.target.scores(vectors, references).cpu().numpy()
        return scores
