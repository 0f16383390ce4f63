"""What is wrong with a shard is raised or said by its name, within the time-out: no short epoch, no hang."""

from __future__ import annotations

import gc
import gzip
import io
import os
import subprocess
import sys
import tarfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_shards import BEFORE, FLIPS, FORMATS, ROWS, SHARDS, read_mds, write_mds_hashed, write_mds_shards
from shards import streaming_here, write_tar

from weighted_stream import SourceError, Uniform, WeightedStream
from weighted_stream.sources.mds_checks import check_shard
from weighted_stream.sources.webdataset_tars import TarStream, members

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:streaming"),
    # webdataset leaves closing its files to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*num_workers.*:UserWarning:webdataset"),
    pytest.mark.timeout(60),
]


class Outcome:
    """What came of an epoch."""

    def __init__(self, markers: list[int], words: list[str]) -> None:
        self.markers, self.words = sorted(markers), words

    def names(self, path: Path) -> bool:
        return any(path.name in word for word in self.words)


def epoch(read: Callable[[], Any], workers: int, options: dict[str, Any]) -> Outcome:
    """One epoch as far as it comes; reading as long as nothing is raised."""
    markers: list[int] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RuntimeWarning)
        words = []
        try:
            stream = WeightedStream(read(), Uniform(), **options)
            timeout = {"timeout": 30} if workers else {}
            for batch, weight in stream.loader(batch_size=4, num_workers=workers, **timeout):
                weight.resolve(batch["marker"].float())
                markers += batch["marker"].tolist()
        except (SourceError, KeyError, TypeError, AttributeError) as error:  # torch cannot stack what differs
            words = [str(error)] if isinstance(error, SourceError) else []
    return Outcome(markers, words + [str(one.message) for one in said if issubclass(one.category, RuntimeWarning)])


@pytest.fixture(autouse=True)
def here(tmp_path: Path) -> Iterator[None]:
    try:
        import streaming  # noqa: F401
    except ImportError:
        yield
    else:
        with streaming_here():
            yield
    gc.collect()  # the files that webdataset leaves open, here where it is known of


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fault", BEFORE)
@pytest.mark.parametrize("kind", sorted(FORMATS.keys() - {"mds with hashes"}))
def test_a_fault_is_named(kind: str, fault: str, workers: int, tmp_path: Path) -> None:
    form = FORMATS[kind]
    form.write(tmp_path)
    BEFORE[fault](form.shard(tmp_path))
    out = epoch(lambda: form.read(tmp_path), workers, form.options)
    assert out.names(form.shard(tmp_path)), out.words
    if fault in ("copied", "listed twice") and out.markers:
        assert set(out.markers) == set(range(SHARDS * ROWS))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", sorted(FORMATS.keys() - {"mds with hashes"}))
def test_a_shard_that_goes_away(kind: str, workers: int, tmp_path: Path) -> None:
    form = FORMATS[kind]
    form.write(tmp_path)
    data = form.read(tmp_path)
    form.shard(tmp_path).unlink()
    out = epoch(lambda: data, workers, form.options)
    assert out.names(form.shard(tmp_path)), out.words


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fault", FLIPS)
@pytest.mark.parametrize("kind", FORMATS)
def test_a_flipped_bit(kind: str, fault: str, workers: int, tmp_path: Path) -> None:
    """Named, or the epoch is whole: in a value, without a sum over it, nobody can see it."""
    form = FORMATS[kind]
    form.write(tmp_path)
    FLIPS[fault](form.shard(tmp_path))
    out = epoch(lambda: form.read(tmp_path), workers, form.options)
    assert out.names(form.shard(tmp_path)) or len(out.markers) == SHARDS * ROWS
    if kind == "mds with hashes":
        assert out.words


