"""inspect --follow: a training process, seen from another one, in terminals of any size and in pipes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from weighted_stream import WeightStore
from weighted_stream.cli import main
from weighted_stream.cli.follow import line, plain, sparkline, view
from weighted_stream.figures.following import FollowedStore

TRAINER = Path(__file__).with_name("followed_trainer.py")
FOLLOW = [sys.executable, "-m", "weighted_stream.cli", "inspect", "--follow", "--every", "0.1"]


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, str(TRAINER), str(tmp_path / "store")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"trains\n"
    yield process
    process.stdin.close()
    process.wait(60)
    process.stdout.close()


def _own_terminal() -> None:
    """Make its input the terminal that it is controlled by, as a shell does: Ctrl-C is for it."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever runs tests may have it ignored


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, command: list[str], rows: int, columns: int) -> None:
        self._end, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        keep = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            command, stdin=inside, stdout=inside, stderr=inside, env=keep, preexec_fn=_own_terminal
        )
        os.close(inside)
        self.said = b""

    def read(self, until: str | None = None, seconds: float = 60.0) -> str:
        """Everything, up to some words or to the end."""
        limit = time.monotonic() + seconds
        while until is None or until not in self.text:
            assert time.monotonic() < limit, self.text
            if not select.select([self._end], [], [], 0.5)[0]:
                continue
            try:
                more = os.read(self._end, 1 << 16)
            except OSError:  # nobody has the other end open
                more = b""
            if not more:
                assert until is None, self.text
                break
            self.said += more
        return self.text

    @property
    def text(self) -> str:
        """What it said, as far as it is whole."""
        return self.said.decode(errors="ignore")

    def end(self) -> int:
        """Its exit status."""
        self.read()
        os.close(self._end)
        return self.process.wait(60)


def frames(text: str) -> list[list[str]]:
    """What the terminal showed, look by look."""
    return [
        re.sub("\x1b\\[\\??[0-9]*[a-zA-Z]", "", frame).split("\r\n")
        for frame in text.partition("\x1b[?1049l")[0].split("\x1b[H")[1:]
    ]


def test_in_a_terminal_until_training_ends(tmp_path: Path, trainer: subprocess.Popen[bytes]) -> None:
    terminal = Terminal([*FOLLOW, str(tmp_path / "store")], 40, 100)
    terminal.read("share of the weight")
    trainer.stdin.close()  # type: ignore[union-attr]
    trainer.wait(60)
    assert terminal.end() == 0
    shown = frames(terminal.text)
    assert len(shown) > 1
    for word in ("steps", "weighed", "effective", "weights", "loss", "trend", "unscored", "web"):
        assert any(row.lstrip().startswith(word) or row.rstrip().endswith(word) for row in shown[-1]), word
    assert "\\x1b[31mred" in terminal.text  # a name plays no tricks
    assert "\x1b[31m" not in terminal.text
    assert terminal.text.startswith("\x1b[?1049h\x1b[?25l")
    left = terminal.text.partition("\x1b[?25h\x1b[?1049l")[2]
    assert left.rstrip().endswith("The store was closed: nobody writes it any more.")
    with WeightStore(tmp_path / "store", mode="r") as store:
        visits = int(store.stats()["visits"])
    assert f"weighed    {visits:,}" in left
    assert f"steps      {visits // 20:,}" in left


@pytest.mark.parametrize("how", [signal.SIGTERM, "ctrl-c"])
def test_a_small_terminal_and_an_early_end(tmp_path: Path, trainer: subprocess.Popen[bytes], how: Any) -> None:
    terminal = Terminal([*FOLLOW, str(tmp_path / "store")], 6, 24)
    terminal.read("more lines")
    if how == "ctrl-c":
        os.write(terminal._end, b"\x03")
    else:
        terminal.process.send_signal(how)
    assert terminal.end() == 0
    assert "Traceback" not in terminal.text
    assert "\x1b[?25h\x1b[?1049l" in terminal.text
    for frame in frames(terminal.text):
        assert len(frame) <= 6
        assert max(len(row.rstrip("\r")) for row in frame) <= 24
    assert trainer.poll() is None


