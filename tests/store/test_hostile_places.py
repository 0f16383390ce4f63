"""Full disks, read-only folders, clocks that jump, very many readers, two trainers: each has an outcome.

In `make soak`: 10,000 readers' opens.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soaking import LONG, progress, times
from test_journal_state import contents, step

from weighted_stream import LinUpper, WeightedStream, WeightStore
from weighted_stream.errors import StoreError

HERE = Path(__file__).parent
PATIENCE = 600 if LONG else 100
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE), str(HERE.parent)])}


def own_mounts() -> bool:
    """Whether a process may have file systems of its own."""
    return bool(shutil.which("unshare")) and not subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "none", tempfile.gettempdir()], capture_output=True, check=False
    ).returncode  # fmt: skip


needs_mounts = pytest.mark.skipif(not own_mounts(), reason="no user namespaces here: no small disk to fill")


def script(text: str, *arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", text, *map(str, arguments)]
    return subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE, check=False, **more
    )


@needs_mounts
def test_a_real_disk_fills_up(tmp_path: Path) -> None:
    disk, outside = tmp_path / "disk", tmp_path / "outside"
    disk.mkdir(), outside.mkdir()
    mount = 'mount -t tmpfs -o size=32m none "$1" && exec "$2" "$3" "$1" 16000000 "$4"'
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", disk, sys.executable, HERE / "full_disk.py", outside]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert "The disk of" in done.stdout
    assert "trained: 1 batches found no room at first" in done.stdout


LIMITED = """
import resource, sys, warnings
warnings.filterwarnings("ignore", "The journal of this store cannot be compacted")
import numpy as np
from test_journal_state import contents
from weighted_stream import WeightStore
from weighted_stream.errors import StoreError
def step(store, number):
    ids = np.random.default_rng(number).integers(0, 3000, 400)
    store.update(ids, loss=ids % 7, weight=ids % 3, step=number)
path, limit = sys.argv[1], int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
number = 0
try:
    store = WeightStore(path, journal_bytes=1 << 30)
except StoreError as error:
    print("no store:", error.problem, error.found)
    sys.exit()
with WeightStore() as plain:
    try:
        while True:
            step(store, number)
            step(plain, number)
            number += 1
    except StoreError as error:
        print("no update:", error.problem, error.found)
    assert contents(store) == contents(plain)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    for each in (store, plain):
        step(each, number)
    assert contents(store) == contents(plain)
    store.close()
    with WeightStore(path) as store:
        assert contents(store) == contents(plain)
"""


@pytest.mark.parametrize(
    ("limit", "says"),
    [(10_000, "no store: "), (500_000, "no store: Cannot grow"), (1_100_000, "no update: Cannot write the journal")],
)
def test_files_may_not_grow(limit: int, says: str, tmp_path: Path) -> None:
    """ulimit -f: a file may not become longer. (A quota on blocks shows itself elsewhere.)"""
    done = script(LIMITED, tmp_path / "store", limit)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(says), done.stdout
    assert "File too large" in done.stdout or "bytes written" in done.stdout


READ_ONLY = """
import sys
import numpy as np
from weighted_stream import LinUpper, WeightedStream, WeightStore
from weighted_stream.errors import StoreError
path = sys.argv[1]
for attempt in (lambda: WeightStore(path), lambda: WeightedStream([1, 2], LinUpper(), store=path),
                lambda: WeightStore(path + "/new"), lambda: WeightStore.rebuild(path)):
    try:
        attempt()
        raise AssertionError("it was written")
    except StoreError as error:
        print(error.problem, "|", error.found, "|", error.do)
with WeightStore(path, mode="r") as store:
    assert store.get([1])["visits"][0] > 0
    assert sum(batch.num_rows for batch in store.history()) > 0
WeightStore.at_step(path, 3).close()
"""


@needs_mounts
def test_a_read_only_file_system(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "store") as store:
        for number in range(10):
            store.update([1, 2], loss=[number, 1.0], step=number)
    before = {path: path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()}
    mount = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && exec "$2" -W error -c "$3" "$1"'
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", tmp_path / "store", sys.executable, READ_ONLY]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert all("Read-only file system" in line for line in lines), lines
    assert 'mode="r"' in lines[0]
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
@pytest.mark.parametrize("name", ["header.bin", "records.bin", "journal"])
def test_a_file_that_may_not_be_written(name: str, tmp_path: Path) -> None:
    with WeightStore(tmp_path / "store") as store:
        store.update([1], loss=[1.0], step=0)
    (tmp_path / "store" / name).chmod(0o500)
    try:
        with pytest.raises(StoreError, match="Cannot"), WeightStore(tmp_path / "store") as store:
            store.update([1], loss=[1.0], step=1)
        with WeightStore(tmp_path / "store", mode="r") as store:
            assert store.get([1])["visits"].tolist() == [1]
    finally:
        (tmp_path / "store" / name).chmod(0o700)


def test_clocks_that_jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forth and back by decades, between any two looks at it, and in the times of files."""
    jumps = np.random.default_rng(0)

    def run(path: Path, *, jumping: bool) -> dict[str, Any]:
        state = None
        for life in range(4):
            with WeightStore(path, journal_bytes=1 << 20) as store:
                if state is not None:
                    store.load_state_dict(state)
                for number in range(life * 20, life * 20 + 30):
                    if number == life * 20 + 20:
                        state = store.state_dict()
                    step(store, number)
            if jumping:
                for file in path.rglob("*"):
                    os.utime(file, (0, 0) if life % 2 else (4e9, 4e9))
        with WeightStore(path) as store:
            store.load_state_dict(state or {})
            return contents(store)

    expected = run(tmp_path / "steady", jumping=False)
    monkeypatch.setattr(time, "time", lambda: float(jumps.uniform(-1e9, 4e9)))
    monkeypatch.setattr(time, "time_ns", lambda: int(jumps.integers(0, 4 * 10**18)))
    assert run(tmp_path / "jumping", jumping=True) == expected


