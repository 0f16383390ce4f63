"""What tells one set of scores from another: encoder, target set, method."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

CLOSE = 0.99
"""Cosine between two centroids of one target set by one encoder: rounding and another device stay above it."""


@dataclass(frozen=True)
class ScoreIdentity:
    """What a store, or a side file, remembers of the scores in it.

    Attributes:
        encoder: its name, e.g. ``"HashedEncoder(dim=512)"`` or the model's name.
        target: a digest of the target samples, as hexadecimal text.
        method: how a sample's vector becomes a score, e.g. ``"mean"`` or ``"top-5"``.
        centroid: (d,) the mean target vector: tells apart encoders that bear one name. Empty without vectors, or before
            they are made: then it decides nothing.
    """

    encoder: str
    target: str
    method: str
    centroid: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "centroid": [round(value, 5) for value in self.centroid]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ScoreIdentity:
        """The inverse of `to_json`."""
        return cls(value["encoder"], value["target"], value["method"], tuple(value["centroid"]))

    def conflict(self, other: ScoreIdentity) -> str | None:
        """Why scores of ``other`` do not belong beside these, or None if they do.

        Example:
            >>> a = ScoreIdentity("mini", "c0ffee", "mean", (1.0, 0.0))
            >>> a.conflict(ScoreIdentity("mini", "c0ffee", "mean", (0.0, 1.0)))
            "the encoder 'mini' gives other vectors (cosine 0.000 between the target's centroids)"
        """
        for what in ("encoder", "target", "method"):
            if getattr(self, what) != getattr(other, what):
                return f"{what} {getattr(other, what)!r} instead of {getattr(self, what)!r}"
        if not self.centroid or not other.centroid:
            return None
        if len(self.centroid) != len(other.centroid):
            return f"vectors of size {len(other.centroid)} instead of {len(self.centroid)}"
        cosine = _cosine(self.centroid, other.centroid)
        if cosine < CLOSE:
            return (
                f"the encoder {self.encoder!r} gives other vectors (cosine {cosine:.3f} between the target's centroids)"
            )
        return None


def _cosine(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    if a == b:
        return 1.0
    lengths = math.hypot(*a) * math.hypot(*b)
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0
