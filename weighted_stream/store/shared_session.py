"""One writer's contributions on a server: who it is there, and how they get there, all of them and none twice.

A server keeps the records of each writer apart, so to send one again changes nothing, and readers add them up. What a
writer sends belongs to a session, which begins with the process or with a state that is loaded. If the writer has had
one before, the new one stays hidden until everything is in it, and then takes its place in one piece. So the server
comes to hold exactly what the local store does. A state of all records brings its writer along: whoever goes on from it
is that one, and what it has sent under another name does not count any more.

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
        self._former: list[bytes] = []  # writers that this one was
        self._found: tuple[bytes, Any] | None = None  # session and token of an adopted writer, when it was first seen
        self.outbox = Outbox(lambda: own.touched(PIECE), own.__len__)
        self.mine = b""
        self.kin = 0
        self.sent = 0
        self.astray = False

    def anew(self) -> None:
        """What was sent before does not hold any more: the next `find` begins a new session."""
        self._me = b""
        self._found = None

    def adopt(self, writer: bytes) -> None:
        """This is that writer from now on, and what was sent as another one does not hold any more."""
        former = self._own.writer
        if writer != former:
            self._own.adopt(writer)
            self._former = [one for one in (*self._former, former) if one != writer]
        self.anew()

    def find(self) -> None:
        """See what the server has of this session; begin a new one if it has nothing.

        Raises:
            StoreError: if another process has taken the place of this writer.
            Unreachable: if the server cannot be asked.
        """
        if not self._me:
            self._begin()
            self.astray = False
            return
        keys = self._keys
        last, gone = self._server.exchange([("HGET", keys.last, self._me), ("SISMEMBER", keys.hidden, self._me)])
        if last is None and gone:
            raise self._replaced()
        if last is not None and self.outbox.go_on_after(last):
            self._token = last
        else:
            self._begin()
        self.astray = False  # not before: until then it is not known what is to be sent

    def learn_of_itself(self) -> None:
        """Nothing is to be sent yet, but what an earlier process of this writer has sent is no news.

        Raises:
            Unreachable: if the server cannot be asked.
        """
        live, _ = self._find_kin(self._own.writer)
        if self._own.adopted and live and self._found is None:
            self._found = live, self._last(live)

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
        try:
            pieces = self._pieces()
            if pieces:
                self._send(pieces)
        finally:
            self.outbox.landed()
        if not pieces and self._takes_over and self.outbox.all_passed:
            self._take_over()
        return self._takes_over or len(self.outbox) > 0

    @property
    def sessions(self) -> list[bytes]:
        """Those of `mine`, one by one."""
        return _each(self.mine)

    def look(self) -> None:
        """See whether the server still has all that was sent.

        Raises:
            Unreachable: if the server cannot be asked.
        """
        self.astray |= self._last(self._me) != self._token

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

    def _send(self, pieces: Sequence[tuple[Ids, bytes]]) -> None:
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
        self._end(pieces, replies, token)

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
        self._retire()
        me, token = os.urandom(SESSION_BYTES), os.urandom(SESSION_BYTES)
        live = self._claim(self._own.writer, me, token)
        self._takes_over, self._found = bool(live), None
        self._token = token
        self.outbox.forget()
        self.outbox.sent(token, _NONE)
        self.outbox.add_all()
        self._me = me  # last: from now on nothing is left to be sent if nothing waits

    def _claim(self, writer: bytes, me: bytes, token: bytes) -> bytes:
        """Begin a session of a writer. Returns the one whose place it will take; empty for none."""
        keys = [getattr(self._keys, name) for name in ("writers", "pending", "last", "hidden")]
        for _ in range(_TURNS):  # another process may do so in between
            live, coming = self._find_kin(writer)
            if self._found is not None and writer == self._own.writer and live:
                self._check_still(live)
            command = self._server.script("claim", keys, writer, me, token, live, coming)
            if self._server.exchange([command])[0]:
                self._is_mine(me)
                return live
        raise Unreachable("other processes share the same local store at the same time")

    def _check_still(self, live: bytes) -> None:
        """Whoever has gone on from a state takes the place of a process that has ended, of no other one."""
        if self._found != (live, self._last(live)):
            raise self._replaced()

    def _retire(self) -> None:
        """What was sent as another writer, before a state was loaded, does not count any more."""
        while self._former:
            writer, me = self._former[-1], os.urandom(SESSION_BYTES)
            if any(self._find_kin(writer)) and self._claim(writer, me, os.urandom(SESSION_BYTES)):
                self._announce(writer, me)
            self._former.pop()

    def _last(self, session: bytes) -> Any:
        (last,) = self._server.exchange([("HGET", self._keys.last, session)])
        return last

    def _find_kin(self, writer: bytes) -> list[bytes]:
        """The sessions of a writer that others count, and are about to; empty for none."""
        found = self._server.exchange([("HGET", key, writer) for key in (self._keys.writers, self._keys.pending)])
        for session in found:
            self.kin += self._is_mine(session)
        return [session if isinstance(session, bytes) else b"" for session in found]

    def _is_mine(self, session: object) -> bool:
        if isinstance(session, bytes) and len(session) == SESSION_BYTES and session not in _each(self.mine):
            self.mine += session
            return True
        return False

    def _take_over(self) -> None:
        if self._announce(self._own.writer, self._me):
            self._takes_over = False
        else:
            self.astray = True

    def _announce(self, writer: bytes, session: bytes) -> bool:
        """Let a session take the place of the one before; whether it could."""
        keys = [getattr(self._keys, name) for name in ("writers", "pending", "last", "hidden", "meta", "changes")]
        announcement = os.urandom(SESSION_BYTES)
        (done,) = self._server.exchange([self._server.script("take over", keys, writer, session, announcement)])
        return bool(done == b"done")

    def _replaced(self) -> StoreError:
        return StoreError(
            f"Another process shares the same local store at {self._server.address}.",
            found="a newer session of this writer",
            expected="one process for each local store, each copy of one, and each state of a store without a path",
            do="end one of the two; begin with a local store of its own (another path) and no state of the other, to "
            "count as another trainer",
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
