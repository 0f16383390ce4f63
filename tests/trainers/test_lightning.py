"""A weighted stream and LightningWeights in Lightning's own Trainer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("lightning")

import lightning
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from pinning import pinning
from resuming import assert_same_store

from weighted_stream import (
    InfoBatch,
    LightningWeights,
    LinUpper,
    MissingExtraError,
    SourceError,
    Strategy,
    Uniform,
    WeightedStream,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*barrier.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.*LeafSpec.*"),
]

SAMPLES, BATCH = 40, 8


def data() -> torch.utils.data.TensorDataset:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(SAMPLES, 6, generator=generator)
    return torch.utils.data.TensorDataset(x, torch.randint(0, 4, (SAMPLES,), generator=generator))


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Dropout(dropout), nn.Linear(12, 4))


class Module(lightning.LightningModule):
    """What a user writes; without weights, batches are plain."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = network(dropout)
        self.seen: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if isinstance(batch[0], torch.Tensor):
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
        else:
            (x, y), weight = batch
            losses = F.cross_entropy(self.net(x), y, reduction="none")
            loss = (losses * weight).mean()
        self.seen.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.2)


def fit(
    folder: Path,
    strategy: Strategy,
    *,
    dropout: float = 0.0,
    ckpt: Any = None,
    workers: int = 0,
    pin: bool = False,
    **more: Any,
) -> Any:
    stream, module = WeightedStream(data(), strategy), Module(dropout)
    options = {
        "accelerator": "cpu",
        "max_epochs": 3,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [
            LightningWeights(stream),
            ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}"),
        ],
    }
    trainer = lightning.Trainer(**{**options, **more})
    loader = stream.loader(batch_size=BATCH, shuffle=True, seed=5, num_workers=workers, pin_memory=pin)
    trainer.fit(module, loader, ckpt_path=ckpt)
    return module, stream, trainer


class Forgetful(Module):
    """Takes the weights, and does not multiply."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        (x, y), _ = batch
        return F.cross_entropy(self.net(x), y)


def test_a_step_that_forgets_the_weights_is_said(tmp_path: Path) -> None:
    stream = WeightedStream(data(), LinUpper())
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, default_root_dir=tmp_path, callbacks=[LightningWeights(stream)], **options
    )
    with pytest.warns(RuntimeWarning, match="No weight of epoch 0 was used"):
        trainer.fit(Forgetful(), stream.loader(batch_size=BATCH))


def plain(strategy: Strategy, accumulation: int = 1) -> tuple[list[float], torch.Tensor, WeightedStream]:
    stream, model = WeightedStream(data(), strategy), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    losses: list[float] = []
    loader = stream.loader(batch_size=BATCH, shuffle=True, seed=5)
    for _ in range(3):
        for at, ((x, y), weight) in enumerate(loader):
            loss = (F.cross_entropy(model(x), y, reduction="none") * weight).mean()
            (loss / accumulation).backward()
            losses.append(float(loss.detach()))
            if (at + 1) % accumulation == 0 or at + 1 == len(loader):
                optimizer.step()
                optimizer.zero_grad()
    return losses, nn.utils.parameters_to_vector(model.parameters()).detach(), stream


def parameters(module: Any) -> torch.Tensor:
    return nn.utils.parameters_to_vector(module.net.parameters()).detach()


@pytest.mark.parametrize("accumulation", [1, 4])
def test_steps_equal_the_plain_loop(tmp_path: Path, accumulation: int) -> None:
    module, stream, _ = fit(tmp_path, LinUpper(), accumulate_grad_batches=accumulation)
    losses, expected, other = plain(LinUpper(), accumulation)
    np.testing.assert_allclose(module.seen, losses, atol=1e-5)
    torch.testing.assert_close(parameters(module), expected, atol=1e-5, rtol=0)
    assert_same_store(stream, other)


@pytest.mark.parametrize("workers", [0, 2])
def test_pinned_memory_changes_nothing(tmp_path: Path, workers: int) -> None:
    made, stream, _ = fit(tmp_path / "one", LinUpper(), workers=workers)
    with pinning() as pinned:
        other, second, _ = fit(tmp_path / "two", LinUpper(), workers=workers, pin=True)
    assert len(pinned) == 3 * 2 * SAMPLES // BATCH
    assert other.seen == made.seen
    assert torch.equal(parameters(other), parameters(made))
    assert_same_store(second, stream)


def test_uniform_weights_equal_training_without_us(tmp_path: Path) -> None:
    module, _, _ = fit(tmp_path, Uniform())
    bare = Module()
    batches = Bare(WeightedStream(data(), Uniform()).loader(batch_size=BATCH, shuffle=True, seed=5))
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(bare, batches)
    torch.testing.assert_close(parameters(module), parameters(bare), atol=1e-6, rtol=0)


class Bare:
    """The batches of a stream, without their weights."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Any:
        return (batch for batch, _ in self.loader)

    def __len__(self) -> int:
        return len(self.loader)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("strategy", [LinUpper, InfoBatch])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, strategy: Any, workers: int) -> None:
    whole, stream, _ = fit(tmp_path / "whole", strategy(), dropout=0.3, workers=workers)
    assert len(whole.seen) == 15
    for stop in (3, 5, 7, 10):
        checkpoint = str(tmp_path / "whole" / f"step={stop}.ckpt")
        again, other, _ = fit(tmp_path / "again", strategy(), dropout=0.3, ckpt=checkpoint, workers=workers)
        assert again.seen == whole.seen[stop:], stop
        assert torch.equal(parameters(again), parameters(whole))
        assert_same_store(other, stream)


