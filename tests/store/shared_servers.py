"""A real Redis or Valkey server for a test: on a free port of this machine, in a temporary folder, ended by its id."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from ports import free_port

from weighted_stream.store.shared_store import SharedStore

BINARY = shutil.which("valkey-server") or shutil.which("redis-server")


class SharedServer:
    """Started at once; `kill` and `start` again as often as wanted, on the same port.

    Args:
        folder: for its files.
        password: it asks for.
        durable: keep everything that was acknowledged, also through kill -9.
        tls: a certificate and its key: then there is no other way in.
        options: more of its command line.
    """

    def __init__(
        self,
        folder: Path,
        *,
        password: str | None = None,
        durable: bool = False,
        tls: tuple[Path, Path] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        if BINARY is None:
            pytest.skip("needs valkey-server or redis-server (Debian: apt-get install redis-server)")
        pytest.importorskip("redis")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.password, self.tls = folder, password, tls
        self._durable, self._options = durable, list(options)
        self._process: subprocess.Popen[bytes] | None = None
        for attempt in range(5):
            self.port = free_port()
            try:
                self.start()
                return
            except RuntimeError:
                if attempt == 4:
                    raise

    @property
    def url(self) -> str:
        """Where it is, password included."""
        secret = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis{'s' if self.tls else ''}://{secret}127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert self._process is None
        assert BINARY is not None
        port = ["--port", str(self.port)]
        if self.tls is not None:
            certificate, key = map(str, self.tls)
            port = ["--port", "0", "--tls-port", str(self.port), "--tls-cert-file", certificate]
            port += ["--tls-key-file", key, "--tls-auth-clients", "no"]
        command = [
            BINARY,
            *port,
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self.folder),
            "--save",
            "",
            "--loglevel",
            "notice",
        ]
        if self._durable:
            command += ["--appendonly", "yes", "--appendfsync", "always"]
        if self.password:
            command += ["--requirepass", self.password]
        log = self.folder / "log"
        with log.open("wb") as out:
            self._process = subprocess.Popen([*command, *self._options], stdout=out, stderr=subprocess.STDOUT)
        end = time.monotonic() + 20
        while b"Ready to accept connections" not in log.read_bytes():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(log.read_text(errors="replace"))
            time.sleep(0.01)

    def kill(self) -> None:
        """kill -9."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def freeze(self) -> None:
        """It takes connections, and never answers, until `thaw`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> SharedServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()


def shared(server: SharedServer, path: Path | None = None, **options: Any) -> SharedStore:
    """A store on that server, which is not waited for long."""
    return SharedStore(server.url, path, **{"every": 0.02, "flush_timeout": 40.0, "timeout": 5.0} | options)


def until(true: Callable[[], bool], seconds: float = 40.0) -> None:
    """Wait for it."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
