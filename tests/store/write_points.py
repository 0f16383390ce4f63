"""A process that is killed at any one of its writes to a store's files: before it, or in the middle of it.

A child is forked off, takes the store over, and does what it is told to. Each of its writes is counted: those that go
through the operating system (bytes, lengths, names), and those to mapped memory (cells of the header, the windows of
latest feedback, keys and records). The child kills itself (SIGKILL) at the n-th: without it, or after a part of it.
"""

from __future__ import annotations

import os
import random
import signal
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from weighted_stream import WeightStore
from weighted_stream.store import folder
from weighted_stream.store.dense import DenseRegion
from weighted_stream.store.hashed import HashedRegion
from weighted_stream.store.header import Header
from weighted_stream.store.regions import Regions


class Outcome(NamedTuple):
    """What became of a child.

    Attributes:
        done: whether what it was told to do had come to its end.
        writes: how many it made, if it had.
        said: the text that the work returned.
        error: the traceback, if the work raised.
    """

    done: bool
    writes: int
    said: str
    error: str


def killed_at(
    write: int | None, work: Callable[[], str | None], *, store: WeightStore | None = None, seed: int = 0
) -> Outcome:
    """Fork a child that does some work and is killed at its n-th write, or after all of it.

    Args:
        write: n, from 1; None: all of it is done.
        work: what it does.
        store: an open store, which the child goes on with as if it were its own. The caller must let go of it then.
        seed: decides how much of the n-th write is made.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            signal.alarm(300)
            os.close(reading)
            points = WritePoints(write, random.Random(seed))
            points.watch(store)
            said = work() or ""
            points.off()
            os.write(writing, f"{points.count}\n{said}".encode())
        except BaseException:
            points.off()
            os.write(writing, f"-1\n{traceback.format_exc()}".encode())
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        heard = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"exit code {os.waitstatus_to_exitcode(status)}"
    assert os.WTERMSIG(status) == signal.SIGKILL, f"ended by signal {os.WTERMSIG(status)}"
    if not heard:
        return Outcome(False, 0, "", "")
    count, _, text = heard.partition("\n")
    return Outcome(True, 0, "", text) if count == "-1" else Outcome(True, int(count), text, "")


class WritePoints:
    """Counts the writes of this process, and ends it. Nothing of it can be undone: for a forked child."""

    def __init__(self, last: int | None, chance: random.Random) -> None:
        self._last, self._chance = last, chance
        self.count = 0

    def off(self) -> None:
        """Let what comes now through."""
        self._last = None

    def watch(self, store: WeightStore | None) -> None:
        """From now on, and in what is open already."""
        self._watch_system()
        self._watch_memory()
        if store is not None:
            store._process = store._behind._process = os.getpid()
            self._watch_regions(store._regions)
            if store._journal is not None and store._journal.base._regions is not None:
                self._watch_regions(store._journal.base._regions)

    def point(self, partly: Callable[[], None] | None = None) -> None:
        """Here comes a write; ``partly`` makes some of it."""
        self.count += 1
        if self.count == self._last:
            if partly is not None and self._chance.random() < 0.7:
                partly()
            os.kill(os.getpid(), signal.SIGKILL)

    def torn(self, old: np.ndarray[Any, Any], new: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Values as they are when some of their 4-byte words have been written."""
        mixed = np.ascontiguousarray(old).copy()
        target, source = mixed.reshape(-1).view(np.uint32), np.ascontiguousarray(new).reshape(-1).view(np.uint32)
        if self._chance.random() < 0.5:  # from the front, as a copy goes
            some = np.arange(target.size) < self._chance.randrange(target.size + 1)
        else:
            some = np.random.default_rng(self._chance.randrange(1 << 30)).random(target.size) < 0.5
        target[some] = source[some]
        return mixed

    def _watch_system(self) -> None:
        pwrite, ftruncate, fsync, opened = os.pwrite, os.ftruncate, os.fsync, os.open

        def counted_pwrite(fd: int, data: Any, offset: int) -> int:
            part = memoryview(data)[: self._chance.randrange(len(data) + 1)]
            self.point(lambda: pwrite(fd, part, offset) and None)
            return pwrite(fd, data, offset)

        def counted_open(path: Any, flags: int, *rest: Any, **more: Any) -> int:
            if flags & (os.O_CREAT | os.O_TRUNC):
                self.point()
            return opened(path, flags, *rest, **more)

        def counted_fsync(fd: int) -> None:
            # What was written through a buffer may have come in part: only new files are written so.
            self.point(lambda: ftruncate(fd, self._chance.randrange(os.fstat(fd).st_size + 1)) if _is_new(fd) else None)

        os.pwrite, os.open, os.fsync = counted_pwrite, counted_open, counted_fsync  # type: ignore[assignment]
        for name in ("ftruncate", "replace", "rename", "unlink", "rmdir", "mkdir"):
            setattr(os, name, self._counted(getattr(os, name)))
        folder.open = self._counted(open)  # type: ignore[attr-defined]
        assert fsync is not os.fsync

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **more: Any) -> Any:
            self.point()
            return function(*arguments, **more)

        return counted

    def _watch_memory(self) -> None:
        begin_header, map_dense, use_hashed = Header.__init__, DenseRegion._map, HashedRegion._use

        def header(this: Header, *arguments: Any, **more: Any) -> None:
            begin_header(this, *arguments, **more)
            self._watch_header(this)

        def dense(this: DenseRegion, *arguments: Any) -> None:
            map_dense(this, *arguments)
            this.records = self._array(this.records)

        def hashed(this: HashedRegion, *arguments: Any) -> None:
            use_hashed(this, *arguments)
            this._table = (self._array(this._table[0]), self._array(this._table[1]))

        Header.__init__, DenseRegion._map, HashedRegion._use = header, dense, hashed  # type: ignore[method-assign]

    def _watch_regions(self, regions: Regions) -> None:
        self._watch_header(regions.header)
        regions.dense.records = self._array(regions.dense.records)
        keys, records = regions.hashed._table
        regions.hashed._table = (self._array(keys), self._array(records))

    def _watch_header(self, header: Header) -> None:
        header._cells = _Cells(header._cells, self)  # type: ignore[assignment]
        header._losses, header._weights = self._array(header._losses), self._array(header._weights)

    def _array(self, values: np.ndarray[Any, Any]) -> Any:
        array = values.view(_Watched)
        array.points = self
        return array


class _Cells:
    """Cells of a header; each is written at once."""

    def __init__(self, cells: Any, points: WritePoints) -> None:
        self._cells, self._points = cells, points

    def __getitem__(self, which: Any) -> Any:
        return self._cells[which]

    def __setitem__(self, which: Any, value: int) -> None:
        self._points.point()
        self._cells[which] = value


class _Watched(np.ndarray[Any, Any]):
    """Mapped memory; what is taken out of it is a plain array."""

    points: WritePoints

    def __getitem__(self, which: Any) -> Any:
        return self.view(np.ndarray)[which]

    def take(self, *arguments: Any, **more: Any) -> Any:
        return self.view(np.ndarray).take(*arguments, **more)

    def __setitem__(self, which: Any, value: Any) -> None:
        plain = self.view(np.ndarray)

        def partly() -> None:
            old = plain[which]
            new = np.empty_like(old)
            new[...] = value
            plain[which] = self.points.torn(old, new) if old.size else old

        self.points.point(partly)
        plain[which] = value


def _is_new(fd: int) -> bool:
    return os.readlink(f"/proc/self/fd/{fd}").endswith(".new")
