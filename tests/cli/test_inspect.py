"""The inspect command: right figures and texts of shards, side files and stores, printed without harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weighted_stream import ParquetDataset, WeightStore, load_scores
from weighted_stream.cli import main
from weighted_stream.scoring.identity import ScoreIdentity
from weighted_stream.shards.convert import convert
from weighted_stream.shards.folder import open_shards
from weighted_stream.shards.side_files import write_side_file
from weighted_stream.shards.writing import FORMATS, ShardSize
from weighted_stream.sources import source_for
from weighted_stream.sources.base import Fingerprint

pytestmark = [
    # webdataset leaves closing its tar files to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ROWS = [{"id": f"s{i}", "text": f"text {i} " + "x" * i} for i in range(30)]


def shards(folder: Path, kind: str) -> Path:
    if kind in ("mds", "webdataset"):
        pytest.importorskip({"mds": "streaming", "webdataset": "webdataset"}[kind])
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    convert(folder / "data.jsonl", folder / kind, kind, size=ShardSize(8, None))
    return folder / kind


def scored(folder: Path, id: str | None = None) -> Path:
    """Side files whose score is the number of the sample modulo 10, less the tens."""
    opened = open_shards(folder, id=id)
    number = 0
    for shard in opened.shards:
        ids = np.array([key for key, _ in shard.read()])
        scores = [(number + i) % 10 - (number + i) // 10 for i in range(len(ids))]
        number += len(ids)
        write_side_file(
            folder / "_scores",
            shard.name,
            ids,
            np.array(scores, np.float32),
            identity=ScoreIdentity("mini", "c0ffee", "mean"),
            dataset=opened.fingerprint,
            size=shard.size,
        )
    return folder / "_scores"


def inspect(capsys: pytest.CaptureFixture[str], path: Path, *more: str) -> dict[str, Any]:
    assert main(["inspect", str(path), "--json", *more]) == 0
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


def texts(places: list[dict[str, Any]]) -> list[str]:
    return [place["text"].split(" x")[0].rstrip() for place in places]


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_shards(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = inspect(capsys, shards(tmp_path, kind), "--top", "2")
    facts = found["facts"]
    assert (found["kind"], facts["format"], facts["shards"], facts["samples"]) == ("shards", kind, 4, 30)
    assert facts["columns"] == {"id": "str", "text": "str"}
    lengths = [len(row["text"]) for row in ROWS]
    figures = found["distributions"]["characters of 'text'"]
    assert (figures["count"], figures["min"], figures["max"]) == (30, min(lengths), max(lengths))
    assert figures["mean"] == pytest.approx(np.mean(lengths))
    assert texts(found["highest"]) == ["text 29", "text 28"]
    assert texts(found["lowest"]) == ["text 0", "text 1"]
    few = inspect(capsys, tmp_path / kind, "--limit", "10")
    assert few["distributions"]["characters of 'text'"]["count"] == 10
    assert "first 10 samples" in few["notes"][0]


@pytest.mark.parametrize("id_", [None, "id"])
@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_side_files(tmp_path: Path, kind: str, id_: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    side = scored(shards(tmp_path, kind), id_)
    found = inspect(capsys, side, "--top", "3")
    assert (found["kind"], found["facts"]["shards"], found["facts"]["scored samples"]) == ("scores", 4, 30)
    assert found["facts"]["scored by"] == "mini"
    figures = found["distributions"]["score"]
    assert (figures["count"], figures["min"], figures["max"], figures["exact"]) == (30, -2.0, 9.0, True)
    assert [place["value"] for place in found["highest"]] == [9.0, 8.0, 8.0]
    assert texts(found["highest"])[0] == "text 9"
    assert set(texts(found["highest"])[1:]) == {"text 8", "text 19"}
    assert texts(found["lowest"])[0] == "text 20"
    assert found["highest"][0]["shard"].endswith(("shard.00001.mds", "00001.tar", "00001.parquet"))
    from_shards = inspect(capsys, side.parent, "--top", "3")
    assert from_shards["kind"] == "shards"
    if id_ is None:
        assert from_shards["highest"] == found["highest"]
    one = inspect(capsys, sorted(side.iterdir())[0], "--top", "1")
    assert (one["facts"]["scored samples"], texts(one["highest"])) == (8, ["text 7"])


def test_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shards(tmp_path, "parquet")
    side = scored(folder)
    source = source_for(ParquetDataset(folder))
    ids = [key for key, _ in source.dataset]
    with WeightStore(tmp_path / "store") as store:
        load_scores(store, side)
        losses = np.linspace(1, 2, 30)
        store.update(ids, loss=losses, weight=losses[::-1].copy(), step=0)
    found = inspect(capsys, tmp_path / "store", "--data", str(folder), "--top", "2")
    assert found["kind"] == "store"
    assert (found["facts"]["samples"], found["facts"]["visits"], found["facts"]["scored"]) == (30, 30, 30)
    assert found["by"] == "weight"
    assert texts(found["highest"]) == ["text 0", "text 1"]
    assert texts(found["lowest"]) == ["text 29", "text 28"]
    assert found["distributions"]["loss"]["mean"] == pytest.approx(1.5, abs=1e-6)
    assert found["distributions"]["similarity"]["max"] == 9.0
    by_score = inspect(capsys, tmp_path / "store", "--by", "similarity", "--top", "1")
    assert (by_score["highest"][0]["value"], by_score["highest"][0]["text"]) == (9.0, None)
    assert "--data" in by_score["notes"][0]
    other = shards_of_others(tmp_path)
    strange = inspect(capsys, tmp_path / "store", "--data", str(other), "--top", "1")
    assert "2 of these samples are not in" in strange["notes"][0]


def shards_of_others(folder: Path) -> Path:
    (folder / "other.txt").write_text("nothing\nin common\n")
    convert(folder / "other.txt", folder / "other" / "deep", "parquet")
    return folder / "other"


def test_an_empty_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    WeightStore(tmp_path / "store").close()
    assert main(["inspect", str(tmp_path / "store")]) == 0
    assert "samples: 0" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "store"), "--by", "loss"]) == 1
    assert "no 'loss'" in capsys.readouterr().err


def test_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "red \x1b[31m\r\nline \u202e ä " + "long" * 100
    (tmp_path / "data.jsonl").write_text(json.dumps({"text": evil}) + '\n{"text": "short"}\n')
    folder = tmp_path / "out"
    convert(tmp_path / "data.jsonl", folder, "parquet")
    scored(folder)
    assert main(["inspect", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert r"red \x1b[31m\r\nline \u202e ä long" in printed
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert max(map(len, printed.splitlines())) < 230
    for words in ("shards: ", "samples: 2", "scored by: mini", "█", "q95", "highest, by score", "lowest, by score"):
        assert words in printed


def test_scores_of_no_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_side_file(
        tmp_path / "out",
        "e.tar",
        np.empty(0, np.int64),
        np.empty(0, np.float32),
        identity=ScoreIdentity("mini", "c0ffee", "mean"),
        dataset=Fingerprint("webdataset", ""),
    )
    assert main(["inspect", str(tmp_path / "out")]) == 0
    assert "scored samples: 0" in capsys.readouterr().out


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        assert main(["inspect", str(path)]) == 1
        error = capsys.readouterr().err
        assert "to do:" in error
        assert "Traceback" not in error
    folder = shards(tmp_path, "parquet")
    assert main(["inspect", str(folder), "--text", "body"]) == 0
    assert "--text" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["inspect", str(folder), "--top", "-1"])


def test_nothing_to_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path, tmp_path / "nope"):
        assert main(["inspect", str(path)]) == 1
        error = capsys.readouterr().err
        assert ("nope, which does not exist" in error) == (path != tmp_path)
        assert "or a folder of side files, or of a store" in error
    WeightStore(tmp_path / "store").close()
    with WeightStore(tmp_path / "store") as store:
        store.update([1], weight=[1.0])
    assert main(["inspect", str(tmp_path / "store"), "--data", str(tmp_path / "nope")]) == 1
    error = capsys.readouterr().err
    assert "nope, which does not exist" in error
    assert "store" not in error.partition("expected:")[2]
