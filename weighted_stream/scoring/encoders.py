"""Anything that makes vectors, as an encoder; and the one place where its vectors are checked."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from weighted_stream.errors import ScoringError
from weighted_stream.scoring.base import Encoder


class FunctionEncoder:
    """A function samples -> (n, d) vectors, tensor or array, as an encoder. It has to pickle: no lambda.

    Args:
        function: called with a list of samples.

    Example:
        >>> from math import sqrt
        >>> encoder = FunctionEncoder(lambda texts: torch.tensor([[float(len(text)), 1.0] for text in texts]))
        >>> encode(encoder, ["", "abc"])
        tensor([[0.0000, 1.0000],
                [0.9487, 0.3162]])
    """

    def __init__(self, function: Callable[[Sequence[Any]], Any]) -> None:
        self.function = function

    @property
    def name(self) -> str:
        """The function's name, with its module."""
        function: Any = self.function
        while isinstance(function, functools.partial):
            function = function.func
        named = function if hasattr(function, "__qualname__") else type(function)
        return f"{named.__module__}.{named.__qualname__}"

    def encode(self, samples: Sequence[Any], /) -> Any:
        """What the function returns."""
        return self.function(samples)


def as_encoder(encoder: Any = None) -> Encoder:
    """The encoder that is meant.

    Args:
        encoder: None (`HashedEncoder`), anything with ``.encode``, a function samples -> vectors, a
            ``SentenceTransformer`` or the path or name of one (`SentenceEncoder`), a model2vec ``StaticModel``
            (`Model2VecEncoder`).

    Raises:
        ScoringError: for anything else.

    Example:
        >>> as_encoder().name
        'HashedEncoder(dim=1024, seed=0)'
    """
    if encoder is None:
        from weighted_stream.scoring.hashed import HashedEncoder

        return HashedEncoder()
    kinds = {kind.__name__ for kind in type(encoder).__mro__}
    if isinstance(encoder, str) or "SentenceTransformer" in kinds:
        from weighted_stream.scoring.sentence import SentenceEncoder

        return SentenceEncoder(encoder)
    if "StaticModel" in kinds:
        from weighted_stream.scoring.static import Model2VecEncoder

        return Model2VecEncoder(encoder)
    if isinstance(encoder, Encoder) and not isinstance(encoder, type):
        return encoder
    if callable(encoder) and not isinstance(encoder, type):
        return FunctionEncoder(encoder)
    raise ScoringError(
        "This is no encoder.",
        found=f"{encoder!r}",
        expected="an object with encode(samples) -> vectors, a function, or the path of a sentence encoder",
        do="pass an instance; see as_encoder for what will do",
    )


def encoder_name(encoder: Encoder) -> str:
    """What a store remembers an encoder by: its ``name`` if it has one, else that of its class."""
    kind = type(encoder)
    return str(getattr(encoder, "name", None) or f"{kind.__module__}.{kind.__qualname__}")


def encode(encoder: Encoder, samples: Sequence[Any], size: int | None = None) -> Tensor:
    """Unit vectors of the samples, checked: (n, d) float32, on the encoder's device.

    Vectors of any length are made unit. A zero vector stays: its sample resembles nothing.

    Args:
        encoder: see `as_encoder`. Arrays, and floats of any width, will do.
        samples: what is to be encoded, as the encoder takes it.
        size: d, if it is known.

    Raises:
        ScoringError: for another number or size of vectors, or one that is not finite.
    """
    vectors, shown = _matrix(encoder.encode(samples))
    if vectors is None or len(vectors) != len(samples) or size not in (None, vectors.shape[1]):
        raise _wrong(
            encoder,
            found=shown,
            expected=f"one vector per sample, shape ({len(samples)}, {'d' if size is None else size})",
            do="mend the encoder: all its vectors have one size, in the order of the samples",
        )
    finite = vectors.isfinite().all(1)
    if not finite.all():
        row = int((~finite).nonzero()[0])
        raise _wrong(
            encoder,
            found=f"{int((~finite).sum())} of {len(samples)} with NaN or infinity, the first for {samples[row]!r:.60}",
            expected="finite numbers",
            do="look at that sample; if it is fine, encode in float32",
        )
    # Twice, as lengths that overflow or vanish in float32 would come out as zero vectors.
    return torch.nn.functional.normalize(vectors / vectors.abs().amax(1, keepdim=True).clamp_min(1e-30), dim=1)


def _matrix(vectors: Any) -> tuple[Tensor | None, str]:
    """As a float32 matrix (None if it is none), and what it was."""
    try:
        rows = isinstance(vectors, (list, tuple)) and len(vectors) > 0 and isinstance(vectors[0], Tensor)
        matrix = torch.as_tensor(torch.stack(list(vectors)) if rows else vectors).detach().float()
    except (TypeError, ValueError, RuntimeError) as error:
        return None, f"{type(vectors).__name__} ({str(error)[:120]})"
    return matrix if matrix.ndim == 2 and matrix.shape[1] else None, f"shape {tuple(matrix.shape)}"


def _wrong(encoder: Encoder, *, found: str, expected: str, do: str) -> ScoringError:
    return ScoringError(
        f"The vectors of the encoder {encoder_name(encoder)!r} cannot be used.",
        found=found,
        expected=expected,
        do=do,
    )
