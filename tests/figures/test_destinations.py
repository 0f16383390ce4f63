"""Figures get to the loggers that people use: the real ones where they are installed, and what is known of them."""

from __future__ import annotations

import io
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from weighted_stream import LinUpper, StepLog, StrategyError, WeightedStream

GROUPS = ["a//b:c", "..", "\x1b[31mred", "\u202eé"]


def train(*to: Any, batches: int = 6, **options: Any) -> StepLog:
    """Log some batches of samples in groups with hostile names, a loss of which is not finite."""
    losses = [float("nan"), *(0.5 + number % 7 for number in range(8 * batches - 1))]
    data = [{"loss": loss, "domain": GROUPS[number % 4]} for number, loss in enumerate(losses)]
    with WeightedStream(data, LinUpper(), group_fn="domain") as stream:
        log = StepLog(stream, *to, every=2, **options)
        for batch, weight in stream.loader(batch_size=8):
            batch["loss"].float() * weight
    return log


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        log = train(writer)
        events = EventAccumulator(str(tmp_path)).Reload()
        tags = events.Tags()["scalars"]
        assert {tag.removeprefix("weights/") for tag in tags} >= {"ess", "loss_decile_10", "group_share/a_b_c"}
        assert [event.step for event in events.Scalars("weights/ess")] == [2, 4, 6]
        assert events.Scalars("weights/ess")[-1].value == pytest.approx(log.latest["ess"], rel=1e-6)


def test_tqdm() -> None:
    tqdm = pytest.importorskip("tqdm").tqdm
    out = io.StringIO()
    with tqdm(total=6, file=out) as bar:
        log = train(bar)
        bar.refresh()
    assert f"loss {log.latest['loss_mean']:.4g}, ess {log.latest['ess']:.0%}" in out.getvalue()


@pytest.mark.filterwarnings("ignore")
def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(project="p", dir=str(tmp_path)) as run:
        for _ in range(50):
            run.log({"mine": 1.0})  # W&B counts steps of its own: it must not drop ours, which are behind
        log = train(run)
        summary = dict(run.summary)
    assert summary["weights/step"] == 6
    assert summary["weights/ess"] == pytest.approx(log.latest["ess"])


@pytest.mark.filterwarnings("ignore")
def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    with pytest.raises(StrategyError, match="no run of MLflow"):
        train(mlflow)
    for to in (mlflow, mlflow.log_metrics):
        with mlflow.start_run() as run:
            log = train(to)
        client = mlflow.MlflowClient()
        history = client.get_metric_history(run.info.run_id, "weights/ess")
        assert [metric.step for metric in history] == [2, 4, 6]
        assert history[-1].value == pytest.approx(log.latest["ess"])
        assert "weights/group_share/a_b_c" in client.get_run(run.info.run_id).data.metrics


class Run:
    """What W&B does with a row: it drops those of a step before its own, which every row without a step raises."""

    def __init__(self) -> None:
        self.step, self.rows, self.axes = 0, [], {}

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.axes[name] = step_metric

    def log(self, data: dict[str, Any], step: int | None = None) -> None:
        if step is not None and step < self.step:
            return
        self.step = self.step + 1 if step is None else step
        self.rows.append(dict(data))


def test_a_run_of_wandb_keeps_all_rows() -> None:
    run = Run()
    for _ in range(50):
        run.log({"mine": 1.0})
    log = train(run)
    ours = [row for row in run.rows if "weights/step" in row]
    assert [row["weights/step"] for row in ours] == [2, 4, 6]
    assert ours[-1]["weights/ess"] == log.latest["ess"]
    assert run.axes == {"weights/*": "weights/step"}


class Module(threading.local):
    """What MLflow does: the active run is that of the thread, names are checked, and have to be plain paths."""

    active: Any = None
    logged: ClassVar[list[tuple[str, int, dict[str, float]]]] = []

    def active_run(self) -> Any:
        return self.active

    def log_metrics(self, metrics: dict[str, float], step: int | None = None, run_id: str | None = None) -> None:
        run_id = run_id or self.active.info.run_id
        for name, value in metrics.items():
            assert re.fullmatch(r"[/\w.\- :]+", name)
            assert "//" not in name
            assert ".." not in name.split("/")
            assert type(value) is float
        assert step is not None
        self.logged.append((run_id, step, metrics))


def test_a_run_of_mlflow_is_that_of_the_trainer() -> None:
    module = Module()
    with pytest.raises(StrategyError, match="no run of MLflow"):
        train(module)
    module.active = SimpleNamespace(info=SimpleNamespace(run_id="r1"))
    log = train(module, prefix="w")
    assert [(run, step) for run, step, _ in module.logged] == [("r1", 2), ("r1", 4), ("r1", 6)]
    assert module.logged[-1][2]["w/ess"] == log.latest["ess"]


def test_a_logger_of_lightning(tmp_path: Path) -> None:
    loggers = pytest.importorskip("lightning.pytorch.loggers")
    logger = loggers.CSVLogger(tmp_path)
    log = train(logger, prefix="")
    logger.save()
    header, *rows = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    last = dict(zip(header.split(","), rows[-1].split(","), strict=True))
    assert (last["step"], float(last["ess"])) == ("6", pytest.approx(log.latest["ess"]))


def test_several_at_once_and_a_bare_function() -> None:
    got: list[tuple[int, str]] = []
    log = train(lambda figures, step: got.append((step, threading.current_thread().name)), print_nothing)
    assert [step for step, _ in got] == [2, 4, 6]
    assert all(name == "weighted_stream log" for _, name in got)
    assert torch.tensor(list(log.latest.values())).isfinite().all()


def print_nothing(figures: dict[str, float], step: int) -> None:
    figures.clear()  # its own copy
