"""Scorers in words: on devices that there are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from weighted_stream import ScoringError
from weighted_stream.shards.scorers import ScorerSpec

pytest.importorskip("sklearn")


@pytest.fixture
def spec(tmp_path: Path) -> ScorerSpec:
    (tmp_path / "target.jsonl").write_text(json.dumps({"text": "two apples"}) + "\n")
    return ScorerSpec(str(tmp_path / "target.jsonl"))


@pytest.mark.parametrize("device", ["cuda:x", "cuda:-1", "cuda:", "banana", " cpu", "cuda:999", "cuda:99"])
def test_devices_that_are_none(spec: ScorerSpec, device: str) -> None:
    with pytest.raises(ScoringError, match=r"There is no such (device|GPU)") as error:
        spec.make(device)
    assert device in str(error.value.found)
    assert "cpu" in f"{error.value.expected} {error.value.do}"


def test_the_processor(spec: ScorerSpec) -> None:
    assert spec.make("cpu").identity == spec.make().identity
