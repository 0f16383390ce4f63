"""The long run: training at full speed, restarted every few minutes, by a stop or by kill -9.

Each source has a store of its own, which all its lives go on with. It fails if a life ends by itself or stands still,
if a sample is lost or counted twice (the trainer looks after every epoch), if memory or open files grow within a life
or from one life of a source to a later one, if the journal passes its limit, or if a process outlives its trainer.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tools.soak import data
from tools.soak.measures import Measure, family, growth, measure
from tools.soak.trainer import JOURNAL_BYTES
from weighted_stream import WeightStore

MIB = 1 << 20
WARM_UP = 30.0
"""Seconds of a life that are not looked at."""
MEMORY_GROWTH = 24 * MIB
"""By how much a trainer's memory may grow over a life, or from a source's first lives to its last ones."""
HANDLE_GROWTH = 8
STILL = 600.0
"""Seconds without a step: it hangs. (Long, for a machine that has much else to do.)"""
LEAVE = 15.0
"""Seconds in which everything that a trainer started has to end after it. (Workers look every 5 seconds.)"""


class Fault(Exception):
    """What the long run found."""


@dataclass
class Life:
    """One process.

    Attributes:
        source: what it read.
        workers: of its loader.
        killed: how it ended.
        steps: that it made.
        recovery: seconds until its first report.
        measures: one a second.
    """

    source: str
    workers: int
    killed: bool
    steps: int = 0
    epoch: int = 0
    recovery: float = 0.0
    measures: list[Measure] = field(default_factory=list)

    @property
    def warm(self) -> list[Measure]:
        """The measures after the warm-up."""
        return [m for m in self.measures if m.seconds > WARM_UP]

    @property
    def memory(self) -> float:
        """Bytes, the median."""
        return statistics.median(m.memory for m in self.warm) if self.warm else 0.0


def endure(
    folder: Path, minutes: float, restart: float = 120.0, sources: tuple[str, ...] = data.SOURCES
) -> Iterator[Life]:
    """Let trainers live one after the other, and check each life.

    Args:
        folder: an empty one.
        minutes: how long.
        restart: seconds of a life.
        sources: what they read, in turn.

    Raises:
        Fault: at the first one.
    """
    for source in sources:
        data.write(folder / f"shards-{source}", source)
    end = time.monotonic() + 60 * minutes
    number = 0
    while time.monotonic() < end:
        turn, place = divmod(number, len(sources))
        life = Life(sources[place], workers=2 * (turn % 2), killed=turn // 2 % 2 == 0)
        live(folder, life, min(restart, max(10.0, end - time.monotonic())))
        check(life)
        yield life
        number += 1


def live(folder: Path, life: Life, seconds: float) -> None:
    """One process, from its start to its end."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    program = [sys.executable, "-X", "faulthandler", "-m", "tools.soak.trainer"]
    command = [*program, str(folder), life.source, str(life.workers)]
    environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    with open(folder / "errors", "w+b") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment
        )
        members: list[int] = []
        try:
            _watch(process, folder / life.source / "store", life, seconds, members)
            if life.killed:
                process.kill()
            elif process.stdin:
                process.stdin.write(b"stop\n")
                process.stdin.flush()
            code = process.wait(STILL)
            if code != (-signal.SIGKILL if life.killed else 0):
                raise Fault(f"exit code {code}")
        except (Fault, subprocess.TimeoutExpired) as fault:
            errors.seek(0)
            said = errors.read()[-3000:].decode(errors="replace")
            raise Fault(f"{life.source}, {life.workers} workers: {fault}\n{said}") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
    _wait_for_the_end_of(members)


