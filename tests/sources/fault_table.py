"""What becomes of an epoch when a shard is broken: by the loaders alone, and through a `WeightedStream`.

`python -m tools.faults` writes docs/faults.md (minutes). Each case is a process of its own, for some hang.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.dataset
import torch
from faulty_shards import BAD, BEFORE, FLIPS, FORMATS, ROWS, SHARDS, Format, flip, listed
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from weighted_stream import Uniform, WeightedStream

DOCUMENT = Path(__file__).parents[2] / "docs" / "faults.md"
STILL = 20
"""Seconds without a batch: it hangs. An epoch takes one."""
SIZE = SHARDS * ROWS
PACKAGES = {
    "mds": "mosaicml-streaming",
    "mds with hashes": "mosaicml-streaming",
    "webdataset": "webdataset",
    "parquet": "pyarrow",
    "hugging face parquet": "datasets",
    "hugging face json": "datasets",
}
WORKERS = (0, 2)


def missing(path: Path) -> None:
    """It goes away once the dataset has been made."""
    path.unlink()


def in_a_value(path: Path) -> None:
    """One bit of what the shard's last sample says."""
    data = bytearray(path.read_bytes())
    data[data.index(str((BAD + 1) * ROWS - 1).encode())] ^= 1
    path.write_bytes(bytes(data))


FAULTS: dict[str, Callable[[Path], None]] = {
    "missing": missing,
    **BEFORE,
    "a bit near the front": flip(0.1),
    "a bit in the middle": FLIPS["bit at 0.45"],
    "a bit in a value": in_a_value,
}


INTRODUCTION = f"""\
# Broken shards, with and without us

One of {SHARDS} shards of {ROWS} samples is broken. This is what becomes of the epoch, by the loader alone and through
`WeightedStream` with its defaults. Written by `python -m tools.faults`; `make soak` looks at all of it again.

- **silent**: the epoch ends as if nothing were wrong; of its {SIZE} samples some are lost, wrong or there twice.
- **hangs**: no batch in {STILL} seconds.
  What streaming alone makes of a missing shard varies from run to run: an early end, an error, a hang.
- *missing*: the shard goes away once the dataset has been made. *cut*: its end is lost, or most of it. *copied*: it is
  there under a second name, too. *other schema*: its samples have other fields.

A bit in a value can be seen only where there are sums over the values, and somebody looks at them. At those in Parquet
pages (`write_page_checksum=True`) our reader looks, `datasets` does not. At MDS hashes (`MDSWriter(hashes=["xxh64"])`)
we look; streaming does for shards that it downloads itself. tar files and JSON lines have none."""


class Case(NamedTuple):
    """A cell of the table."""

    kind: str
    fault: str
    workers: int
    ours: bool


class BareParquet(IterableDataset[dict[str, Any]]):
    """Files of pyarrow's own, dealt out to the workers."""

    def __init__(self, files: list[str]) -> None:
        self.files = files

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        files = self.files if info is None else self.files[info.id :: info.num_workers]
        for file in files:
            for batch in pyarrow.dataset.dataset(file).to_batches(use_threads=False):
                yield from batch.to_pylist()


def outcomes(case: Case, home: Path, still: int = STILL) -> str:
    """What becomes of an epoch, in words; all that becomes of it in three tries, where workers race."""
    home.mkdir()
    return " or ".join(sorted({outcome(case, home / str(turn), still) for turn in range(3 if case.workers else 1)}))


def outcome(case: Case, home: Path, still: int) -> str:
    """What becomes of one epoch, in words."""
    home.mkdir()
    # Not in there: workers send tensors through sockets in it, whose paths have 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="f", ignore_cleanup_errors=True) as temporary:
        return _outcome(case, home, temporary, still)


def _outcome(case: Case, home: Path, temporary: str, still: int) -> str:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.setsid()
        atexit._clear()  # what this process has to do at its end, is not the fork's to do
        os.close(reading)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        try:
            _epoch(case, home, temporary, still, lambda text: os.write(writing, text.encode()))
        finally:
            _leave()
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.readline().decode()
    os.waitpid(child, 0)
    return said.strip() or "the process dies"


