"""Weighted training with MosaicML Composer: a small language model, micro-batches, a checkpoint, and going on from it.

    pip install 'weighted-stream[composer,hf]'
    python examples/composer_trainer.py

Half of this data set are copies of a few samples, as web text has them; LinUpper plays down what the model has already
learned. The only lines that are not plain Composer are marked with (*).
"""

import tempfile
from pathlib import Path

import torch
from composer import Trainer
from composer.loggers import InMemoryLogger
from composer.models import HuggingFaceModel
from transformers import GPT2Config, GPT2LMHeadModel

from weighted_stream import ComposerWeights, LinUpper, WeightedStream, causal_lm_losses

SAMPLES, TOKENS, VOCABULARY = 512, 24, 128


class Sequences(torch.utils.data.Dataset):
    """Counting in steps of 1 to 9 from anywhere; half of the samples are copies of ten."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        start = torch.randint(0, VOCABULARY, (SAMPLES, 1), generator=generator)
        step = torch.randint(1, 10, (SAMPLES, 1), generator=generator)
        self.tokens = (start + step * torch.arange(TOKENS)) % VOCABULARY
        self.tokens[SAMPLES // 2 :] = self.tokens[torch.randint(0, 10, (SAMPLES // 2,), generator=generator)]

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


def make_trainer(folder: Path, load_path: str | None = None) -> tuple[Trainer, ComposerWeights, InMemoryLogger]:
    """A Trainer as one would write it without us, but for the marked lines."""
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=VOCABULARY, n_positions=TOKENS)
    model = HuggingFaceModel(GPT2LMHeadModel(config), shift_labels=True)
    stream = WeightedStream(Sequences(), LinUpper(r=0.4, window="running"), store=folder / "weights")
    weights = ComposerWeights(stream, losses=causal_lm_losses)  # (*) with the line above: who weighs what
    log = InMemoryLogger()
    trainer = Trainer(
        model=model,
        train_dataloader=weights.loader(batch_size=32, shuffle=True),  # (*) DataLoader's own arguments
        algorithms=weights,  # (*) the losses are multiplied, the state goes into Composer's checkpoints
        device_train_microbatch_size=8,
        optimizers=torch.optim.AdamW(model.parameters(), lr=3e-3),
        max_duration="4ep",
        save_folder=str(folder / "checkpoints"),
        save_interval="20ba",
        save_overwrite=True,
        run_name="example",
        load_path=load_path,
        loggers=log,
        progress_bar=False,
        device="cpu",
        seed=1,
    )
    return trainer, weights, log


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trainer, weights, log = make_trainer(folder)
        trainer.fit()
        losses = [float(value) for _, value in log.data["loss/train/total"]]
        print(f"weighted loss: {losses[0]:.3f} at the first batch, {losses[-1]:.3f} at the last of {len(losses)}")
        records = weights.stream.store.get(range(SAMPLES))
        print(f"mean weight of the distinct half: {records['weight'][: SAMPLES // 2].mean():.2f}")
        print(f"mean weight of the copies:        {records['weight'][SAMPLES // 2 :].mean():.2f}")
        weights.stream.close()

        (checkpoint,) = (folder / "checkpoints").glob("*-ba40-rank0.pt")  # in the middle of the third epoch
        trainer, weights, log = make_trainer(folder, load_path=str(checkpoint))
        trainer.fit()
        again = [float(value) for _, value in log.data["loss/train/total"]]
        print(f"gone on from batch 40: {'the same losses' if again == losses[40:] else 'other losses'}")
        weights.stream.close()


if __name__ == "__main__":
    main()
