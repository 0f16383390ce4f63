"""The examples run from top to bottom, stay short, and print what they promise."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

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


def small_model(folder: Path) -> str:
    """A random Llama and its tokenizer in a folder, as a hub has them."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = [
        "<pad>",
        "<eos>",
        "<unk>",
        "add",
        "spell",
        "and",
        "is",
        *"abcdefghijklmnopqrstuvwxyz",
        *map(str, range(20)),
    ]
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("more", [["--epochs", "2"], ["--packing", "--length", "32"]], ids=["samples", "packed"])
def test_lora(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for needed in ("trl", "peft", "sklearn"):
        pytest.importorskip(needed)
    sums = [{"asked": f"add {at % 9} and {at % 7}", "answer": f"is {at % 9 + at % 7}"} for at in range(80)]
    words = [{"asked": f"spell {'abcdefgh'[at % 8]}", "answer": " ".join("abcdefgh"[at % 8 :])} for at in range(80)]
    _write(tmp_path / "data.jsonl", [row for pair in zip(sums, words, strict=True) for row in pair])
    _write(tmp_path / "target.jsonl", sums[::7])
    given = ["--model", small_model(tmp_path / "model"), "--data", str(tmp_path / "data.jsonl")]
    given += ["--target", str(tmp_path / "target.jsonl"), "--out", str(tmp_path / "out")]
    given += ["--prompt", "asked", "--completion", "answer", "--batch", "4", "--rank", "4", *more]
    monkeypatch.setattr(sys, "argv", ["lora_instruct.py", *given])
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    runpy.run_path(str(FOLDER / "lora_instruct.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "loss on the target: 4." in printed or "loss on the target: 3." in printed
    assert "'add" in printed.split("counts most")[1].split("counts least")[0]
    assert "'spell" in printed.split("counts least")[1]
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
