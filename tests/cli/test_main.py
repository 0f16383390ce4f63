"""The command by itself: outputs that cannot be written to, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from weighted_stream import WeightStore

pytest.importorskip("tqdm")

COMMAND = [sys.executable, "-m", "weighted_stream.cli"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with WeightStore(tmp_path / "store") as store:
        store.update(range(9), loss=[1.0] * 9, weight=[float(i) for i in range(9)], step=0)
    return tmp_path / "store"


def shell(line: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["sh", "-c", line, *COMMAND, *arguments], env={**os.environ, **environment}, capture_output=True, check=False
    )


def test_an_output_without_bars(store: Path) -> None:
    done = shell('"$0" "$@"', "inspect", str(store), PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"?????" in done.stdout


@pytest.mark.parametrize("line", ['"$0" "$@" >&-', '"$0" "$@" >&- 2>&-'])
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_no_output_at_all(store: Path, line: str, more: list[str]) -> None:
    done = shell(line, "inspect", str(store), *more)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_no_output_for_the_progress(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    arguments = ["convert", str(tmp_path / "a.txt"), str(tmp_path / "out"), "--format", "parquet"]
    assert shell('"$0" "$@" 2>&-', *arguments).returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("top", ["1", "5"])
def test_an_output_without_room(store: Path, top: str) -> None:
    done = shell(
        '"$0" "$@" >/dev/full', "inspect", str(store), "--top", top, PYTHONUNBUFFERED="1" if top == "5" else ""
    )
    assert (done.returncode, done.stderr) == (1, b"weighted-stream: [Errno 28] No space left on device\n")


def test_interrupted(tmp_path: Path) -> None:
    source, out, draft = tmp_path / "a.txt", tmp_path / "out", tmp_path / ".out.partial" / "00001.parquet"
    source.write_text("some text\n" * 400_000)
    process = subprocess.Popen(
        [*COMMAND, "convert", str(source), str(out), "--format", "parquet", "--shard-size", "2000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background inherits it ignored
    )
    deadline = time.monotonic() + 60
    while not draft.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.endswith("weighted-stream: interrupted\n")
    assert "Traceback" not in error
    assert sorted(tmp_path.iterdir()) == [source]
