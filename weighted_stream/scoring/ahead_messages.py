"""What the process that scores ahead and its trainer say to each other, over one pipe.

The scorer asks and the trainer answers; only `START` comes unasked. A message is a byte for its kind, the number of the
pass it belongs to (a pass goes once over the dataset, in the order of one epoch), and the contents as plain bytes::

    scorer                              trainer
    HELLO  the process runs
                                        PARCEL source and plan, pickled
                                        START  {"epoch", "shuffle_seed"}: begin pass n, leave the one before
    WHOSE  identity of the scores       (nothing, or it ends the process)
    WHICH  ids                          WANTED one bool each: which have no score yet
    MAY    how many                     GO     once that many fit into the look-ahead
    SCORES seconds, ids, scores
    PART   {"name", "fault"}: read to its end, or as far as could be
    DONE   all of the pass is scored
    FAULT  {"problem", "found", …}: the scorer ends
"""

from __future__ import annotations

import json
import struct
import threading
from enum import IntEnum
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Scores = NDArray[np.float32]
Mask = NDArray[np.bool_]

MOST = 4096
"""Ids in one message, and samples scored in one go."""

_HEAD = struct.Struct("<BI")
_SECONDS = struct.Struct("<d")


class Kind(IntEnum):
    """What a message says."""

    HELLO = 1
    PARCEL = 2
    START = 3
    WHOSE = 4
    WHICH = 5
    WANTED = 6
    MAY = 7
    GO = 8
    SCORES = 9
    PART = 10
    DONE = 11
    FAULT = 12


class Message(NamedTuple):
    """A message as it arrives."""

    kind: Kind
    number: int
    contents: bytes


class Gone(Exception):
    """The other end of the pipe is gone."""


class Line:
    """One end of the pipe. Any thread may send, one thread receives.

    Args:
        connection: a duplex connection of `multiprocessing`.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    def send(self, kind: Kind, number: int = 0, contents: bytes = b"") -> None:
        """Send a message.

        Raises:
            Gone: if there is nobody to receive it.
        """
        try:
            with self._sending:
                self._connection.send_bytes(_HEAD.pack(kind, number) + contents)
        except OSError as error:
            raise Gone from error

    def receive(self) -> Message:
        """The next message.

        Raises:
            Gone: if there will be none.
        """
        try:
            data = self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise Gone from error
        kind, number = _HEAD.unpack_from(data)
        return Message(Kind(kind), number, data[_HEAD.size :])

    def close(self) -> None:
        """Let go of the pipe."""
        with self._sending:
            self._connection.close()


def pack_json(value: dict[str, Any]) -> bytes:
    """A small dict of plain values."""
    return json.dumps(value).encode()


def unpack_json(contents: bytes) -> dict[str, Any]:
    """The inverse of `pack_json`."""
    value: dict[str, Any] = json.loads(contents)
    return value


def unpack_ids(contents: bytes) -> Ids:
    """The ids of `Kind.WHICH`: (n,) int64."""
    return np.frombuffer(contents, np.int64)


def pack_scores(ids: Ids, scores: Scores, seconds: float) -> bytes:
    """The contents of `Kind.SCORES`.

    Args:
        ids: (n,) int64.
        scores: (n,) float32.
        seconds: what scoring them took.

    Example:
        >>> ids, scores, seconds = unpack_scores(pack_scores(np.int64([7, 8]), np.float32([0.5, 1.0]), 0.25))
        >>> ids.tolist(), scores.tolist(), seconds
        ([7, 8], [0.5, 1.0], 0.25)
    """
    return _SECONDS.pack(seconds) + ids.astype(np.int64).tobytes() + scores.astype(np.float32).tobytes()


def unpack_scores(contents: bytes) -> tuple[Ids, Scores, float]:
    """The inverse of `pack_scores`."""
    count = (len(contents) - _SECONDS.size) // 12
    (seconds,) = _SECONDS.unpack_from(contents)
    ids = np.frombuffer(contents, np.int64, count, _SECONDS.size)
    return ids, np.frombuffer(contents, np.float32, count, _SECONDS.size + 8 * count), seconds
