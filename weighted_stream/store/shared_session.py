"""One writer's contributions on a server: who it is there, and how they get there, all of them and none twice.

A server keeps the records of each writer apart, so to send one again changes nothing, and readers add them up. What a
writer sends belongs to a session, which begins with the process or with a state that is loaded. If the writer has had
one before, the new one stays hidden until everything is in it, and then takes its place in one piece. So the server
comes to hold exactly what the local store does.

Each push names the token of the push before. A server that has another one has lost something (it was killed, and has
come back empty or as it was earlier), or has got a push whose answer was lost: the token says which.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from weighted_stream.errors import StoreError
from weighted_stream.store.record import MARKS, Ids
from weighted_stream.store.shared_outbox import Outbox
from weighted_stream.store.shared_own import Own
from weighted_stream.store.shared_records import SESSION_BYTES, packed_ids, packed_records
from weighted_stream.store.shared_scripts import MOST_SESSIONS
from weighted_stream.store.shared_server import Command, Server, Unreachable

_NONE = np.zeros(0, np.int64)

PIECE = 1024
"""Samples of a push. The server does nothing else meanwhile: some milliseconds."""

_TURNS = 20

AT_ONCE = 8
"""Pushes that are sent together."""


class Keys:
    """The names of everything a shared store has on a server.

    Args:
        name: of the shared store.
    """

    def __init__(self, name: str) -> None:
        self.prefix = f"weighted_stream:{{{name}}}:"
        self.meta, self.writers, self.pending, self.hidden, self.last, self.changes = (
            self.prefix + part for part in ("meta", "writers", "pending", "hidden", "last", "changes")
        )


class Session:
    """Sends what a local store knows. For one thread.

    Args:
        own: the local store.
        server: to send to.
        keys: of the shared store.

    Attributes:
        outbox: what is to be sent.
        mine: all sessions that this writer is known to have had, one after the other: not news to it.
        kin: how many of them other processes began.
        sent: samples that were sent.
        astray: the server has not got what was sent: greet it as a new one, and `find`.
    """

    def __init__(self, own: Own, server: Server, keys: Keys) -> None:
        self._own, self._server, self._keys = own, server, keys
        self._me = self._token = b""
        self._takes_over = False
        self.outbox = Outbox(lambda: own.touched(PIECE), own.__len__)
        self.mine = b""
        self.kin = 0
        self.sent = 0
        self.astray = False

    def anew(self) -> None:
        """What was sent before does not hold any more: the next `find` begins a new session."""
        self._me = b""

    def find(self) -> None:
        """See what the server has of this session; begin a new one if it has nothing.

        Raises:
            StoreError: if another process has taken the place of this writer.
            Unreachable: if the server cannot be asked.
        """
        self.astray = False
        if not self._me:
            self._begin()
            return
        keys = self._keys
        last, gone = self._server.exchange([("HGET", keys.last, self._me), ("SISMEMBER", keys.hidden, self._me)])
        if last is None and gone:
            raise self._replaced()
        if last is not None and self.outbox.go_on_after(last):
            self._token = last
        else:
            self._begin()

    def learn_of_itself(self) -> None:
        """Nothing is to be sent yet, but what an earlier process of this writer has sent is no news.

        Raises:
            Unreachable: if the server cannot be asked.
        """
        self._find_kin()

    @property
    def begun(self) -> bool:
        """Whether the server has been told of this session."""
        return bool(self._me)

    def push(self) -> bool:
        """Send a bounded part of what is to be sent.

        Returns:
            Whether there is more.

        Raises:
            StoreError: if another process has taken the place of this writer, or too many have seen a sample.
            Unreachable: if the server cannot be reached; nothing is lost.
        """
        pieces = self._pieces()
        if not pieces:
            if self._takes_over and self.outbox.all_passed:
                self._take_over()
            return False
        commands: list[Command] = []
        token = self._token
        for ids, records in pieces:
            before, token = token, os.urandom(SESSION_BYTES)
            self.outbox.sent(token, ids)
            commands.append(self._push(before, token, ids, records))
        try:
            replies = self._server.exchange(commands)
        except BaseException:
            for ids, _ in pieces:
                self.outbox.put_back(ids)
            raise
        finally:
            self.outbox.landed()
        self._end(pieces, replies, token)
        return True

    @property
    def sessions(self) -> list[bytes]:
        """Those of `mine`, one by one."""
        return _each(self.mine)

    def look(self) -> None:
        """See whether the server still has all that was sent.

        Raises:
            Unreachable: if the server cannot be asked.
        """
        (last,) = self._server.exchange([("HGET", self._keys.last, self._me)])
        self.astray |= last != self._token

    @property
    def all_there(self) -> bool:
        """Whether nothing is left to be sent, and others see it."""
        return not self._takes_over and not self.astray and not len(self.outbox)

    def _pieces(self) -> list[tuple[Ids, bytes]]:
        pieces: list[tuple[Ids, bytes]] = []
        while len(pieces) < AT_ONCE:
            ids = self.outbox.take(PIECE)
            if not ids.size:
                break
            words = self._own.records(ids)
            known = words[:, MARKS] != 0
            if known.any():
                pieces.append((ids[known], packed_records(words[known])))
        return pieces

    def _push(self, before: bytes, token: bytes, ids: Ids, records: bytes) -> Command:
        keys = [getattr(self._keys, name) for name in ("meta", "changes", "last", "hidden", "pending")]
        return self._server.script("push", keys, self._keys.prefix, self._me, before, token, *packed_ids(ids), records)

    def _end(self, pieces: Sequence[tuple[Ids, bytes]], replies: Sequence[Any], token: bytes) -> None:
        for at, ((ids, _), reply) in enumerate(zip(pieces, replies, strict=True)):
            if reply != b"done":
                for left, _ in pieces[at:]:
                    self.outbox.put_back(left)
                if reply == b"full":
                    raise self._full()
                self.astray = True
                return
            self.sent += ids.size
        self._token = token

    def _begin(self) -> None:
        me, token = os.urandom(SESSION_BYTES), os.urandom(SESSION_BYTES)
        keys = [getattr(self._keys, name) for name in ("writers", "pending", "last", "hidden")]
        claimed, live = 0, b""
        for _ in range(_TURNS):  # another process may have done so in between
            if claimed:
                break
            live, coming = self._find_kin()
            (claimed,) = self._server.exchange(
                [self._server.script("claim", keys, self._own.writer, me, token, live, coming)]
            )
        if not claimed:
            raise Unreachable("other processes share the same local store at the same time")
        self._takes_over = bool(live)
        self._is_mine(me)
        self._me, self._token = me, token
        self.outbox.forget()
        self.outbox.sent(token, _NONE)
        self.outbox.landed()
        self.outbox.add_all()

    def _find_kin(self) -> list[bytes]:
        """The sessions of this writer that others count, and are about to; empty for none."""
        found = self._server.exchange(
            [("HGET", key, self._own.writer) for key in (self._keys.writers, self._keys.pending)]
        )
        for session in found:
            self.kin += self._is_mine(session)
        return [session if isinstance(session, bytes) else b"" for session in found]

    def _is_mine(self, session: object) -> bool:
        if isinstance(session, bytes) and len(session) == SESSION_BYTES and session not in _each(self.mine):
            self.mine += session
            return True
        return False

    def _take_over(self) -> None:
        keys = [getattr(self._keys, name) for name in ("writers", "pending", "last", "hidden", "meta", "changes")]
        announcement = os.urandom(SESSION_BYTES)
        (done,) = self._server.exchange(
            [self._server.script("take over", keys, self._own.writer, self._me, announcement)]
        )
        if done == b"done":
            self._takes_over = False
        else:
            self.astray = True

    def _replaced(self) -> StoreError:
        return StoreError(
            f"Another process shares the same local store at {self._server.address}.",
            found="a newer session of this writer",
            expected="one process for each local store, and for each copy of one",
            do="end one of the two; begin with a local store of its own (another path) to count as another trainer",
        )

    def _full(self) -> StoreError:
        return StoreError(
            f"Too many stores have contributed to one sample at {self._server.address}.",
            found=f"more than {MOST_SESSIONS}",
            expected=f"at most {MOST_SESSIONS}",
            do="give trainers a path=, so that one which begins again is the same writer; or begin under another name=",
        )


def _each(sessions: bytes) -> list[bytes]:
    return [sessions[at : at + SESSION_BYTES] for at in range(0, len(sessions), SESSION_BYTES)]
