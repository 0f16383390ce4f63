"""Hugging Face's Trainer on one rank or several: what each does."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from weighted_stream import LinUpper, WeightedTrainerMixin

SAMPLES = 64


class WeightedTrainer(WeightedTrainerMixin, Trainer):
    """The Trainer with weights."""


def train(
    folder: str, accumulation: int, steps: int = 10, resume: bool = False, chunk_size: int | None = None
) -> WeightedTrainer:
    """Ten optimizer steps of 16 samples each."""
    torch.manual_seed(0)
    config = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=50, n_positions=8, bos_token_id=0, eos_token_id=0)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    tokens = np.random.default_rng(0).integers(0, 50, (SAMPLES, 8))
    tokens[::3] = tokens[0]
    args = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=accumulation,
        max_steps=steps,
        optim="sgd",  # of others the Trainer cannot load the state on several ranks without a GPU ("cpu:0")
        learning_rate=0.5,
        save_steps=5,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        ddp_backend="gloo" if "RANK" in os.environ else None,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        log_level="error",
    )
    trainer = WeightedTrainer(
        GPT2LMHeadModel(config),
        args,
        train_dataset=Dataset.from_dict({"input_ids": tokens.tolist(), "labels": tokens.tolist()}),
        strategy=LinUpper(r=1.0, window="running", memory=256),
        store=f"{folder}/weights",
        chunk_size=chunk_size,
    )
    trainer.train(resume_from_checkpoint=f"{folder}/checkpoint-5" if resume else None)
    return trainer


def outcome(trainer: WeightedTrainer) -> dict[str, torch.Tensor]:
    """The parameters, and what the store holds."""
    model = {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}
    records = trainer.stream.store.get(range(SAMPLES))
    return model | {name: torch.from_numpy(records[name]) for name in ("loss", "weight", "visits", "last_step")}


def one_rank(rank: int, ranks: int, folder: str, alone: str) -> None:
    """One of several; the Trainer makes the group of ranks by itself."""
    trainer = train(folder, accumulation=4 // ranks, chunk_size=13)
    torch.save(outcome(trainer), Path(folder) / f"{rank}.pt")
    trainer.stream.close()
    for name, where in (("again", folder), ("more", alone)):
        again = train(where, accumulation=4 // ranks, resume=True)
        torch.save(outcome(again), Path(folder) / f"{name}{rank}.pt")
        again.stream.close()
