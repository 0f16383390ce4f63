"""The scoring job on a real, local Ray: the side files of the command, and what is done is not done again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from weighted_stream.cli import main
from weighted_stream.shards.convert import convert
from weighted_stream.shards.writing import ShardSize

ray = pytest.importorskip("ray")
pytest.importorskip("tqdm")

pytestmark = [
    pytest.mark.timeout(600),
    # Ray's own: sockets and files that it leaves to the garbage collector, and deprecated imports.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

ENCODER = """
import torch

def words(texts):
    return torch.tensor([[1.0 + text.count(c) for c in "aeiou"] for text in texts])
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    rows = [{"id": i, "text": f"sample {i} " + "ea" * (i % 7)} for i in range(40)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "target.jsonl").write_text('{"text": "tea and leaves"}\n{"text": "a"}\n')
    (folder / "vowels.py").write_text(ENCODER)
    convert(folder / "data.jsonl", folder / "shards", "parquet", size=ShardSize(8, None))
    return folder


@pytest.fixture(scope="module")
def cluster(files: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(files))
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.syspath_prepend(files)
        ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
        yield
        ray.shutdown()


def run(files: Path, *more: str) -> int:
    from tools import score_with_ray

    ray.cloudpickle.register_pickle_by_value(score_with_ray)  # as it is for a script
    return score_with_ray.main(arguments(files, *more))


def arguments(files: Path, *more: str) -> list[str]:
    return [str(files / "shards"), "--target", str(files / "target.jsonl"), "--encoder", "vowels:words", *more]


def test_the_side_files_of_the_command(cluster: None, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", *arguments(files, "--out", str(files / "here"))]) == 0
    out = files / "there"
    done = {path: path.stat().st_mtime_ns for path in _copy(files / "here", out, 2)}
    (files / "shards" / "00003.parquet").write_bytes(b"PAR1 torn")
    assert run(files, "--actors", "2", "--out", str(out), "--on-bad-shard", "skip") == 0
    printed = capsys.readouterr()
    assert "16 samples in 2 shards scored; 2 had their scores" in printed.out
    assert "1 shards left out" in printed.out
    assert "00003.parquet" in printed.out
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert sorted(path.name for path in out.iterdir()) == [f"0000{n}.parquet.parquet" for n in (0, 1, 2, 4)]
    for path in sorted(out.iterdir()):
        mine, theirs = pq.read_table(path), pq.read_table(files / "here" / path.name)
        assert mine.equals(theirs)  # bit for bit
        assert mine.schema.metadata == theirs.schema.metadata
    assert run(files, "--out", str(out), "--on-bad-shard", "skip") == 0
    assert "0 samples in 0 shards scored; 4 had their scores" in capsys.readouterr().out
    assert run(files, "--out", str(out), "--on-bad-shard", "skip", "--score", "max") == 1
    assert "method 'mean' instead of 'max'" in capsys.readouterr().err


def test_errors_come_back(cluster: None, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(files / "data.jsonl", files / "shards", "parquet", size=ShardSize(20, None), overwrite=True)
    data = bytearray((files / "shards" / "00001.parquet").read_bytes())
    footer = int.from_bytes(data[-8:-4], "little") + 8
    data[4:-footer] = bytes(len(data) - footer - 4)
    (files / "shards" / "00001.parquet").write_bytes(bytes(data))
    assert run(files, "--out", str(files / "torn")) == 1
    error = capsys.readouterr().err
    assert "00001.parquet" in error
    assert "to do:" in error
    assert run(files, "--encoder", "vowels:missing", "--out", str(files / "none")) == 1
    assert "vowels:missing" in capsys.readouterr().err


def _copy(source: Path, target: Path, count: int) -> list[Path]:
    target.mkdir()
    copies = []
    for path in sorted(source.iterdir())[:count]:
        copies.append(target / path.name)
        copies[-1].write_bytes(path.read_bytes())
    return copies
