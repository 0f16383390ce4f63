"""A line to a server that is cut at random: after so many bytes, in either direction, in the middle of anything."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Callable


class CuttingLine:
    """Passes bytes on to a server of this machine, until it cuts.

    Args:
        port: of the server.
        seed: of when it cuts.
        most: bytes of one direction of one connection, before it is cut at the latest.
    """

    def __init__(self, port: int, seed: int, most: int) -> None:
        self._to, self._chance, self._most = port, random.Random(seed), most
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.cuts = 0
        self.mend = False
        """Pass everything on from now on."""
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._start(self._accept)

    def close(self) -> None:
        """End it, and wait for all threads."""
        for one in (self._listener, *self._sockets):
            _shut(one)
        for thread in self._threads:
            thread.join()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with self._listener:
            while True:
                try:
                    here, _ = self._listener.accept()
                except OSError:
                    return
                try:
                    there = socket.create_connection(("127.0.0.1", self._to), timeout=5.0)
                except OSError:
                    here.close()
                    continue
                there.settimeout(None)
                self._sockets += [here, there]
                for source, sink in ((here, there), (there, here)):
                    self._start(self._pass_on, source, sink, int(self._chance.expovariate(3.0 / self._most)))

    def _pass_on(self, source: socket.socket, sink: socket.socket, left: int) -> None:
        try:
            while data := source.recv(65_536):
                if not self.mend and len(data) > left:
                    sink.sendall(data[:left])
                    self.cuts += 1
                    return
                left -= len(data)
                sink.sendall(data)
        except OSError:
            pass
        finally:
            _shut(source)
            _shut(sink)


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