def test_in_a_pipe(tmp_path: Path, trainer: subprocess.Popen[bytes]) -> None:
    store = str(tmp_path / "store")
    text = subprocess.Popen([*FOLLOW, store], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    values = subprocess.Popen([*FOLLOW, store, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    head = subprocess.Popen([*FOLLOW, store, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert text.stdout is not None
    assert head.stdout is not None
    first = text.stdout.readline()
    json.loads(head.stdout.readline())
    head.stdout.close()  # as head -1 does
    time.sleep(0.5)
    shutil.rmtree(store)
    out, error = text.communicate(timeout=60)
    assert (text.returncode, error) == (0, "")
    assert re.match(r"step [\d,]+  samples [\d,]+", first)
    assert "\x1b" not in first + out
    assert out.rstrip().endswith("The store was removed.")
    out, error = values.communicate(timeout=60)
    assert (values.returncode, error) == (0, "")
    looks = [json.loads(row, parse_constant=pytest.fail) for row in out.splitlines()]
    assert looks[-1]["ended"] == "The store was removed."
    assert looks[0]["ended"] is None
    assert head.stderr is not None
    assert (head.wait(60), head.stderr.read()) == (0, "")
    head.stderr.close()


def test_looks_at_a_store(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "store") as store:
        followed = FollowedStore(tmp_path / "store")
        empty = followed.look()
        assert empty.steps is None
        assert view(empty, "t", 80)[0] == "t"
        for step in range(4):
            ids = range(step * 10, step * 10 + 10)
            store.set_groups(ids, ["a", "b"] * 5)
            store.update(ids, loss=[step + 1.0] * 10, weight=[0.5, 1.5] * 5, step=step)
        state = store.state_dict()
        store.update([1, 2], loss=[9.0, float("nan")], weight=[1.0, 0.0], step=4)
        sight = followed.look()
        assert sight.steps == 5
        assert sight.losses == [1.0, 2.0, 3.0, 4.0, 9.0]
        assert sight.stats == store.stats()
        assert sight.groups["b"] == (pytest.approx(31 / 41), pytest.approx(31 / 21))
        assert len(sight.deciles) == 10
        store.load_state_dict(state)
        followed.look()
        store.update([3], loss=[5.0], weight=[1.0], step=4)
        again = followed.look()
        assert (again.steps, again.losses) == (5, [1.0, 2.0, 3.0, 4.0, 5.0])
        assert json.loads(json.dumps(plain(again), allow_nan=False))["steps"] == 5
        assert line(again).startswith("step 5  samples 41")
    assert followed.look().ended == "The store was closed: nobody writes it any more."
    followed.close()


def test_figures_that_grow_have_a_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose lock is not shown here: on some file systems, in other containers."""
    monkeypatch.setattr("weighted_stream.figures.following.has_writer", lambda header: False)
    with WeightStore(tmp_path / "store") as store:
        followed = FollowedStore(tmp_path / "store")
        assert "Nobody writes this store now." in followed.look().notes
        store.update([1], loss=[2.0], weight=[1.0], step=0)
        assert "Nobody writes this store now." not in followed.look().notes
        assert "Nobody writes this store now." in followed.look().notes
        followed.close()


def test_without_a_journal(tmp_path: Path) -> None:
    with WeightStore(tmp_path / "store", journal=False) as store:
        followed = FollowedStore(tmp_path / "store")
        store.update([1], loss=[2.0], weight=[1.0], step=0)
        sight = followed.look()
        assert sight.notes == ["No journal: steps, trend and shares are not known."]
        assert "weighed    1" in "\n".join(view(sight, "t", 80))
        followed.close()


def test_sparklines() -> None:
    assert sparkline([], 5) == ""
    assert sparkline([2.0, 2.0], 5) == "▁▁"
    assert sparkline(list(range(100)), 8) == "▁▂▃▄▅▆▇█"


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path), "--follow"]) == 1
    assert "no store to follow" in capsys.readouterr().err
    for options in (["--every", "2"], ["--follow", "--by", "loss"], ["--follow", "--every", "0"]):
        with pytest.raises(SystemExit):
            main(["inspect", str(tmp_path), *options])
