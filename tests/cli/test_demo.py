"""The demo command: a tiny run from each format, the same numbers every time, and what it refuses."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from weighted_stream import WeightStore, __version__
from weighted_stream.cli import main
from weighted_stream.cli.demo import MARKER
from weighted_stream.demo.shards import FORMATS

pytest.importorskip("tokenizers")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")
pytest.importorskip("sklearn")

pytestmark = [
    # webdataset leaves closing its tar files to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

WORDS = [f"word{i}" for i in range(300)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Data of 140 texts, some repeated, and a target of 20 others."""
    folder = tmp_path_factory.mktemp("text")
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=30)) for _ in range(140)]
    data, target = folder / "data.jsonl", folder / "target.txt"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:120] + texts[:20]))
    target.write_text("\n\n".join(texts[120:]))
    return data, target


def demo(files: tuple[Path, Path], out: Path, *more: str) -> int:
    data, target = map(str, files)
    return main(["demo", "--data", data, "--target", target, "--steps", "3", "--out", str(out), *more])


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_a_run_from_each_format(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    if kind == "mds":
        pytest.importorskip("streaming")
    if kind == "webdataset":
        pytest.importorskip("webdataset")
    chosen = ["--strategy", "linupper", "--option", "r=1.5", "--strategy", "similarity", "--option", "ess=0.6"]
    assert demo(files, tmp_path / "out", "--format", kind, *chosen) == 0
    printed = capsys.readouterr()
    for words in ("uniform", "linupper r=1.5", "similarity ess=0.6", "held-out target", "held-out rest", "effective"):
        assert words in printed.out
    assert "3/3" in printed.err
    assert (tmp_path / "out" / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path / "out" / "report.html") in printed.out
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert '"name":"linupper-r-1.5"' in report
    assert '"name":"similarity-ess-0.6"' in report
    assert '"names":["data"]' in report
    assert "word1" in report
    figures = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert figures["repeats"] == pytest.approx(20 / figures["texts"], abs=0.05)
    assert figures["examples"] == 10
    assert [choice["options"] for choice in figures["strategies"]] == [{"r": 1.5}, {"ess": 0.6}]
    curves = figures["curves"]
    assert list(curves) == ["uniform", "linupper r=1.5", "similarity ess=0.6"]
    assert all(curve["steps"] == [1, 2, 3] for curve in curves.values())
    assert len({str(curve["losses"]) for curve in curves.values()}) == 3
    assert curves["uniform"]["ess"] == pytest.approx([1.0] * 3)
    assert all(share < 1.0 for share in curves["linupper r=1.5"]["ess"])
    assert curves["similarity ess=0.6"]["ess"] == pytest.approx([0.6] * 3, abs=0.01)
    assert figures["texts"] == 126
    for name in ("uniform", "linupper-r-1.5", "similarity-ess-0.6"):
        with WeightStore(tmp_path / "out" / "weights" / name) as store:
            assert store.stats()["samples"] == figures["texts"]
            scored = ~np.isnan(np.concatenate([records["similarity"] for _, records in store]))
            assert scored.all() if name.startswith("similarity") else not scored.any()


def test_same_seed_same_numbers(files: tuple[Path, Path], tmp_path: Path) -> None:
    curves = []
    for more in ([], [], ["--seed", "1", "--strategy", "linupper"]):
        assert demo(files, tmp_path, "--format", "parquet", *more) == 0
        curves.append(json.loads((tmp_path / "demo.json").read_text())["curves"])
        for curve in curves[-1].values():
            del curve["seconds"]
    assert list(curves[0]) == ["uniform", "linupper", "similarity"]
    assert curves[0] == curves[1]
    assert curves[0]["uniform"] != curves[2]["uniform"]


def test_uniform_against_uniform_is_a_tie(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert demo(files, tmp_path, "--format", "parquet", "--strategy", "uniform") == 0
    curves = json.loads((tmp_path / "demo.json").read_text())["curves"]
    assert curves["uniform"]["losses"] == curves["uniform again"]["losses"]


def test_without_a_target(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["demo", "--data", str(files[0]), "--steps", "1", "--format", "parquet", "--out", str(tmp_path)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "held-out rest" in printed
    assert "held-out target" not in printed
    assert "similarity is left out" in printed
    assert list(json.loads((tmp_path / "demo.json").read_text())["curves"]) == ["uniform", "linupper"]
    assert '"comparison":null' in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_someone_elses_folder_is_left_alone(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "shards" / "precious.tar"
    precious.parent.mkdir()
    precious.touch()
    assert demo(files, tmp_path, "--format", "parquet") == 1
    assert "--out DIR" in capsys.readouterr().err
    assert precious.exists()
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--strategy", "linuper"], "linuper"),
        (["--strategy", "linupper", "--option", "R=1"], "R"),
        (["--strategy", "linupper", "--option", "r=0"], "r=0"),
        (["--strategy", "similarity", "--option", "ess=2"], "ess=2"),
        (["--strategy", "linupper", "--strategy", "nonsense"], "nonsense"),
        (["--data", "missing.txt"], "missing.txt"),
    ],
)
def test_refusals(arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "out"), *arguments]) == 1
    error = capsys.readouterr().err
    assert says in error
    assert "to do:" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["demo", "--steps", "0"],
        ["demo", "--seed", "-1"],
        ["demo", "--strategy", "linupper", "--option", "r"],
        ["demo", "--option", "r=1"],
        ["demo", "--data", "x.txt", "--strategy", "similarity"],
        ["demo", "--format", "csv"],
        ["demo", "--target", "x.txt"],
        ["dance"],
    ],
)
def test_arguments_that_do_not_parse(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_as_a_module() -> None:
    command = [sys.executable, "-m", "weighted_stream.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == __version__


@pytest.mark.skipif(find_spec("streaming") is not None, reason="the library for MDS is installed here")
def test_a_missing_library_is_named(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo(files, tmp_path, "--format", "mds") == 1
    assert "pip install 'weighted-stream[mds]'" in capsys.readouterr().err
