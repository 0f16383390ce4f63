"""Processes that score: their errors, and their ends, are told."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weighted_stream import ScoringError
from weighted_stream.shards.job import ScoringJob
from weighted_stream.shards.scorers import ScorerSpec
from weighted_stream.shards.workers import Workers

ENCODER = """
import torch

class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")

def words(texts):
    if any("odd" in text for text in texts):
        raise Odd("apples", "pears")
    return torch.ones(len(texts), 2)
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScoringJob:
    """Two shards, the second of which the encoder fails on."""
    (tmp_path / "counted.py").write_text(ENCODER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "target.jsonl").write_text(json.dumps({"text": "apples"}) + "\n")
    (tmp_path / "shards").mkdir()
    for name in ("even", "odd"):
        pq.write_table(pa.table({"text": [name]}), tmp_path / "shards" / f"{name}.parquet")
    return ScoringJob(str(tmp_path / "shards"), ScorerSpec(str(tmp_path / "target.jsonl"), "counted:words"))


@pytest.mark.timeout(180)
def test_a_process_that_dies_while_it_has_no_shard(job: ScoringJob) -> None:
    with Workers(job, [None]) as workers:
        workers.identity()
        (process,) = workers._processes.values()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with pytest.raises(ScoringError, match="exit code -9, while it had no shard"):
            list(workers.run(["even.parquet"]))


@pytest.mark.timeout(180)
def test_an_error_that_does_not_pickle_is_told(job: ScoringJob) -> None:
    with Workers(job, [None]) as workers:
        workers.identity()
        assert list(workers.run(["even.parquet"]))
        with pytest.raises(ScoringError, match="apples and pears") as error:
            list(workers.run(["odd.parquet"]))
    assert "counted.py" in str(error.value.found)
    assert error.value.do


@pytest.mark.timeout(180)
def test_an_error_of_the_library_stays_what_it_is(job: ScoringJob) -> None:
    pytest.importorskip("sklearn")
    pq.write_table(pa.table({"text": [None]}, pa.schema([("text", pa.string())])), Path(job.shards) / "even.parquet")
    with Workers(replace(job, spec=replace(job.spec, encoder="hashed")), [None]) as workers:
        workers.identity()
        with pytest.raises(ScoringError, match="this is none") as error:
            list(workers.run(["even.parquet"]))
    assert "Traceback" not in str(error.value)
