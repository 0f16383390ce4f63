"""Ports of this machine for servers of the tests."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator

# Below those that Linux gives to connections (32768 and up): a server that is killed finds its port free again.
_FIRST, _COUNT = 10_000, 20_000


def _candidates() -> Iterator[int]:
    """Each process begins elsewhere, so that tests that run at once do not want the same one."""
    begin = os.getpid() * 101
    return (_FIRST + (begin + n) % _COUNT for n in itertools.count())


_next = _candidates()


def free_port() -> int:
    """One that nobody uses just now, and that no connection gets by chance."""
    for port in _next:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError
