"""Where figures go: a file of JSON lines, TensorBoard, W&B, MLflow, a progress bar, a function.

None of these libraries is imported: what was given is known by what it can do.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from weighted_stream.errors import StrategyError
from weighted_stream.store.file import failure

Figures: TypeAlias = dict[str, float]


class Destination(Protocol):
    """Takes figures, in a thread of its own.

    Attributes:
        name: for messages.
    """

    name: str

    def put(self, figures: Figures, step: int) -> None:
        """Here they are."""

    def close(self) -> None:
        """There will be no more."""


class JsonLines:
    """A file with one JSON object a line, of the figures and ``time`` (seconds since 1970); it is added to.

    Args:
        path: of the file; its folder is made.

    Raises:
        StoreError: if it cannot be written.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.name = str(path)
        try:
            Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115  # closed by close()
            if _ends_within_a_line(path):
                self._file.write(b"\n")
        except OSError as error:
            raise failure(
                f"Cannot write the log {path}.",
                error,
                expected="a file that can be written",
                do="name another one: StepLog(stream, PATH)",
            ) from error

    def put(self, figures: Figures, step: int) -> None:
        """One line, in one piece."""
        line = {"step": step, "time": round(time.time(), 3)}
        line |= {name: _short(value) for name, value in figures.items() if name != "step"}
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """A ``SummaryWriter`` of TensorBoard, torch's or tensorboardX's."""

    name = "TensorBoard"

    def __init__(self, writer: Any, prefix: str) -> None:
        self._writer, self._prefix = writer, prefix

    def put(self, figures: Figures, step: int) -> None:
        """One scalar each."""
        for name, value in figures.items():
            self._writer.add_scalar(self._prefix + name, value, step)

    def close(self) -> None:
        """Let it write what it has; it is the user's to close."""
        self._writer.flush()


class WandB:
    """A run of Weights & Biases. Our steps are an axis of their own, as W&B drops what is logged at an earlier step."""

    name = "W&B"

    def __init__(self, run: Any, prefix: str) -> None:
        self._run, self._prefix = run, prefix
        run.define_metric(f"{prefix}*", step_metric=f"{prefix}step")

    def put(self, figures: Figures, step: int) -> None:
        """One row."""
        self._run.log({**{self._prefix + name: value for name, value in figures.items()}, f"{self._prefix}step": step})

    def close(self) -> None:
        """Nothing: the run is the user's to finish."""


class MLflow:
    """The module ``mlflow``, with the run that is active now: in another thread none would be."""

    name = "MLflow"

    def __init__(self, module: Any, prefix: str) -> None:
        run = module.active_run()
        if run is None:
            raise StrategyError(
                "There is no run of MLflow to log to.",
                found="mlflow.active_run() is None",
                expected="a run that was started before",
                do="mlflow.start_run(), then StepLog(stream, mlflow)",
            )
        self._log, self._run, self._prefix = module.log_metrics, run.info.run_id, prefix

    def put(self, figures: Figures, step: int) -> None:
        """All of them, in one request."""
        named = {self._prefix + name: value for name, value in figures.items()}
        self._log(named, step=step, run_id=self._run)

    def close(self) -> None:
        """Nothing: the run is the user's to end."""


class Logger:
    """An object with ``log_metrics(figures, step)``, such as the loggers of Lightning and Composer."""

    def __init__(self, logger: Any, prefix: str) -> None:
        self.name = type(logger).__name__
        self._logger, self._prefix = logger, prefix

    def put(self, figures: Figures, step: int) -> None:
        """All of them."""
        self._logger.log_metrics({self._prefix + name: value for name, value in figures.items()}, step=step)

    def close(self) -> None:
        """Nothing: it is the user's."""


class Bar:
    """A bar of tqdm: it shows the mean loss and the effective sample size beside its own."""

    name = "tqdm"

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def put(self, figures: Figures, step: int) -> None:
        """Shown when the bar is next drawn."""
        self._bar.set_postfix_str(postfix(figures), refresh=False)

    def close(self) -> None:
        """Nothing: it is the user's."""


class Function:
    """``function(figures, step)``."""

    def __init__(self, function: Callable[[Figures, int], Any]) -> None:
        self.name = getattr(function, "__qualname__", None) or type(function).__name__
        self._function = function

    def put(self, figures: Figures, step: int) -> None:
        """A copy of them, the function's own."""
        self._function(dict(figures), step)

    def close(self) -> None:
        """Nothing."""


def destination(to: Any, prefix: str) -> Destination:
    """What was given to a `StepLog`, as something that takes figures.

    Raises:
        StrategyError: if it cannot.
        StoreError: for a file that cannot be written.
    """
    if isinstance(to, (str, PathLike)):
        return JsonLines(to)
    module = getattr(to, "__module__", None) or ""
    if module.partition(".")[0] == "mlflow" and getattr(to, "__name__", "") == "log_metrics":
        to = sys.modules["mlflow"]
    for methods, make in _KINDS:
        if all(callable(getattr(to, method, None)) for method in methods):
            return make(to, prefix)
    if callable(to):
        return Function(to)
    raise StrategyError(
        "Figures cannot be logged there.",
        found=f"{to!r:.200}",
        expected="a path, a function (figures, step), a SummaryWriter, a W&B run, mlflow, or a tqdm bar",
        do='for example StepLog(stream, "run/log.jsonl")',
    )


_KINDS: tuple[tuple[tuple[str, ...], Callable[[Any, str], Destination]], ...] = (
    (("add_scalar", "flush"), TensorBoard),
    (("define_metric", "log"), WandB),
    (("active_run", "log_metrics"), MLflow),
    (("log_metrics",), Logger),
    (("set_postfix_str",), lambda bar, prefix: Bar(bar)),
)


def postfix(figures: Figures) -> str:
    """The two that matter most, for a progress bar.

    Example:
        >>> postfix({"loss_mean": 2.3456, "ess": 0.7}), postfix({"ess": 1.0}), postfix({})
        ('loss 2.346, ess 70%', 'ess 100%', '')
    """
    loss = f"loss {figures['loss_mean']:.4g}" if "loss_mean" in figures else ""
    ess = f"ess {figures['ess']:.0%}" if "ess" in figures else ""
    return ", ".join(filter(None, (loss, ess)))


def _short(value: float) -> float | int:
    """Seven digits are all that float32 has; counts are whole."""
    return int(value) if value.is_integer() and abs(value) < 2**53 else float(f"{value:.7g}")


def _ends_within_a_line(path: str | PathLike[str]) -> bool:
    """Whether the process that wrote it was killed within a line."""
    with open(path, "rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
