"""What a process and its children use, and whether it grows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Measure(NamedTuple):
    """At one moment.

    Attributes:
        seconds: when.
        memory: bytes of the process alone, its mapped files left out (the kernel takes them back at will).
        handles: open files of the process alone, those of the journal left out (two for each of at most 9 segments).
        journal: bytes of entries and their index.
        base: bytes on the disk of what lies behind the entries.
        records: the same of the records themselves.
    """

    seconds: float
    memory: int
    handles: int
    journal: int
    base: int
    records: int


def measure(pid: int, store: Path, seconds: float) -> Measure | None:
    """Look at a process and its store; None if there is no such process any more."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        handles = len(os.listdir(f"/proc/{pid}/fd"))
    except (FileNotFoundError, ProcessLookupError):
        return None
    anonymous = [line for line in status.splitlines() if line.startswith("RssAnon")]
    if not anonymous:
        return None
    journal, base = store / "journal", store / "journal" / "base"
    segments = [*journal.glob("*.arrow"), *journal.glob("*.index")]
    memory, entries = int(anonymous[0].split()[1]) << 10, sum(map(_size, segments))
    return Measure(seconds, memory, handles - len(segments), entries, _on_disk(base), _on_disk(store))


def family(pid: int) -> list[int]:
    """A process and all that it started, directly or not."""
    found = [pid]
    for member in found:
        for task in Path(f"/proc/{member}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def growth(seconds: Sequence[float], values: Sequence[float]) -> float:
    """By how much the values grow over the whole time, by a straight line through them."""
    if len(values) < 3:
        return 0.0
    slope = np.polyfit(np.asarray(seconds) - seconds[0], np.asarray(values, float), 1)[0]
    return float(slope * (seconds[-1] - seconds[0]))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _on_disk(folder: Path) -> int:
    total = 0
    for path in (*folder.glob("*.bin"), *folder.glob("*.json")):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total
