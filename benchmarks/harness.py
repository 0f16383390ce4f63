"""Side-by-side timing, machine line, tables, and JSON results: what every benchmark here shares.

What a benchmark measured goes into a folder of the user's choice: WEIGHTED_STREAM_RESULTS, ``--results`` of ``python -m
benchmarks``, or else ``runs/bench``. ``benchmarks/results`` is what the project publishes: nothing goes there unasked.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

LEFT_OUT = 3
"""Exit status of a benchmark whose data are not there."""

PUBLISHED = Path(__file__).parent / "results"
"""Results that the project publishes; the pictures beside them lie in ``docs``."""

FOLDER = "WEIGHTED_STREAM_RESULTS"
"""Environment variable: the folder for results."""

_BEGAN = time.perf_counter()


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
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} × {model}{gpu}, Python {platform.python_version()}, torch {torch.__version__}"


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A plain-text table."""
    cells = [[str(cell) for cell in row] for row in [headings, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


@dataclass(frozen=True)
class Table:
    """A table of results that explains itself.

    Attributes:
        title: what it shows.
        columns: a heading and a unit each; "" for words and for ratios.
        rows: of cells: words, numbers, `Spread`, or None where there is nothing.
        note: what a reader has to know.
    """

    title: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Any]]
    note: str = ""

    def __str__(self) -> str:
        headings = [f"{name}, {unit}" if unit else name for name, unit in self.columns]
        text = f"{self.title}\n{table(headings, [[shown(cell) for cell in row] for row in self.rows])}"
        return f"{text}\n{self.note}" if self.note else text

    def as_json(self) -> dict[str, Any]:
        """For `save`."""
        columns = [{"name": name, "unit": unit} for name, unit in self.columns]
        return {"title": self.title, "columns": columns, "rows": [list(row) for row in self.rows], "note": self.note}


def shown(cell: Any) -> str:
    """A cell as text: numbers with three or four digits that count."""
    if cell is None:
        return ""
    if isinstance(cell, bool) or not isinstance(cell, (int, float)):
        return str(cell)
    if isinstance(cell, int) or not math.isfinite(cell) or abs(cell) >= 1000:
        return f"{cell:,.0f}" if math.isfinite(cell) else str(cell)
    return f"{cell:.4g}"


def results_folder() -> Path:
    """Where results go."""
    return Path(os.environ.get(FOLDER) or "runs/bench")


def add_form_argument(parser: argparse.ArgumentParser) -> None:
    """``--quick``: less of everything, for a first look, within the twenty minutes of ``make bench``."""
    parser.add_argument("--quick", action="store_true", help="less of everything: a first look")


def picture(name: str) -> Path:
    """Where a picture goes: beside the results, those of published ones to ``docs``."""
    folder = results_folder()
    if folder.resolve() == PUBLISHED:
        return PUBLISHED.parents[1] / "docs" / f"{name}.png"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.png"


def command() -> str:
    """How this process was started, without the places of the user's folders."""
    main = sys.modules["__main__"].__spec__
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return " ".join(["python", "-m", main.name if main else Path(sys.argv[0]).name, *words])


def save(name: str, figures: dict[str, Any], tables: Sequence[Table] = ()) -> Path:
    """Keep the figures of one benchmark as JSON: what they are, how they came about, on which machine and when.

    Args:
        name: of the benchmark, and of the file.
        figures: all there is, in the benchmark's own form.
        tables: what is shown of it.

    Returns:
        The file.
    """
    folder = results_folder()
    folder.mkdir(parents=True, exist_ok=True)
    kept = {
        "name": name,
        "command": command(),
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seconds": round(time.perf_counter() - _BEGAN, 1),
        **figures,
        "tables": [one.as_json() for one in tables],
    }
    file = folder / f"{name}.json"
    file.write_text(json.dumps(kept, indent=1, default=vars, ensure_ascii=False) + "\n")
    return file
