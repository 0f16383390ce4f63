"""Weighted training with Hugging Face's Trainer: a small language model, accumulation, a checkpoint, going on from it.

    pip install 'weighted-stream[hf]'
    python examples/hf_trainer.py

Half of this data set are copies of a few samples, as web text has them; LinUpper plays down what the model has already
learned. The only lines that are not plain Hugging Face are marked with (*).
"""

import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from weighted_stream import LinUpper, WeightedTrainerMixin

SAMPLES, TOKENS, VOCABULARY = 512, 24, 128


class WeightedTrainer(WeightedTrainerMixin, Trainer):  # (*) or Seq2SeqTrainer, or TRL's SFTTrainer
    """A Trainer that multiplies the loss of each sample by its weight."""


def make_data() -> Dataset:
    """Counting in steps of 1 to 9 from anywhere; half of the samples are copies of ten."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(0, VOCABULARY, (SAMPLES, 1), generator=generator)
    step = torch.randint(1, 10, (SAMPLES, 1), generator=generator)
    tokens = (start + step * torch.arange(TOKENS)) % VOCABULARY
    tokens[SAMPLES // 2 :] = tokens[torch.randint(0, 10, (SAMPLES // 2,), generator=generator)]
    return Dataset.from_dict({"input_ids": tokens.tolist(), "labels": tokens.tolist()})


def make_trainer(folder: Path) -> WeightedTrainer:
    """A Trainer as one would write it without us, but for the marked lines."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2, n_embd=32, n_head=2, vocab_size=VOCABULARY, n_positions=TOKENS, bos_token_id=0, eos_token_id=0
    )
    args = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        per_device_train_batch_size=8,
        gradient_accumulation_steps=4,
        num_train_epochs=4,
        learning_rate=3e-3,
        logging_steps=1,
        save_steps=20,
        report_to=[],
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        log_level="error",
    )
    return WeightedTrainer(
        GPT2LMHeadModel(config),
        args,
        train_dataset=make_data(),
        strategy=LinUpper(r=0.4, window="running"),  # (*) who weighs what
        store=folder / "weights",  # (*) losses and weights are remembered here
    )


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trainer = make_trainer(folder)
        trainer.train()
        whole = losses(trainer)
        print(f"weighted loss: {whole[0]:.3f} at the first step, {whole[-1]:.3f} at the last of {len(whole)}")
        records = trainer.stream.store.get(range(SAMPLES))
        print(f"mean weight of the distinct half: {records['weight'][: SAMPLES // 2].mean():.2f}")
        print(f"mean weight of the copies:        {records['weight'][SAMPLES // 2 :].mean():.2f}")
        trainer.stream.close()

        trainer = make_trainer(folder)
        trainer.train(resume_from_checkpoint=str(folder / "checkpoints" / "checkpoint-40"))  # in the third epoch
        print(f"gone on from step 40: {'the same losses' if losses(trainer) == whole else 'other losses'}")
        trainer.stream.close()


if __name__ == "__main__":
    main()
