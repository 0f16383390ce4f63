"""What pages of documentation take for granted: a dataset, a model, files. A page names the scenes that it needs.

A scene gets the folder that the page is read in, and a stack for what has to end with it; it returns names.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from shared_servers import SharedServer
from torch import nn
from torch.utils.data import DataLoader

from weighted_stream import per_sample_cross_entropy

KINDS = {
    "maths": "Anna has {0} apples and buys {1} more. How many apples does she have? {0} plus {1} is {2}.",
    "weather": "Rain is likely on Monday with {0} degrees in the north and {1} degrees in the south.",
    "cooking": "Stir {0} grams of flour into the butter and let the dough rest for {1} minutes.",
}


def texts(folder: Path, ends: ExitStack) -> dict[str, Any]:
    """``data.jsonl`` of three kinds, ``target.jsonl`` of one of them, and the ``dataset`` as a list."""
    rows = [
        {"id": number, "text": KINDS[kind].format(number, number + 3, 2 * number + 3), "kind": kind}
        for number, kind in enumerate(list(KINDS) * 40)
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    target = [{"text": KINDS["maths"].format(n, 2 * n, 3 * n)} for n in range(500, 540)]
    (folder / "target.jsonl").write_text("".join(json.dumps(row) + "\n" for row in target))
    return {"dataset": rows}


def tokens(folder: Path, ends: ExitStack) -> dict[str, Any]:
    """``dataset``: sequences of eight tokens; a ``model`` of them and its ``optimizer``; ``per_sample_loss``."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(0, 20, (256, 1), generator=generator)
    rows = (start + torch.arange(8)) % 20
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 20))

    def per_sample_loss(logits: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        return per_sample_cross_entropy(logits[:, :-1], batch[:, 1:])

    def loss_fn(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return per_sample_loss(model(batch), batch)

    return {
        "dataset": rows,
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-2),
        "per_sample_loss": per_sample_loss,
        "loss_fn": loss_fn,
    }


def shared_server(folder: Path, ends: ExitStack) -> dict[str, Any]:
    """The ``url`` of a server."""
    server = SharedServer(folder / "server")
    ends.callback(server.kill)
    return {"url": server.url}


def language_model(folder: Path, ends: ExitStack) -> dict[str, Any]:
    """A small GPT-2, and a ``dataset`` of dicts for it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=1, n_embd=16, n_head=2, vocab_size=32, n_positions=8, bos_token_id=0, eos_token_id=0, pad_token_id=0
    )
    rows = (torch.arange(128)[:, None] + torch.arange(8)) % 31
    dataset = [{"input_ids": row, "labels": row} for row in rows]
    return {"model": GPT2LMHeadModel(config), "dataset": dataset, "torch": torch, "DataLoader": DataLoader}


def composer(folder: Path, ends: ExitStack) -> dict[str, Any]:
    """The framework as users import it."""
    import composer
    from composer.models import HuggingFaceModel

    return {"composer": composer, "HuggingFaceModel": HuggingFaceModel}


def trainer(folder: Path, ends: ExitStack) -> dict[str, Any]:
    """Hugging Face's Trainer and its ``args``."""
    from transformers import Trainer, TrainingArguments

    return {"Trainer": Trainer, "args": TrainingArguments(**_ARGUMENTS)}


def sft(folder: Path, ends: ExitStack) -> dict[str, Any]:
    """TRL's SFTTrainer, its ``args``, text and a ``tokenizer``."""
    import datasets
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    made = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1} | {f"w{n}": n + 2 for n in range(30)}, unk_token="<pad>"))
    made.pre_tokenizer = Whitespace()
    rows = [" ".join(f"w{(start + n) % 30}" for n in range(6)) for start in range(32)]
    return language_model(folder, ends) | {
        "SFTTrainer": SFTTrainer,
        "args": SFTConfig(**_ARGUMENTS, bf16=False, gradient_checkpointing=False),
        "dataset": datasets.Dataset.from_dict({"text": rows}),
        "tokenizer": PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>"),
    }


_ARGUMENTS: dict[str, Any] = {
    "output_dir": "checkpoints",
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "max_steps": 3,
    "report_to": [],
    "use_cpu": True,
    "dataloader_pin_memory": False,
    "disable_tqdm": True,
    "save_strategy": "no",
}


def lightning(folder: Path, ends: ExitStack) -> dict[str, Any]:
    """The framework, a ``dataset`` of points, and arguments that keep it quiet."""
    import lightning

    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    dataset = torch.utils.data.TensorDataset(torch.rand(64, 16), torch.randint(0, 8, (64,)))
    return {
        "lightning": lightning,
        "torch": torch,
        "dataset": dataset,
        "quiet": {**quiet, "enable_checkpointing": False},
    }


def losses_of_texts(folder: Path, ends: ExitStack) -> dict[str, Any]:
    """``per_sample_loss``: of a batch of text, (B,)."""

    def per_sample_loss(batch: Any) -> torch.Tensor:
        (rows,) = [batch] if isinstance(batch[0], str) else batch  # of to_tuple: one column
        return torch.tensor([float(len(text)) for text in rows])

    return {"per_sample_loss": per_sample_loss}