def _watch(process: subprocess.Popen[bytes], store: Path, life: Life, seconds: float, members: list[int]) -> None:
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    begun = heard = time.monotonic()
    held = b""
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        while (now := time.monotonic()) < begun + seconds or not life.measures:
            if process.poll() is not None:
                raise Fault(f"ended by itself, exit code {process.returncode}")
            if now > heard + STILL:
                process.send_signal(signal.SIGABRT)  # it says where all its threads are
                process.wait(STILL)
                raise Fault(f"no step in {STILL:.0f} seconds")
            if not ready.select(1.0):
                continue
            *lines, held = (held + (process.stdout.read() or b"")).split(b"\n")
            if not lines:
                time.sleep(0.1)
                continue
            heard = now
            for line in lines:
                said = json.loads(line)
                life.steps += said["steps"]
                life.epoch = said["epoch"]
            life.recovery = life.recovery or now - begun
            members[:] = family(process.pid)
            taken = measure(process.pid, store, now - begun)
            if taken is not None:
                life.measures.append(taken)
            _read(store)


def _read(store: Path) -> None:
    """What anyone may do meanwhile."""
    with WeightStore(store, mode="r") as reader:
        reader.stats()
        for _ in reader.chunks():
            break


def _wait_for_the_end_of(members: list[int]) -> None:
    end = time.monotonic() + LEAVE
    while left := [pid for pid in members if _runs(pid)]:
        if time.monotonic() > end:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise Fault(f"processes that outlive their trainer: {left}")
        time.sleep(0.2)


def _runs(pid: int) -> bool:
    """A zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def check(life: Life) -> None:
    """The bounds within a life.

    Raises:
        Fault: if one is passed.
    """
    journal = max(m.journal for m in life.measures)
    if journal > JOURNAL_BYTES:
        raise Fault(f"{life.source}: a journal of {journal:,} bytes, where {JOURNAL_BYTES:,} were allowed")
    last = life.measures[-1]
    if last.base > 2 * last.records + MIB:
        raise Fault(f"{life.source}: a base of {last.base:,} bytes for records of {last.records:,}")
    seconds = [m.seconds for m in life.warm]
    memory = growth(seconds, [m.memory for m in life.warm])
    if memory > MEMORY_GROWTH:
        raise Fault(f"{life.source}: memory grew by {memory / MIB:.1f} MiB in {seconds[-1] - seconds[0]:.0f} s")
    handles = growth(seconds, [m.handles for m in life.warm])
    if handles > HANDLE_GROWTH:
        raise Fault(f"{life.source}: {handles:.1f} more open files after {seconds[-1] - seconds[0]:.0f} s")


def check_all(lives: list[Life]) -> None:
    """The bounds from the first life of a source to its last one, of as many workers.

    Raises:
        Fault: if one is passed.
    """
    for first in lives:
        same = [life for life in lives if (life.source, life.workers) == (first.source, first.workers) and life.warm]
        if same and (grown := same[-1].memory - same[0].memory) > MEMORY_GROWTH:
            raise Fault(f"{first.source}: the last life takes {grown / MIB:.1f} MiB more than the first")


def table(lives: list[Life]) -> str:
    """A line for each source and number of workers."""
    lines = [
        f"{'source':11}{'workers':>8}{'lives':>6}{'killed':>7}{'steps':>11}{'steps/s':>8}{'epochs':>7}"
        f"{'memory MiB':>15}{'files':>9}{'journal MiB':>13}{'base KiB':>9}{'recovery s':>11}"
    ]
    for source, workers in sorted({(life.source, life.workers) for life in lives}):
        mine = [life for life in lives if (life.source, life.workers) == (source, workers)]
        taken = [m for life in mine for m in life.warm] or [m for life in mine for m in life.measures]
        steps = sum(life.steps for life in mine)
        seconds = sum(life.measures[-1].seconds - life.recovery for life in mine) or 1.0
        memory, handles = [m.memory / MIB for m in taken], [m.handles for m in taken]
        killed = sum(life.killed for life in mine)
        lines.append(
            f"{source:11}{workers:8}{len(mine):6}{killed:7}{steps:11,}{steps / seconds:8,.0f}"
            f"{max(life.epoch for life in mine):7,}{f'{min(memory):.0f} to {max(memory):.0f}':>15}"
            f"{f'{min(handles)} to {max(handles)}':>9}{max(m.journal for m in taken) / MIB:13.2f}"
            f"{max(m.base for m in taken) / 1024:9,.0f}{statistics.median(life.recovery for life in mine):11.1f}"
        )
    return "\n".join(lines)
