"""Lightning on one rank or several: what each does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from global_batches import Batches
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from weighted_stream import LightningWeights, LinUpper, WeightedStream

SAMPLES = 64


class Model(LightningModule):
    """A small regression."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, weight = batch
        losses = (self.net(x).squeeze(1) - x.sum(1)).square()
        return (losses * weight).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: str, rank: int = 0, ranks: int = 1, resume: str | None = None) -> tuple[dict[str, Any], WeightedStream]:
    """Two epochs with accumulation."""
    data = list(torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(1)))
    stream = WeightedStream(data, LinUpper(r=1.0), store=f"{folder}/weights")
    size = 8 // ranks
    mine = [[8 * n + size * rank + k for k in range(size)] for n in range(SAMPLES // 8)]
    model = Model()
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        accumulate_grad_batches=2,
        callbacks=[LightningWeights(stream)],
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(model, stream.loader(batch_sampler=Batches(mine)), ckpt_path=resume)
    trainer.save_checkpoint(f"{folder}/end.ckpt")
    records = stream.store.get(range(SAMPLES))
    kept = {name: torch.from_numpy(records[name]) for name in ("loss", "weight", "visits", "last_step")}
    return kept | {name: value.detach().clone() for name, value in model.state_dict().items()}, stream


def one_rank(rank: int, ranks: int, folder: str) -> None:
    """One of several."""
    os.environ["TORCHELASTIC_RUN_ID"] = "test"
    torch.distributed.init_process_group("gloo")
    found, stream = fit(folder, rank, ranks)
    torch.save(found, Path(folder) / f"{rank}.pt")
    stream.close()