READERS = """
import os, sys, resource
from weighted_stream import WeightStore
path, count = sys.argv[1], int(sys.argv[2])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
before = len(os.listdir("/proc/self/fd"))
most = max(1, min(count, hard // 8 - 50))
while count:
    some = [WeightStore(path, mode="r") for _ in range(min(most, count))]
    handles = len(os.listdir("/proc/self/fd")) - before
    assert handles <= 6 * len(some), (handles, len(some))
    visits = [int(store.get([0])["visits"][0]) for store in some]
    assert visits == sorted(visits) and visits[0] > 0, visits[:3]
    for store in some:
        store.close()
    count -= len(some)
assert len(os.listdir("/proc/self/fd")) == before
print(most)
"""


@pytest.mark.timeout(0)
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at /proc")
def test_very_many_readers_at_once(tmp_path: Path) -> None:
    """In processes of their own, all open at the same time, while the store is written and its table grows."""
    processes, each = times(2, 8), times(100, 1250)
    with WeightStore(tmp_path / "store", journal_bytes=1 << 20) as store:
        store.update([0, 1 << 62], loss=[1.0, 1.0], step=0)
        before = len(os.listdir("/proc/self/fd"))
        command = [sys.executable, "-W", "error", "-c", READERS, str(tmp_path / "store"), str(each)]
        readers = [subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE) for _ in range(processes)]
        number = 0
        while any(reader.poll() is None for reader in readers):
            number += 1
            store.update([0, (1 << 62) + number * 7], loss=[1.0, 1.0], step=number)
            time.sleep(0.0005)
        for reader in readers:
            assert reader.stderr
            said = reader.stderr.read().decode()
            reader.stderr.close()
            assert reader.returncode == 0, said
        assert len(os.listdir("/proc/self/fd")) <= before + 20  # segments of the journal
        assert store.get([0])["visits"][0] == number + 1
    progress(f"{processes * each:,} readers opened during {number:,} updates")


def test_no_more_handles(tmp_path: Path) -> None:
    """Who has used them all up is told; nothing leaks, and with some free it works again."""
    with WeightStore(tmp_path / "store") as store:
        for number in range(5):
            step(store, number)
    text = """
import os, sys, resource
from weighted_stream import WeightStore
from weighted_stream.errors import StoreError
path = sys.argv[1]
before = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (before + 40, before + 40))
for mode in ("r", "a"):
    held = []
    for _ in range(3):
        try:
            while True:
                held.append(WeightStore(path, mode="r"))
        except StoreError as error:
            assert "Too many open files" in str(error.found), error
    assert 6 <= len(held) <= 20, len(held)
    if mode == "a":
        try:
            WeightStore(path)
            raise AssertionError("opened without handles")
        except StoreError as error:
            assert "Too many open files" in str(error.found), error
    for store in held:
        store.close()
    with WeightStore(path) as store:
        store.update([1], loss=[1.0], step=9)
del store, held
assert len(os.listdir("/proc/self/fd")) == before
"""
    done = script(text, tmp_path / "store")
    assert done.returncode == 0, done.stderr


TRAINER = """
import sys
import torch
from weighted_stream import LinUpper, WeightedStream
from weighted_stream.errors import StoreError
with WeightedStream(list(range(64)), LinUpper(), store=sys.argv[1]) as stream:
    for batch, weight in stream.loader(batch_size=8):
        torch.ones(8) * weight
        print("step", flush=True)
        if sys.argv[2] == "wait":
            sys.stdin.readline()
"""


def test_two_trainers_on_one_store(tmp_path: Path) -> None:
    """The second one is told and changes nothing; the first one goes on; when it is killed, the second may begin."""
    command = [sys.executable, "-W", "error", "-c", TRAINER, str(tmp_path / "store"), "wait"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=ENVIRONMENT, stdin=pipe, stdout=pipe, text=True) as first:
        try:
            assert first.stdin
            assert first.stdout
            assert first.stdout.readline() == "step\n"
            second = script(TRAINER, tmp_path / "store", "go")
            assert second.returncode == 1
            assert second.stdout == ""
            last = second.stderr.rpartition("Traceback")[2]
            assert f"StoreError: The store in {tmp_path / 'store'} has a writer already." in last
            assert "one writer per store" in last
            first.stdin.write("\n")
            first.stdin.flush()
            assert first.stdout.readline() == "step\n"
        finally:
            first.kill()
    third = script(TRAINER, tmp_path / "store", "go")
    assert third.returncode == 0, third.stderr
    with WeightStore(tmp_path / "store", mode="r") as store:
        visits = store.get(range(64))["visits"]
        assert set(visits.tolist()) <= {1, 2}
        assert visits.sum() >= 64


def test_a_closed_store_holds_no_files(tmp_path: Path) -> None:
    """At once, not when the collector comes by."""

    def handles() -> int:
        return len(os.listdir("/proc/self/fd"))

    gc.collect()
    gc.disable()
    try:
        before = handles()
        for number in range(3):
            with WeightedStream(list(range(8)), LinUpper(), store=tmp_path / "store") as stream:
                stream.weight([1, 2]).resolve(__import__("torch").ones(2))
                state = json.dumps(stream.store.state_dict())
            assert json.loads(state)["position"] == number + 1
            del stream
        assert handles() <= before + 1
        with WeightStore(tmp_path / "store", mode="r") as reader:
            list(reader.chunks())
        assert handles() <= before + 1
    finally:
        gc.enable()


def test_limits_of_this_process_are_as_before() -> None:
    """The tests above limit processes of their own."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
