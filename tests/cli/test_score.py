"""The score command: the ids and scores of the sources and the scorer, whatever happens on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from minilm import minilm_path

from weighted_stream import ParquetDataset, read_scores
from weighted_stream.cli import main
from weighted_stream.scoring.similarity_scorer import SimilarityScorer
from weighted_stream.scoring.target_set import TargetSet
from weighted_stream.shards.convert import convert
from weighted_stream.shards.mds import open_mds
from weighted_stream.shards.side_files import side_files
from weighted_stream.shards.webdataset import as_row, open_webdataset
from weighted_stream.shards.writing import FORMATS, ShardSize
from weighted_stream.sources import source_for

pytest.importorskip("sklearn")
pytest.importorskip("tqdm")

pytestmark = [
    # webdataset leaves closing its tar files to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

WORDS = ["apples", "pears", "rain", "monday", "three", "seven", "river", "king"]
ROWS = [{"id": f"s{i}", "text": f"{WORDS[i % 8]} {WORDS[i * 3 % 7]} {i}"} for i in range(60)]
TARGET = [{"text": "three apples"}, {"text": "seven pears"}, {"text": "apples and pears"}]
VOWELS = ["--encoder", "vowels:words"]  # hashed words cost a second to begin with
ENCODER = """
import os, time
import torch

def words(texts):
    time.sleep(float(os.environ.get("SLOW", 0)))
    return torch.tensor([[1.0 + text.count(c) for c in "aeiou"] for text in texts])

