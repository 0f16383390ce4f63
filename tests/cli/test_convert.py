"""The convert command: what it prints, what it refuses, and that killing it leaves nothing that looks whole."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from weighted_stream import ParquetDataset, WeightedStream
from weighted_stream.cli import main
from weighted_stream.strategies import Uniform

pytest.importorskip("tqdm")


def write(path: Path, rows: int) -> Path:
    path.write_text("".join(json.dumps({"id": f"s{i}", "text": f"text {i}"}) + "\n" for i in range(rows)))
    return path


def test_it_converts_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = write(tmp_path / "a.jsonl", 25), tmp_path / "new" / "out"
    arguments = ["convert", str(source), str(out), "--format", "parquet", "--shard-size", "10", "--text", "text"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "25 samples in 3 shards" in printed.out
    assert "id (string), text (string)" in printed.out
    assert "id_fn='id'" in printed.out
    assert "writing: 100%" in printed.err
    with WeightedStream(ParquetDataset(out), Uniform(), id_fn="id") as stream:
        assert sum(len(weight) for _, weight in stream.loader(batch_size=10)) == 25
    assert main(arguments) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("more", "says"),
    [(["--id", "uid"], "uid"), (["--text", "body"], "body"), ([], "missing.jsonl")],
)
def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], says: str) -> None:
    source = tmp_path / "missing.jsonl" if not more else write(tmp_path / "a.jsonl", 3)
    assert main(["convert", str(source), str(tmp_path / "out"), "--format", "parquet", *more]) == 1
    error = capsys.readouterr().err
    assert says in error
    assert "to do:" in error


def test_ids_that_samples_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = write(tmp_path / "a.jsonl", 25), tmp_path / "out"
    source.write_text(source.read_text() + '{"id": "s7", "text": "another"}\n')
    command = ["convert", str(source), str(out), "--format", "parquet"]
    assert main([*command, "--id", "id"]) == 1
    assert "'s7' in sample 7 of a.jsonl and 's7' in sample 25 of a.jsonl" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [source]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "'s7' in sample 7 of a.jsonl and 's7' in sample 25 of a.jsonl" in printed
    assert "leave id_fn out" in printed
    assert "goes by them" not in printed


def test_ids_that_are_too_many_to_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weighted_stream.shards.convert_ids.MOST", 10)
    source = write(tmp_path / "a.jsonl", 25)
    assert main(["convert", str(source), str(tmp_path / "out"), "--format", "parquet", "--id", "id"]) == 0
    printed = capsys.readouterr().out
    assert "kept (those of the first 10 samples differ, the others were not compared); WeightedStream(..., " in printed


@pytest.mark.parametrize("size", ["0", "-3", "12tb", "many"])
def test_shard_sizes_that_are_none(size: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["convert", "a.jsonl", "out", "--format", "mds", "--shard-size", size])
    assert exit_.value.code == 2


def test_killed_in_the_middle(tmp_path: Path) -> None:
    source, out, draft = write(tmp_path / "a.jsonl", 100_000), tmp_path / "out", tmp_path / ".out.partial"
    command = [sys.executable, "-m", "weighted_stream.cli", "convert", str(source), str(out), "--format", "parquet"]
    command += ["--shard-size", "2000"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (draft / "00002.parquet").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    write(source, 500)
    assert main(["convert", str(source), str(out), "--format", "parquet"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "out"]
    assert len(ParquetDataset(out)) == 500
