"""Sender: a thread that hands figures on, so that the trainer waits neither for a disk nor for a network."""

from __future__ import annotations

import os
import threading
from queue import Full, Queue

from weighted_stream.figures.destinations import Destination, Figures

MOST_WAITING = 1000
"""Lines that wait at most; later ones are lost, and counted."""


class Sender:
    """Hands lines to one destination, in order.

    Args:
        destination: where they go.

    Attributes:
        lost: lines that did not get there.
        trouble: why the first of them did not; None: all did.
    """

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self.lost = 0
        self.trouble: str | None = None
        self._lines: Queue[tuple[Figures, int] | None] = Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._closed = False
        self._process = os.getpid()

    def put(self, figures: Figures, step: int) -> None:
        """A line; returns at once."""
        if self._closed or self._process != os.getpid():
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="weighted_stream log", daemon=True)
            self._thread.start()
        try:
            self._lines.put_nowait((figures, step))
        except Full:
            self._lose(f"{MOST_WAITING:,} lines wait for it already")

    def close(self, timeout: float) -> None:
        """Wait until all is there, so many seconds at most, and let go of the destination. Twice is fine."""
        if self._closed or self._process != os.getpid():
            return
        self._closed = True
        if self._thread is None:
            self._end()
            return
        try:
            self._lines.put(None, timeout=timeout)
            self._thread.join(timeout)
        except Full:
            pass
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            waiting = max(1, self._lines.qsize() - 1)
            self._lose(f"it took longer than {timeout:g} s", waiting)

    def _run(self) -> None:
        while True:
            line = self._lines.get()
            if line is None:
                break
            try:
                self.destination.put(*line)
            except Exception as error:
                self._lose(f"{type(error).__name__}: {error}")
        self._end()

    def _end(self) -> None:
        try:
            self.destination.close()
        except Exception as error:
            self._lose(f"{type(error).__name__}: {error}", 0)

    def _lose(self, why: str, lines: int = 1) -> None:
        self.lost += lines
        self.trouble = self.trouble or why
