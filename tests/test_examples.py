"""The examples run from top to bottom, stay short, and print what they promise."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 100


@pytest.mark.filterwarnings("ignore")
def test_composer(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("composer")
    runpy.run_path(str(FOLDER / "composer_trainer.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "of 64" in printed
    assert "gone on from batch 40: the same losses" in printed


@pytest.mark.filterwarnings("ignore")
def test_hugging_face(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("datasets")
    runpy.run_path(str(FOLDER / "hf_trainer.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "of 64" in printed
    assert "gone on from step 40: the same losses" in printed


@pytest.mark.filterwarnings("ignore")
def test_lightning(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lightning")
    runpy.run_path(str(FOLDER / "lightning_trainer.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "of 160" in printed
    assert "gone on from batch 50: the same losses" in printed
