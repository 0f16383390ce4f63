"""Composer on one rank or several: what each does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from composer import ComposerModel, Trainer
from composer.utils import dist
from torch import nn
from torch.utils.data import Dataset

from weighted_stream import ComposerWeights, LinUpper, WeightedStream

SAMPLES = 64


class Rows(Dataset[Any]):
    """Small regression rows, in the order in which ranks take turns."""

    def __init__(self) -> None:
        self.x = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": self.x[index]}


class Model(ComposerModel):
    """A small regression with unreduced losses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, batch: Any) -> torch.Tensor:
        return self.net(batch["x"]).squeeze(1)

    def loss(self, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        return (outputs - batch["x"].sum(1)).square()


def fit(folder: str, rank: int = 0, ranks: int = 1, load: str | None = None, size: int = 8) -> dict[str, Any]:
    """Two epochs in micro-batches."""
    stream_folder = f"{folder}/weights"
    model = Model()
    stream = WeightedStream(Rows(), LinUpper(r=1.0, window="running", memory=256), store=stream_folder)
    weights = ComposerWeights(stream)
    sampler = torch.utils.data.DistributedSampler(range(SAMPLES), ranks, rank, shuffle=False)
    trainer = Trainer(
        model=model,
        train_dataloader=weights.loader(batch_size=size // ranks, sampler=sampler),
        algorithms=weights,
        device_train_microbatch_size=2,
        optimizers=torch.optim.SGD(model.parameters(), lr=0.1),
        max_duration="2ep",
        save_folder=f"{folder}/checkpoints",
        save_interval="5ba",
        save_overwrite=True,
        run_name="ranks",
        load_path=load,
        progress_bar=False,
        device="cpu",
        seed=1,
    )
    trainer.fit()
    records = stream.store.get(range(SAMPLES))
    kept = {name: torch.from_numpy(records[name]) for name in ("loss", "weight", "visits", "last_step")}
    kept |= {name.removeprefix("module."): v.detach().clone() for name, v in trainer.state.model.state_dict().items()}
    trainer.close()
    stream.close()
    return kept


def one_rank(rank: int, ranks: int, folder: str, alone: str) -> None:
    """One of several: the whole run, and the rest of it from a checkpoint of two, or of one."""
    dist.initialize_dist("cpu")
    torch.save(fit(folder, rank, ranks), Path(folder) / f"{rank}.pt")
    torch.save(fit(folder, rank, ranks, checkpoint(folder)), Path(folder) / f"again{rank}.pt")
    torch.save(fit(alone, rank, ranks, checkpoint(alone)), Path(folder) / f"more{rank}.pt")


def checkpoint(folder: str) -> str:
    """Saved in the midst of the second epoch."""
    (found,) = Path(folder, "checkpoints").glob("*-ba10-rank0.pt")
    return str(found)
