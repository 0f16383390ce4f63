"""What tells one set of scores from another: encoder, target set, method, and the field that was scored."""

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
        text: the field of a sample that was scored. None where a function gave it, or nobody wrote it down: then it
            decides nothing.
    """

    encoder: str
    target: str
    method: str
    centroid: tuple[float, ...] = ()
    text: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        values = {**asdict(self), "centroid": [round(value, 5) for value in self.centroid]}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ScoreIdentity:
        """The inverse of `to_json`."""
        centroid, text = tuple(value["centroid"]), value.get("text")
        return cls(value["encoder"], value["target"], value["method"], centroid, text)

    def named(self) -> str:
        """For messages: method, encoder and field.

        Example:
            >>> ScoreIdentity("mini", "c0ffee", "mean", text="title").named()
            "mean by mini of the field 'title'"
        """
        return f"{self.method} by {self.encoder}" + (f" of the field {self.text!r}" if self.text is not None else "")

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
        if self.text is not None and other.text is not None and self.text != other.text:
            return f"the field {other.text!r} instead of {self.text!r}"
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