def _leave() -> None:
    """At once, and yet with nothing left in shared memory."""
    for worker in multiprocessing.active_children():
        worker.kill()
    atexit._run_exitfuncs()
    os._exit(0)


def _epoch(case: Case, home: Path, temporary: str, still: int, say: Callable[[str], Any]) -> None:
    tempfile.tempdir = temporary
    form, shards = FORMATS[case.kind], home / "shards"
    shards.mkdir()
    form.write(shards)
    path = form.shard(shards)
    if case.fault != "missing":
        FAULTS[case.fault](path)
    seen: Counter[tuple[int, str]] = Counter()
    words: list[str] = []

    def hangs(*_: Any) -> None:
        say(f"**hangs** after {seen.total()} samples\n")
        _leave()

    signal.signal(signal.SIGALRM, hangs)
    failed = False
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", RuntimeWarning)
        try:
            data = _ours(form, shards) if case.ours else _bare(form, shards)
            if case.fault == "missing":
                missing(path)
            signal.alarm(still)
            for batch in _batches(data, case):
                signal.alarm(still)
                seen.update(zip(batch["marker"].tolist(), batch["text"], strict=True))
        except Exception as error:
            failed = True
            words.append(str(error))
    words += [str(one.message) for one in warned if issubclass(one.category, RuntimeWarning)]
    signal.alarm(0)
    say(told(seen, form, failed, any(path.name in word for word in words)) + "\n")


def _ours(form: Format, shards: Path) -> Any:
    return WeightedStream(form.read(shards), Uniform(), **form.options)


def _bare(form: Format, shards: Path) -> Any:
    if form.name == "parquet":
        return BareParquet(listed(shards, "parquet"))
    if form.name == "mds with hashes":
        from streaming import StreamingDataset

        return StreamingDataset(local=str(shards), batch_size=4, shuffle=False, validate_hash="xxh64")
    return form.read(shards)


def _batches(data: Any, case: Case) -> Iterator[dict[str, Any]]:
    if not case.ours:
        yield from DataLoader(data, batch_size=4, num_workers=case.workers)
        return
    for batch, weight in data.loader(batch_size=4, num_workers=case.workers):
        weight.resolve(torch.ones(len(batch["text"])))
        yield batch


def told(seen: Counter[tuple[int, str]], form: Format, failed: bool, named: bool) -> str:
    """The words for what came, and what was said of it."""
    by = "names the shard" if named else "does not say which shard"
    if failed:
        return f"error, {by}"
    right = {(row, json.dumps({"marker": row}) if form.name == "webdataset" else f"text {row}") for row in range(SIZE)}
    wrong, twice, lost = len(seen.keys() - right), sum(n - 1 for n in seen.values()), len(right - seen.keys())
    if not (wrong or twice or lost):
        return "the whole epoch" + (", a warning names the shard" if named else "")
    parts = [f"{wrong} wrong"] * bool(wrong) + [f"{twice} twice"] * bool(twice)
    parts += [f"{lost - wrong} lost"] * (lost > wrong)
    return f"a warning, {by}: {', '.join(parts)}" if named else f"**silent: {', '.join(parts)}**"


def cases(kinds: list[str]) -> Iterator[Case]:
    """All of some formats."""
    for kind in kinds:
        for fault in FAULTS:
            for ours in (False, True):
                yield from (Case(kind, fault, workers, ours) for workers in WORKERS)


def document(found: dict[Case, str]) -> str:
    """The whole page."""
    lines = [INTRODUCTION]
    for kind in dict.fromkeys(case.kind for case in found):
        package = PACKAGES[kind]
        lines += [
            "",
            f"## {kind}",
            "",
            f"| fault | {package} {version(package)} alone | with 2 workers | ours | ours, 2 |",
        ]
        lines += ["|---|---|---|---|---|"]
        for fault in FAULTS:
            cells = [found[Case(kind, fault, workers, ours)] for ours in (False, True) for workers in WORKERS]
            lines.append(f"| {fault} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Go through all of them, and write the page."""
    found = {}
    with tempfile.TemporaryDirectory() as home:
        for number, case in enumerate(cases(list(FORMATS))):
            found[case] = outcomes(case, Path(home) / str(number))
            print(*case, found[case], sep="\t", flush=True)
    DOCUMENT.write_text(document(found))
