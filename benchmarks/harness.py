"""Side-by-side timing, machine line, tables, and JSON results: what every benchmark here shares."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

LEFT_OUT = 3
"""Exit status of a benchmark whose data are not there."""

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Spread:
    """Median and range of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}–{self.high:.3g})"


def paired(
    ours: Callable[[], float], theirs: Callable[[], float], repeats: int = 9, warmup: int = 1
) -> tuple[Spread, Spread, Spread]:
    """Run two measurements in turn (A B, B A, …), so that a drift of the machine meets both.

    Args:
        ours, theirs: run once and return a figure (a rate or a time).
        repeats: counted pairs.
        warmup: pairs not counted.

    Returns:
        The figures of each and the ratio ours / theirs, pair by pair.
    """
    first: list[float] = []
    second: list[float] = []
    for turn in range(-warmup, repeats):
        if turn % 2:
            b, a = theirs(), ours()
        else:
            a, b = ours(), theirs()
        if turn >= 0:
            first.append(a)
            second.append(b)
    return Spread.of(first), Spread.of(second), Spread.of([a / b for a, b in zip(first, second, strict=True)])


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def machine() -> str:
    """One line that says what the figures were measured on."""
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        names = [row for row in Path("/proc/cpuinfo").read_text().splitlines() if row.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return f"{os.cpu_count()} × {model}, Python {platform.python_version()}, torch {torch.__version__}"


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A plain-text table."""
    cells = [[str(cell) for cell in row] for row in [headings, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def save(name: str, figures: dict[str, Any]) -> None:
    """Keep the figures of one benchmark as JSON, with the machine they were measured on."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"machine": machine(), **figures}, indent=1, default=vars, ensure_ascii=False)
    (RESULTS / f"{name}.json").write_text(text + "\n")
