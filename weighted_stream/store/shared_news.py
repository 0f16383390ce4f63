"""What others have sent to a server: followed push by push, or gone through from the beginning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from weighted_stream.errors import StoreError
from weighted_stream.store.opening import open_regions
from weighted_stream.store.record import BLANK, RECORD, SIMILARITY, Ids, Words
from weighted_stream.store.regions import Regions
from weighted_stream.store.scratch import Scratch
from weighted_stream.store.shared_own import Own
from weighted_stream.store.shared_records import SESSION_BYTES, packed_ids, unpacked_ids, unpacked_records
from weighted_stream.store.shared_scripts import BUCKETS
from weighted_stream.store.shared_server import Server
from weighted_stream.store.shared_session import AT_ONCE, PIECE, Keys, Session

_ENTRIES = 64
_MOST_OF_A_SCAN = 1 << 20
_BUCKETS_AT_ONCE = 16_384


class _Place:
    """A push in the order of all of them: its number, and its token, without which the number says nothing."""

    def __init__(self, number: int = 0, token: bytes = b"") -> None:
        self.number, self.token = number, token


class News:
    """Keeps a temporary copy of what all others together know. For one thread; any may read it.

    Args:
        own: the local store, which gets the scores.
        server: to ask.
        keys: of the shared store.
        session: of this writer, whose own pushes are no news.
        agree: called before scores are taken: raises if they cannot stand beside those of the local store.

    Attributes:
        others: the copy; None as long as nothing is known.
        received: samples that were read from the server.
        scores: scores that were put into the local store.
    """

    def __init__(self, own: Own, server: Server, keys: Keys, session: Session, agree: Callable[[], None]) -> None:
        self._own, self._server, self._keys, self._session, self._agree = own, server, keys, session, agree
        self._read: _Place | None = None
        self._scan: _Scan | None = None
        self._keeps = True
        self._kin = 0
        self.others: Regions | None = None
        self.received = self.scores = 0

    def scores_alone(self) -> None:
        """Keep nothing but scores from now on."""
        self.others, self._keeps = None, False
        self.anew()

    def anew(self) -> None:
        """Go through everything again; what is known stays until that has been done."""
        self._read = self._scan = None

    def pull(self) -> bool:
        """Take a bounded part of what is new.

        Returns:
            Whether there may be more.

        Raises:
            StoreError: if what comes cannot be.
            Unreachable: if the server cannot be reached.
        """
        if self._kin != self._session.kin:
            self.anew()  # something was taken for news that was not
        if self._scan is None and self._read is None:
            self._kin = self._session.kin
            self._scan = _Scan(self._head())
        if self._scan is not None:
            return self._go_through(self._scan)
        return self._follow()

    def _head(self) -> _Place:
        changes = self._server.exchange([("XREVRANGE", self._keys.changes, "+", "-", "COUNT", 1)])[0]
        return _entry(changes[0])[0] if changes else _Place()

    def _follow(self) -> bool:
        read = self._read
        assert read is not None
        first = f"{read.number}-0" if read.number else "-"
        (changes,) = self._server.exchange([("XRANGE", self._keys.changes, first, "+", "COUNT", _ENTRIES)])
        entries = [_entry(change) for change in changes]
        if read.number:
            # Without it, what came in between is lost: to the bound of the stream, or with the server.
            if not entries or (entries[0][0].number, entries[0][0].token) != (read.number, read.token):
                self.anew()
                return True
            entries = entries[1:]
        elif entries and entries[0][0].number != 1:
            self.anew()
            return True
        if not entries:
            return False
        mine = self._session.sessions
        changed = [ids for _, session, ids in entries if session not in mine]
        if any(ids is None for ids in changed):
            self.anew()  # whose contributions count has changed
            return True
        self._take([ids for ids in changed if ids is not None])
        self._read = entries[-1][0]
        return len(entries) >= _ENTRIES - 1

    def _take(self, changed: list[Ids]) -> None:
        if not changed:
            return
        ids = np.unique(np.concatenate(changed))
        pieces = np.split(ids, range(PIECE, ids.size, PIECE))
        for at in range(0, len(pieces), AT_ONCE):
            some = pieces[at : at + AT_ONCE]
            replies = self._server.exchange(
                [
                    self._server.script(
                        "read", [self._keys.hidden], self._keys.prefix, self._session.mine, *packed_ids(piece)
                    )
                    for piece in some
                ]
            )
            for piece, reply in zip(some, replies, strict=True):
                counts, slots = _parts(reply, 2)
                if self.others is None and self._keeps:
                    self.others = _empty()
                self._keep(self.others, piece, unpacked_records(piece.size, counts, slots))

    def _go_through(self, scan: _Scan) -> bool:
        keys = [self._keys.hidden]
        arguments = (self._keys.prefix, self._session.mine, scan.bucket, PIECE * AT_ONCE, _BUCKETS_AT_ONCE)
        (reply,) = self._server.exchange([self._server.script("scan", keys, *arguments)])
        bucket, packed, counts, slots = _parts(reply, 4)
        if not isinstance(bucket, int) or not scan.bucket < bucket <= BUCKETS:
            raise _strange(f"the key {bucket!r} after the key {scan.bucket}")
        ids = unpacked_ids(packed, _MOST_OF_A_SCAN)
        self._keep(scan.others, ids, unpacked_records(ids.size, counts, slots))
        scan.bucket, scan.found = bucket, scan.found + ids.size
        if bucket == BUCKETS:
            self.others = scan.others if scan.found and self._keeps else None
            self._read, self._scan = scan.head, None
        return True

    def _keep(self, others: Regions | None, ids: Ids, words: Words) -> None:
        if others is not None and self._keeps:
            others.place(ids, np.ascontiguousarray(words).view(RECORD)[:, 0])
        self.received += ids.size
        scored = words[:, SIMILARITY] != 0
        if scored.any():
            self._agree()
            scores = (words[scored, SIMILARITY] ^ BLANK[SIMILARITY]).view(np.float32)
            self.scores += self._own.add_scores(ids[scored], scores)


class _Scan:
    """Where going through everything has come to.

    Args:
        head: the latest push when it began.
    """

    def __init__(self, head: _Place) -> None:
        self.head, self.bucket, self.found = head, 0, 0
        self.others = _empty()


def _empty() -> Regions:
    return open_regions(Scratch(), write=True)


def _entry(change: Any) -> tuple[_Place, bytes, Ids | None]:
    """Place, session and ids of a push; None for ids: whose contributions count has changed."""
    try:
        values = dict(zip(change[1][::2], change[1][1::2], strict=True))
        number, session, token = int(change[0].partition(b"-")[0]), values[b"s"], values[b"t"]
        if len(session) != SESSION_BYTES or len(token) != SESSION_BYTES:
            raise ValueError("a session or token of another size")
        ids = None if b"a" in values else unpacked_ids(values[b"i"], PIECE)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, StoreError):
            raise
        raise _strange(f"{type(error).__name__}: {str(error)[:200]}") from error
    return _Place(number, token), session, ids


def _parts(reply: Any, size: int) -> list[Any]:
    if not isinstance(reply, list) or len(reply) != size:
        raise _strange(f"{type(reply).__name__} of {len(reply) if isinstance(reply, list) else '?'} parts")
    return reply


def _strange(found: str) -> StoreError:
    return StoreError(
        "The server of the shared store answers as ours would not.",
        found=found,
        expected="what the scripts of this version return",
        do="does anything else write under this name? Take another name=, or delete its keys",
    )