def dies(texts):
    if any("king" in text for text in texts):
        os._exit(9)
    return words(texts)
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with samples, a target and a module with an encoder."""
    for name, rows in (("data", ROWS), ("target", TARGET)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "vowels.py").write_text(ENCODER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def shards(files: Path, kind: str = "parquet", rows: int = 10) -> Path:
    if kind in ("mds", "webdataset"):
        pytest.importorskip({"mds": "streaming", "webdataset": "webdataset"}[kind])
    convert(files / "data.jsonl", files / kind, kind, size=ShardSize(rows, None))
    return files / kind


def score(files: Path, folder: Path, *more: str) -> int:
    return main(["score", str(folder), "--target", str(files / "target.jsonl"), *VOWELS, *more])


def scores(folder: Path) -> dict[int, float]:
    return {i: s for ids, some in read_scores(folder) for i, s in zip(ids.tolist(), some.tolist(), strict=True)}


def dataset(folder: Path, kind: str) -> Any:
    if kind == "mds":
        return open_mds(folder, shuffle=False, batch_size=1)
    if kind == "webdataset":
        return open_webdataset(sorted(folder.glob("*.tar")), shardshuffle=False).map(as_row)
    return ParquetDataset(folder)


@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_ids_of_the_source_and_scores_of_the_scorer(
    files: Path, kind: str, by_column: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shards(files, kind)
    assert score(files, folder, "--encoder", "hashed", "--score", "max", *(["--id", "id"] if by_column else [])) == 0
    printed = capsys.readouterr()
    assert "60 samples in 6 shards scored" in printed.out
    assert "100%" in printed.err
    source = source_for(dataset(folder, kind), "id" if by_column else None)
    scorer = SimilarityScorer(TargetSet(TARGET, score="max"))
    expected = {id_: float(scorer.score([row])[0]) for id_, row in source.dataset}
    found = scores(folder / "_scores")
    assert found.keys() == expected.keys()
    assert [found[i] for i in expected] == pytest.approx(list(expected.values()), abs=1e-6)
    side = side_files(folder / "_scores")
    assert len(side) == 6
    assert side[0].identity.conflict(scorer.identity) is None
    assert len(list(source_for(dataset(folder, kind)).dataset)) == 60  # the side files are no data


def test_what_is_done_is_not_done_again(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shards(files)
    out = folder / "_scores"
    assert score(files, folder) == 0
    first = scores(out)
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    sorted(out.iterdir())[2].unlink()
    assert score(files, folder) == 0
    assert "10 samples in 1 shards scored; 5 had their scores" in capsys.readouterr().out
    assert sum(path.stat().st_mtime_ns == times[path] for path in out.iterdir()) == 5
    assert scores(out) == first
    for more in (["--score", "max"], ["--id", "id"], ["--encoder", "hashed"]):
        assert score(files, folder, *more) == 1
        error = capsys.readouterr().err
        assert "holds other scores" in error
        assert "--overwrite" in error
    assert score(files, folder, "--score", "max", "--overwrite") == 0
    assert scores(out) != first


def test_a_shard_that_has_changed_is_scored_again(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shards(files)
    assert score(files, folder) == 0
    longer = files / "longer"
    convert(files / "data.jsonl", longer, "parquet", size=ShardSize(12, None))
    shutil.copy(longer / "00003.parquet", folder / "00003.parquet")
    assert score(files, folder) == 0
    assert "12 samples in 1 shards scored" in capsys.readouterr().out
    assert len(scores(folder / "_scores")) == 62


@pytest.mark.parametrize("processes", ["1", "2"])
def test_an_unreadable_shard_is_named(
    files: Path, processes: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shards(files)
    bad, torn = folder / "00001.parquet", folder / "00004.parquet"
    bad.write_bytes(b"PAR1 no footer")
    data = bytearray(torn.read_bytes())
    footer = int.from_bytes(data[-8:-4], "little") + 8
    data[4:-footer] = bytes(len(data) - footer - 4)
    torn.write_bytes(bytes(data))
    assert score(files, folder) == 1
    assert "00001.parquet" in capsys.readouterr().err
    assert score(files, folder, "--on-bad-shard", "skip", "--processes", processes) == 0
    printed = capsys.readouterr().out
    assert "40 samples in 4 shards scored" in printed
    assert "2 shards left out" in printed
    assert "00001.parquet" in printed
    assert "00004.parquet" in printed
    assert len(scores(folder / "_scores")) == 40


def test_a_damaged_tar_file_is_named(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shards(files, "webdataset")
    (folder / "00002.tar").write_bytes(b"no tar file" * 100)
    assert score(files, folder) == 1
    assert "00002.tar" in capsys.readouterr().err
    assert score(files, folder, "--on-bad-shard", "skip") == 0
    assert "50 samples" in "".join(capsys.readouterr().out) or len(scores(folder / "_scores")) == 50


@pytest.mark.timeout(180)
def test_a_process_that_dies_is_told_of(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shards(files)
    assert score(files, folder, "--encoder", "vowels:dies", "--processes", "2") == 1
    error = capsys.readouterr().err
    assert "exit code 9, while scoring 0000" in error
    assert "--processes" in error


@pytest.mark.timeout(180)
@pytest.mark.parametrize("processes", ["1", "2"])
def test_killed_in_the_middle_and_started_again(files: Path, processes: str) -> None:
    folder, out = shards(files, rows=5), files / "out"
    command = [sys.executable, "-m", "weighted_stream.cli", "score", str(folder), "--processes", processes]
    command += ["--target", str(files / "target.jsonl"), *VOWELS, "--out", str(out)]
    process = subprocess.Popen(command, env={**os.environ, "SLOW": "0.3"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(out.glob("*.parquet"))) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    done = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert 3 <= len(done) < 12
    if processes == "2":  # a worker ends when it finds nobody there
        time.sleep(1.0)
        done = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
        assert len(done) < 12
    assert score(files, folder, "--out", str(out)) == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert score(files, folder, "--out", str(files / "whole")) == 0
    assert scores(out) == scores(files / "whole")
    assert len(scores(out)) == 60


@pytest.mark.timeout(180)
def test_interrupted(files: Path) -> None:
    folder, out = shards(files, rows=5), files / "out"
    command = [sys.executable, "-m", "weighted_stream.cli", "score", str(folder), "--processes", "2"]
    command += ["--target", str(files / "target.jsonl"), *VOWELS, "--out", str(out)]
    environment = {**os.environ, "SLOW": "1.0"}
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background inherits it ignored
    )
    deadline = time.monotonic() + 120
    while len(list(out.glob("*.parquet"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on with the shards that are left" in error
    assert "Traceback" not in error
    assert 2 <= len(list(out.glob("*.parquet"))) < 12


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--text", "body"], "body"),
        (["--encoder", "vowels:nothing"], "vowels:nothing"),
        (["--encoder", "no_such_module:f"], "no_such_module"),
        (["--k", "2"], "k=2"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--id", "uid"], "uid"),
        (["--target-text", "body"], "body"),
    ],
)
def test_refusals(files: Path, more: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shards(files)
    assert score(files, folder, *more) == 1
    error = capsys.readouterr().err
    assert says in error
    assert "to do:" in error
    assert "Traceback" not in error


def test_a_sample_without_the_field_is_an_error_that_names_its_shard(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shards(files, "webdataset")
    assert score(files, folder, "--text", "body", "--target-text", "text", "--on-bad-shard", "skip") == 1
    error = capsys.readouterr().err
    assert "00000.tar" in error
    assert "body" in error


def test_no_shards(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (files, files / "missing", files / "data.jsonl"):
        assert score(files, path) == 1
        error = capsys.readouterr().err
        assert "no shards of one kind" in error
        assert ("missing, which does not exist" in error) == (path.name == "missing")
    assert score(files, files / "*.tar") == 1
    assert "*.tar, which matches no file" in capsys.readouterr().err


def test_files_and_patterns(files: Path) -> None:
    folder = shards(files)
    assert score(files, Path(f"{folder}/0000[01].parquet"), "--out", str(files / "some")) == 0
    assert score(files, folder, "--out", str(files / "all")) == 0
    some, everything = scores(files / "some"), scores(files / "all")
    assert len(some) == 20
    assert some.items() <= everything.items()
    assert score(files, folder / "00003.parquet") == 0
    assert scores(folder / "_scores").items() <= everything.items()
    assert np.isfinite(list(everything.values())).all()


def test_a_sentence_encoder_on_a_device(files: Path) -> None:
    model = minilm_path()
    (files / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:12]))
    folder = shards(files, rows=6)
    assert score(files, folder, "--encoder", model, "--device", "cpu", "--score", "top-k", "--k", "2") == 0
    scorer = SimilarityScorer(TargetSet(TARGET, score="top-k", k=2), model)
    expected = {id_: float(scorer.score([row])[0]) for id_, row in source_for(ParquetDataset(folder)).dataset}
    found = scores(folder / "_scores")
    assert [found[i] for i in expected] == pytest.approx(list(expected.values()), abs=1e-3)
    assert found.keys() == expected.keys()


def test_an_encoder_in_the_present_folder(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user calls the command: Python starts in the command's own folder."""
    folder = shards(files)
    monkeypatch.delenv("PYTHONPATH")
    command = [str(Path(sys.executable).with_name("weighted-stream")), "score", str(folder)]
    command += ["--target", str(files / "target.jsonl"), *VOWELS]
    done = subprocess.run(command, cwd=files, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(scores(folder / "_scores")) == len(ROWS)
