"""Static embeddings of model2vec: one vector per token, looked up and averaged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weighted_stream.errors import ScoringError, missing_extra
from weighted_stream.scoring.fields import check_texts


class Model2VecEncoder:
    """A model2vec ``StaticModel``: no transformer, so tens of thousands of texts a second on one core.

    Args:
        model: a ``StaticModel``, or the folder or name of one (loaded at the first use, in the process that uses it).

    Raises:
        MissingExtraError: at the first use, if model2vec is not installed.
        ScoringError: at the first use, if the model cannot be loaded.

    Example:
        >>> Model2VecEncoder("models/potion-base-8M").name
        "Model2VecEncoder('potion-base-8M')"
    """

    def __init__(self, model: Any) -> None:
        self.model = os.fspath(model) if isinstance(model, (str, os.PathLike)) else model

    @property
    def name(self) -> str:
        """The model's name, without its folder."""
        path = self.model if isinstance(self.model, str) else getattr(self.model, "base_model_name", None)
        return f"Model2VecEncoder({Path(path or 'StaticModel').name!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_loaded"}

    @cached_property
    def _loaded(self) -> Any:
        if not isinstance(self.model, str):
            return self.model
        try:
            from model2vec import StaticModel
        except ImportError as error:
            raise missing_extra("model2vec", "embed") from error
        try:
            return StaticModel.from_pretrained(self.model)
        except (OSError, ValueError) as error:
            raise ScoringError(
                f"Cannot load the static model {self.model!r}.",
                found=f"{type(error).__name__}: {str(error)[:200]}",
                expected="the folder of a model2vec model, or the name of one that can be fetched",
                do="check the path",
            ) from error

    def encode(self, samples: Sequence[str], /) -> Tensor:
        """Unit vectors, (n, d) float32, on the CPU; zero for a text without a known token.

        Raises:
            ScoringError: if a sample is no str.
        """
        texts = check_texts(samples, "Model2VecEncoder")
        # In this process: it may be one that must not have children.
        vectors = self._loaded.encode(texts or [""], show_progress_bar=False, use_multiprocessing=False)
        return torch.nn.functional.normalize(torch.from_numpy(vectors[: len(texts)]).float(), dim=1)
