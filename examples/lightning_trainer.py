"""Weighted training with Lightning: a classifier, a checkpoint within an epoch, and going on from it.

    pip install 'weighted-stream[lightning]'
    python examples/lightning_trainer.py

Half of this data set are copies of a few samples; LinUpper plays down what the model has already learned. The only
lines that are not plain Lightning are marked with (*).
"""

import logging
import tempfile
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from weighted_stream import LightningWeights, LinUpper, WeightedStream, per_sample_cross_entropy

SAMPLES, CLASSES = 2048, 8


def make_data() -> torch.utils.data.TensorDataset:
    """Points in 16 dimensions, their class decided by a random network; half of them repeat 40 points."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(16, 64, generator=generator), torch.randn(64, CLASSES, generator=generator)
    points = torch.randn(SAMPLES, 16, generator=generator)
    points[SAMPLES // 2 :] = points[torch.randint(0, 40, (SAMPLES // 2,), generator=generator)]
    return torch.utils.data.TensorDataset(points, ((points @ first).tanh() @ second).argmax(1))


class Classifier(lightning.LightningModule):
    """A LightningModule whose batches come with their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, CLASSES))
        self.losses: list[float] = []

    def training_step(self, batch, batch_idx: int) -> torch.Tensor:
        """The mean of the weighted losses."""
        (x, y), weight = batch  # (*)
        loss = (per_sample_cross_entropy(self.net(x), y) * weight).mean()  # (*) the product is the feedback
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def train(folder: Path, checkpoint: str | None = None) -> tuple[list[float], WeightedStream]:
    """Train for five epochs, or what is left of them."""
    stream = WeightedStream(make_data(), LinUpper(r=0.4), store=folder / "weights")  # (*) any dataset or DataLoader
    torch.manual_seed(0)
    model = Classifier()
    trainer = lightning.Trainer(
        max_epochs=5,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            ModelCheckpoint(folder / "checkpoints", every_n_train_steps=50, save_top_k=-1, filename="{step}"),
            LightningWeights(stream),  # (*) figures for the logger; dropout goes on, too, from a checkpoint
        ],
    )
    trainer.fit(model, stream.loader(batch_size=64, shuffle=True), ckpt_path=checkpoint)  # (*) its loader has a state
    return model.losses, stream


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole, stream = train(folder)
        print(f"weighted loss: {whole[0]:.3f} at the first batch, {whole[-1]:.3f} at the last of {len(whole)}")
        records = stream.store.get(range(SAMPLES))
        print(f"mean weight of the distinct half: {records['weight'][: SAMPLES // 2].mean():.2f}")
        print(f"mean weight of the copies:        {records['weight'][SAMPLES // 2 :].mean():.2f}")
        stream.close()

        rest, stream = train(folder, str(folder / "checkpoints" / "step=50.ckpt"))  # in the second epoch
        print(f"gone on from batch 50: {'the same losses' if rest == whole[50:] else 'other losses'}")
        stream.close()


if __name__ == "__main__":
    main()
