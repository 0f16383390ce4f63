"""How a scorer is named on the command line, and made wherever the scoring is done."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from typing import Any

from weighted_stream.errors import ScoringError
from weighted_stream.scoring.similarity_scorer import SimilarityScorer
from weighted_stream.scoring.target_set import Method, TargetSet


@dataclass(frozen=True)
class ScorerSpec:
    """A `SimilarityScorer` in words.

    Attributes:
        target: path of the target set.
        encoder: ``"hashed"``, ``"module:function"`` (or a class without arguments, or an encoder object), or the path
            of a sentence encoder.
        text: the field of a sample.
        target_text: the field of a target sample; None: the same.
        score: how likeness to the target set becomes one score.
        k: for ``"top-k"`` and ``"centroids"``.
    """

    target: str
    encoder: str = "hashed"
    text: str = "text"
    target_text: str | None = None
    score: Method = "mean"
    k: int | None = None

    def make(self, device: str | None = None) -> SimilarityScorer:
        """The scorer, on a device.

        Args:
            device: e.g. ``"cuda:1"``; None: what the encoder chooses.

        Raises:
            ScoringError: if target, encoder or device cannot be used.
        """
        if device is not None:
            _check_device(device)
        target = TargetSet(self.target, text=self.target_text or self.text, score=self.score, k=self.k)
        return SimilarityScorer(target, _encoder(self.encoder, device), text=self.text)


def _encoder(name: str, device: str | None) -> Any:
    if name == "hashed":
        return None
    module, colon, attribute = name.partition(":")
    if colon and all(part.isidentifier() for part in module.split(".")) and attribute.isidentifier():
        return _imported(name, module, attribute)
    from weighted_stream.scoring.sentence import SentenceEncoder

    return SentenceEncoder(name, device=device)


def _imported(name: str, module: str, attribute: str) -> Any:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a command has its own folder there, not the one it is called in
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ScoringError(
            "There is no such encoder.",
            found=f"{name}: {error}",
            expected="module:function, importable from here",
            do="check the spelling; the module has to be installed, or lie in the present folder",
        ) from error
    return found() if isinstance(found, type) else found


def _check_device(device: str) -> None:
    """Make a GPU the one that is meant by "cuda", also for encoders that know nothing of devices."""
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ScoringError(
            "There is no such device.",
            found=repr(device),
            expected="cpu, cuda, or cuda:N with the number N of a GPU; several with commas, without blanks",
            do="name another --device, or none: the encoder chooses",
        ) from error
    if kind != "cuda":
        return
    number = int(device.partition(":")[2] or 0)  # torch keeps it in a byte
    if number >= torch.cuda.device_count():
        raise ScoringError(
            "There is no such GPU.",
            found=device,
            expected=f"one of the {torch.cuda.device_count()} GPUs that torch sees",
            do="name another --device, or cpu",
        )
    torch.cuda.set_device(number)