@pytest.mark.parametrize("files", [3, 30])
def test_every_bit_of_a_tars_headers(files: int, tmp_path: Path) -> None:
    """Python's tarfile ends without an error at most of them."""
    path = Path(write_tar(tmp_path / "0.tar", range(files)))
    data = path.read_bytes()
    assert _walked(data) == (2 * files, True)
    silent = 0
    for place in (*range(512), *range(3072, 3584)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        count, end = _walked(bytes(flipped))
        silent += count < 2 * files
        assert end is False or count == 2 * files, place  # what stands behind the sum may be anything
    assert silent > 1000
    assert _walked(data[:1024])[1] is False
    assert _walked(gzip.compress(data)) == (2 * files, True)
    assert _walked(gzip.compress(data[:1024]))[1] is False


def _walked(data: bytes) -> tuple[int, bool]:
    """How many files tarfile finds, and what is said of the end."""
    stream, count = TarStream(io.BytesIO(data)), 0
    try:
        for _ in members(stream, {"url": "0.tar"}, lambda _: False, None, None):
            count += 1
    except tarfile.TarError:
        return count, False  # which is no silence
    return count, stream.ended


def test_every_bit_of_the_table_of_an_mds_shard(tmp_path: Path) -> None:
    write_mds_shards(tmp_path)
    data = read_mds(tmp_path)
    path = tmp_path / "shard.00002.mds"
    whole = path.read_bytes()
    check_shard(str(tmp_path), data.shards[2], "shard")
    head = int.from_bytes(whole[4:8], "little")
    sizes = [head + 19 * row + byte for row in range(ROWS) for byte in range(4)]
    for place in (*range(4 * (ROWS + 2)), *sizes):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(bytes(flipped))
        with pytest.raises(SourceError, match="Shard shard is damaged"):
            check_shard(str(tmp_path), data.shards[2], "shard")


BARE = """
import atexit, multiprocessing, os, signal, sys
from streaming import StreamingDataset
from torch.utils.data import DataLoader

def hangs(*_):
    print("hangs after", count, flush=True)
    for worker in multiprocessing.active_children():
        worker.kill()
    atexit._run_exitfuncs()
    os._exit(0)

count, sums = 0, 0
if __name__ == "__main__":
    data = StreamingDataset(local=sys.argv[1], batch_size=4, shuffle=False)
    signal.signal(signal.SIGALRM, hangs)
    signal.alarm(8)
    for batch in DataLoader(data, batch_size=4, num_workers=int(sys.argv[2])):
        count += len(batch["marker"])
        sums += int(batch["marker"].sum())
    print("delivers", count, "sum", sums, flush=True)
    signal.alarm(0)
    atexit._run_exitfuncs()
    os._exit(0)
"""


@pytest.mark.parametrize("fault", ["missing", "bit"])
@pytest.mark.mosaicml
def test_side_by_side_with_streaming_alone(fault: str, tmp_path: Path) -> None:
    """What bare MosaicML streaming makes of it: an early end without an error, a hang, or wrong data."""
    write_mds_hashed(tmp_path / "data")
    path = tmp_path / "data" / "shard.00002.mds"
    if fault == "missing":
        path.unlink()
    else:
        data = path.read_bytes()
        place = data.rindex(b"text 29") - 8  # the marker of the last row
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    script = tmp_path / "bare.py"
    script.write_text(BARE)
    started = []
    for workers in (0, 2):
        (tmp_path / str(workers)).mkdir()
        command = [sys.executable, "-W", "ignore", str(script), str(tmp_path / "data"), str(workers)]
        started.append(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "TMPDIR": str(tmp_path / str(workers))},
            )
        )
    bare = [process.communicate(timeout=50)[0].strip() for process in started]
    ours = [epoch(lambda: read_mds(tmp_path / "data"), workers, {}) for workers in (0, 2)]
    assert all(out.names(path) for out in ours)
    whole = f"delivers {SHARDS * ROWS} sum {sum(range(SHARDS * ROWS))}"
    assert all(text != whole for text in bare), bare
    print(fault, "bare, 0 and 2 workers:", bare)
