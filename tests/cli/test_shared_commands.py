"""Scores go from the score command through a server to a trainer; inspect looks at what is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_servers import SharedServer

from weighted_stream import ParquetDataset, SharedStore, Similarity, SourceError, WeightedStream, read_scores
from weighted_stream.cli import main
from weighted_stream.figures.following_shared import FollowedShared
from weighted_stream.shards.convert import convert
from weighted_stream.shards.writing import ShardSize
from weighted_stream.store.shared_address import PASSWORD

pytest.importorskip("tqdm")

ROWS = [{"text": "apples " * (i % 5) + "rain " * (i % 3)} for i in range(60)]
ENCODER = """
import torch

def words(texts):
    return torch.tensor([[1.0 + text.count("apples"), 1.0 + text.count("rain")] for text in texts])
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedServer]:
    """With a password, which the environment knows."""
    monkeypatch.setenv(PASSWORD, "secret")
    with SharedServer(tmp_path / "server", password="secret") as server:
        yield server


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "counts.py").write_text(ENCODER)
    (tmp_path / "target.jsonl").write_text(json.dumps({"text": "apples and apples"}) + "\n")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    convert(tmp_path / "rows.jsonl", tmp_path / "shards", "parquet", size=ShardSize(samples=20))
    return tmp_path / "shards"


def score(shards: Path, server: SharedServer, *more: str) -> int:
    url = f"redis://127.0.0.1:{server.port}"
    command = ["score", str(shards), "--target", "target.jsonl", "--encoder", "counts:words", "--store", url]
    return main([*command, "--store-name", "corpus", *more])


def test_from_the_scorer_to_the_trainer(shards: Path, server: SharedServer, capsys: pytest.CaptureFixture[str]) -> None:
    data = ParquetDataset(shards, columns=["text"])
    url = f"redis://127.0.0.1:{server.port}"
    with (
        SharedStore(url, name="corpus", every=0.02) as store,
        WeightedStream(data, Similarity(), store=store) as stream,
    ):
        assert score(shards, server) == 0
        assert "60 scores are in the shared store 'corpus'" in capsys.readouterr().out
        store.catch_up()
        ids, scores = (np.concatenate(part) for part in zip(*read_scores(shards / "_scores"), strict=True))
        np.testing.assert_array_equal(stream.store.get(ids)["similarity"], scores)
        assert stream.stats()["scored"] == 60.0
        # Again: nothing is scored, all is sent.
        assert score(shards, server) == 0
        assert "60 scores are in" in capsys.readouterr().out
        # Other scores are refused.
        assert score(shards, server, "--score", "max", "--out", "other") == 1
        assert "holds other scores: method 'max'" in capsys.readouterr().err


def test_inspect(shards: Path, server: SharedServer, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"redis://:secret@127.0.0.1:{server.port}"
    assert main(["inspect", url, "--name", "corpus"]) == 1
    assert "nothing is in it" in capsys.readouterr().err
    score(shards, server)
    capsys.readouterr()
    assert main(["inspect", url, "--name", "corpus", "--data", str(shards), "--top", "1"]) == 0
    shown = capsys.readouterr().out
    assert "scored: 60" in shown
    assert "apples" in shown
    assert "secret" not in shown
    assert main(["inspect", url, "--name", "corpus", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["facts"] == {"samples": 60, "visits": 0, "scored": 60, "nonfinite": 0}
    assert found["by"] == "similarity"


def test_a_store_that_cannot_be_reached(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("redis")
    target = ["--target", "target.jsonl", "--encoder", "counts:words"]
    assert main(["score", str(shards), *target, "--store", "http://:secret@host"]) == 1
    error = capsys.readouterr().err
    assert "no address of a shared store" in error
    assert "secret" not in error


def test_a_shared_store_is_followed(server: SharedServer, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"redis://127.0.0.1:{server.port}"
    with SharedStore(url, name="corpus", every=0.02) as store:
        store.update(range(20), loss=np.arange(20.0), weight=np.ones(20), step=6)
        store.update([30], similarity=[0.5])
        store.flush()
        followed = FollowedShared(url, "corpus")
        sight = followed.look()
        assert (sight.steps, sight.stats["samples"], sight.stats["visits"], sight.stats["unscored"]) == (7, 21, 20, 20)
        assert (sight.stats["ess"], sight.losses, len(sight.deciles)) == (1.0, [9.5], 10)
        store.update([1], loss=[3.0], weight=[3.0], step=7)
        store.flush()
        again = followed.look()
        assert (again.steps, again.stats["visits"]) == (8, 21)
        assert again.stats["ess"] < 1.0
        followed.close()
    empty = FollowedShared(url, "nothing")
    with pytest.raises(SourceError, match="nothing is in it"):
        empty.look()
    empty.close()