class Stream(torch.utils.data.IterableDataset[Any]):
    """The same, and nobody knows how many: Lightning then reads a batch ahead."""

    def __iter__(self) -> Any:
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number, (x, y) in list(enumerate(data()))[first::step]:
            yield {"id": number, "x": x, "y": y}


class OfRows(Module):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        row, weight = batch
        return super().training_step(((row["x"], row["y"]), weight), batch_idx)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("batch", "limit"), [(BATCH, 1.0), (7, 1.0), (BATCH, 3)])
def test_also_of_a_stream_without_a_length(tmp_path: Path, workers: int, batch: int, limit: float) -> None:
    def trained(ckpt: Any = None) -> Any:
        stream, module = WeightedStream(Stream(), LinUpper(), id_fn="id"), OfRows(0.3)
        checkpoints = ModelCheckpoint(
            tmp_path / str(ckpt is None), every_n_train_steps=1, save_top_k=-1, filename="{step}"
        )
        options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        callbacks = [LightningWeights(stream), checkpoints]
        trainer = lightning.Trainer(max_epochs=2, callbacks=callbacks, limit_train_batches=limit, **options)
        trainer.fit(module, stream.loader(batch_size=batch, num_workers=workers), ckpt_path=ckpt)
        return module, stream

    whole, stream = trained()
    per_epoch = len(whole.seen) // 2
    assert len(whole.seen) == 2 * per_epoch >= 6
    stops = (1, 2, per_epoch - 1, per_epoch, per_epoch + 1)
    for stop in stops if limit == 1.0 else (1, 2):
        again, other = trained(str(tmp_path / "True" / f"step={stop}.ckpt"))
        assert again.seen == whole.seen[stop:], stop
        assert torch.equal(parameters(again), parameters(whole))
        assert_same_store(other, stream)


def test_after_a_fit_that_failed_nothing_is_counted_late() -> None:
    class Fails(OfRows):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            raise ValueError("of the user")

    stream = WeightedStream(Stream(), LinUpper(), id_fn="id")
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(callbacks=LightningWeights(stream), enable_checkpointing=False, **options)
    with pytest.raises(ValueError, match="of the user"):
        trainer.fit(Fails(), stream.loader(batch_size=BATCH))
    batches = iter(stream.loader(batch_size=BATCH))
    next(batches), next(batches)
    assert stream.state_dict()["position"]["batches"] == 2


def test_figures_reach_the_logger(tmp_path: Path) -> None:
    _, _, trainer = fit(tmp_path, LinUpper(), logger=CSVLogger(tmp_path), log_every_n_steps=1)
    header, *rows = (Path(trainer.logger.log_dir) / "metrics.csv").read_text().splitlines()
    at = header.split(",").index("weights/step")
    assert [float(row.split(",")[at]) for row in rows] == list(range(1, 16))
    assert "weights/ess" in header


def test_another_loader_is_refused(tmp_path: Path) -> None:
    stream = WeightedStream(data(), Uniform())
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_epochs=1, callbacks=LightningWeights(stream), **options)
    with pytest.raises(SourceError, match="does not read the stream"):
        trainer.fit(Module(), torch.utils.data.DataLoader(data(), batch_size=BATCH))
    with pytest.raises(SourceError, match="does not read the stream"):
        trainer.fit(Module(), WeightedStream(data(), Uniform()).loader(batch_size=BATCH))
    with pytest.raises(SourceError, match="limit_train_batches"):
        fit(tmp_path, Uniform(), limit_train_batches=2)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import weighted_stream

    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "weighted_stream.trainers.lightning")
    with pytest.raises(MissingExtraError, match=r"weighted-stream\[lightning\]"):
        _ = weighted_stream.LightningWeights
