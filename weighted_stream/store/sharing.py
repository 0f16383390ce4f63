"""Sharing: the thread that keeps a local store and a server in step, so that the trainer never waits for either."""

from __future__ import annotations

import random
import threading
import time
import warnings
from collections.abc import Callable

from weighted_stream.errors import StoreError, WeightedStreamError
from weighted_stream.store.manifest import Fingerprint, Identity
from weighted_stream.store.record import Floats, Ids
from weighted_stream.store.regions import Regions
from weighted_stream.store.shared_manifest import ServerManifest
from weighted_stream.store.shared_news import News
from weighted_stream.store.shared_own import Own
from weighted_stream.store.shared_server import Server, Unreachable, unreachable
from weighted_stream.store.shared_session import PIECE, Keys, Session

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0
"""Seconds between two attempts to reach a server that is gone; twice as long each time."""

_WAITED_FOR = 0.25


class Sharing:
    """Sends what the local store learns, and learns what others have sent.

    Args:
        own: the local store.
        server: to share with.
        name: of the shared store.
        every: seconds between two looks.
        follow: whether to learn from others.
    """

    def __init__(self, own: Own, server: Server, name: str, *, every: float, follow: bool) -> None:
        keys = Keys(name)
        self._own, self._server, self._every = own, server, every
        self._manifest = ServerManifest(server, keys.meta, name)
        self._session = Session(own, server, keys)
        self._news = News(own, server, keys, self._session, self._agree) if follow else None
        self._line = threading.RLock()  # whoever uses the server
        self._told = threading.Condition()
        self._wake = threading.Event()
        self._asked = self._served = self._wanted = self._caught = self._waiting = 0
        self._restart = self._stop = False
        self._sends = False
        self._had = len(own) > 0  # of its own: what has come from others since is not
        self._away = False
        self._due = 0.0
        self._fingerprint: Fingerprint | None = None
        self._identity: Identity | None = None
        self._agreed = False
        self._failures = self._outages = 0
        self._failure = ""
        self._to_say: list[str] = []
        self._said_gone = False
        self.thread: threading.Thread | None = None
        """Which does it."""
        self.error: StoreError | None = None
        """What has put an end to sharing."""

    @property
    def follows(self) -> bool:
        """Whether it learns from others."""
        return self._news is not None

    @property
    def others(self) -> Regions | None:
        """What all others together know; None as long as that is nothing."""
        return None if self._news is None else self._news.others

    def begin(self, patience: float | None) -> None:
        """Connect, and start the thread.

        Args:
            patience: seconds in which it must have come to a connection; None: it may come later.

        Raises:
            StoreError: if there is no server, or it holds what cannot be shared with this store.
        """
        if patience is not None:
            self._until_connected(patience)
        self.thread = threading.Thread(target=self._run, name="weighted_stream sharing", daemon=True)
        self.thread.start()

    def changed(self, ids: Ids) -> None:
        """The local store knows more of these samples (they are copied)."""
        self._session.outbox.add(ids)
        self._sends = True

    def bind(self, fingerprint: Fingerprint) -> None:
        """Check now, if the server is there, otherwise when it comes, that the shared store is of this dataset.

        Raises:
            StoreMismatchError: if it is of another one.
        """
        with self._line:
            self._now(lambda: self._manifest.bind(fingerprint))
            self._fingerprint = fingerprint

    def bind_scores(self, identity: Identity) -> None:
        """The same for scores, which are about to come.

        Raises:
            StoreMismatchError: if the shared store holds other ones.
        """
        with self._line:
            self._now(lambda: self._manifest.bind_scores(identity))
            self._identity = identity

    def check_scores(self, identity: Identity) -> None:
        """The same; nothing is remembered."""
        self._now(lambda: self._manifest.check_scores(identity))

    @property
    def writer(self) -> str:
        """Who this store is to the server; who goes on from its state is the same: 32 hexadecimal digits."""
        return self._own.writer.hex()

    def restart(self, writer: bytes | None = None) -> None:
        """The local store has gone back to an earlier state: so must the server, as to what is this store's own.

        Args:
            writer: whose state it is, where that may be another one.
        """
        with self._line:
            if writer is None:
                self._session.anew()
                self._had |= len(self._own) > 0
            else:  # the server has that already, or what came after it: who only looks at a state changes nothing
                self._session.adopt(writer)
            if self._news is not None:
                self._news.anew()
            self._agreed = False
            self._restart = True
        self._wake.set()

    def tell_scores(self, tell: Callable[[Ids, Floats], None]) -> None:
        """From now on new scores of others go there, and nothing else of what others send is taken."""
        with self._line:
            self._own.tell_scores = tell
            if self._news is not None:
                self._news.scores_alone()

    def flush(self, timeout: float) -> None:
        """Wait until the server has all that the local store knows now.

        Raises:
            StoreError: if it has not within so many seconds, or sharing has ended.
        """
        with self._told:
            self._asked += 1
            asked = self._asked
            self._sends = self._sends or self._had
            self._waiting += 1
            self._wake.set()
            try:
                self._told.wait_for(lambda: self._served >= asked or self._nothing_to_wait_for(), timeout)
            finally:
                self._waiting -= 1
        if self._served >= asked or (self.error is None and self._acknowledged()):
            return
        raise self._unsent(timeout)

    def catch_up(self, timeout: float) -> None:
        """Wait until what others have sent by now has come.

        Raises:
            StoreError: if it has not within so many seconds, or sharing has ended.
        """
        with self._told:
            self._wanted += 1
            wanted = self._wanted
            self._waiting += 1
            self._wake.set()
            try:
                self._told.wait_for(lambda: self._caught >= wanted or self.error is not None or self._stop, timeout)
            finally:
                self._waiting -= 1
        if self._caught < wanted:
            raise self.error or StoreError(
                f"What others have sent to {self._server.address} has not come yet.",
                found=f"{self.stats()['shared_received']:,.0f} samples after {timeout:g} s"
                + (f"; {self._failure}" if self._failures else ""),
                expected="all of them",
                do="allow more time, or go on with what is there",
            )

    def close(self) -> None:
        """End the thread; what was not sent is not sent by this object any more."""
        self._stop = True
        self._wake.set()
        with self._told:
            self._told.notify_all()
        thread = self.thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(0.5)
            while thread.is_alive():
                self._server.close()  # it waits for an answer
                thread.join(0.5)
        self._server.close()

    def say(self) -> None:
        """Warn of what has happened meanwhile."""
        while self._to_say:
            warnings.warn(self._to_say.pop(0), RuntimeWarning, stacklevel=4)

    def stats(self) -> dict[str, float]:
        """See `SharedStore.stats`."""
        news = self._news
        return {
            "shared_connected": float(self._server.connected and self.error is None),
            "shared_outages": float(self._outages),
            "shared_to_send": float(len(self._session.outbox)),
            "shared_sent": float(self._session.sent),
            "shared_received": float(news.received if news is not None else 0),
            "shared_scores": float(news.scores if news is not None else 0),
        }

    def _run(self) -> None:
        pause = 0.0
        while not self._stop:
            if pause:
                self._wake.wait(pause)
            self._wake.clear()
            if self._stop:
                break
            try:
                with self._line:
                    began = time.perf_counter()
                    more = self._step()
                # Half of the time at most, for it is taken from the trainer; unless that waits.
                pause = self._every if not more else 0.0 if self._waiting else time.perf_counter() - began
            except Unreachable as error:
                pause = self._gone(error)
            except WeightedStreamError as error:
                self._end(error)
                return
            except Exception as error:
                if not self._stop:
                    self._end(error)
                return

    def _step(self) -> bool:
        """Do a bounded part of what is to do. Returns whether there is more."""
        with self._told:
            asked, wanted = self._asked, self._wanted
        if not self._server.connected:
            self._connect()
        elif self._restart or self._session.astray or (self._sends and not self._session.begun):
            self._greet()
        # Not before there is something new: until then it may turn out that another rank does it.
        more = self._sends and self._send()
        if self._news is not None:
            news = self._news.pull()
            if not news:
                self._caught_up(wanted)
            more |= news
        if self._failures:
            self._failures = 0
        if self._acknowledged():
            with self._told:
                self._served = max(self._served, asked)
                self._told.notify_all()
        return more

    def _send(self) -> bool:
        """Send a bounded part of what is new. Returns whether more of it should not wait."""
        now = time.monotonic()
        if not (self._waiting or now >= self._due or self._session.outbox.many(PIECE)):
            return False
        # Each push is one that all others must look at: what little there is goes together.
        self._due = now + self._every
        if self._session.push():
            return bool(self._waiting) or self._session.outbox.many(PIECE)
        self._session.look()
        return False

    def _connect(self) -> None:
        self._server.connect()
        self._away = False  # what it has got is seen now
        self._greet()

    def _greet(self) -> None:
        """See whether the server may hold this store, and what it has of it."""
        self._manifest.check()
        if self._fingerprint is not None:
            self._manifest.bind(self._fingerprint)
        if self._identity is not None:
            self._manifest.bind_scores(self._identity)
        self._agreed = False
        if self._own.scored:
            self._agree()
        if self._sends:
            self._manifest.begin()
            self._session.find()
        else:
            self._session.learn_of_itself()
        self._restart = False

    def _agree(self) -> None:
        """There are scores, here or there: they must be of one kind."""
        if self._agreed:
            return
        mine = self._own.scores
        known = self._manifest.agree(mine, write=self._sends)
        if mine is None and known is not None:
            self._own.put_scores(known)
        self._agreed = known is not None

    def _until_connected(self, patience: float) -> None:
        began, pause = time.monotonic(), FIRST_PAUSE
        while True:
            try:
                with self._line:
                    return self._connect()
            except Unreachable as error:
                waited = time.monotonic() - began
                if error.refused or waited + pause > patience:
                    raise unreachable(self._server.address, error, waited) from None
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def _now(self, work: Callable[[], None]) -> None:
        """Do it if the server is there; if it is not, it is done when it comes."""
        with self._line:
            try:
                if self._server.connected:
                    work()
            except Unreachable as error:
                self._gone(error)

    def _gone(self, error: Unreachable) -> float:
        """The server cannot be reached. Returns for how long to leave it alone."""
        self._failure = str(error)
        self._away = True
        self._failures += 1
        if self._failures == 1:
            self._outages += 1
        if not self._said_gone and not self._stop:
            self._said_gone = True
            self._to_say.append(
                f"The shared store at {self._server.address} is gone ({error}). Training goes on with what is known "
                "here; what it learns is sent when the server is back. This is said once: stats() counts on."
            )
        with self._told:
            self._told.notify_all()
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures, 10)) * random.uniform(0.7, 1.0)
        return min(pause, _WAITED_FOR) if self._waiting else pause

    def _end(self, error: Exception) -> None:
        """Nothing is shared any more; the local store is not touched by that."""
        if not isinstance(error, StoreError):
            error = StoreError(
                f"Sharing with {self._server.address} has failed.",
                found=self._server.address.scrubbed(f"{type(error).__name__}: {error}"),
                expected="an answer that this version understands",
                do="open the store again; please report this if it comes again",
            )
        self.error = error
        self._to_say.append(f"Nothing is shared any more, training goes on with what is known here. {error}")
        self._server.close()
        with self._told:
            self._told.notify_all()

    def _caught_up(self, wanted: int) -> None:
        with self._told:
            self._caught = max(self._caught, wanted)
            self._told.notify_all()

    def _acknowledged(self) -> bool:
        """Whether the server once had everything; it may be gone by now."""
        told = self._session.begun or not self._sends
        return told and self._session.all_there and not self._restart

    def _nothing_to_wait_for(self) -> bool:
        gone = self._away and self._acknowledged()
        return gone or self.error is not None or self._stop

    def _unsent(self, timeout: float) -> StoreError:
        left = len(self._session.outbox)
        if self.error is not None:
            return type(self.error)(
                self.error.problem,
                found=f"{self.error.found}; samples still to be sent: {left:,}",
                expected=self.error.expected,
                do=self.error.do,
            )
        here = "the local store has all of them: opened again at its path, it sends them"
        return StoreError(
            f"The shared store at {self._server.address} has not got everything.",
            found=f"samples still to be sent after {timeout:g} s: {left:,}"
            + (f"; {self._failure}" if self._failures else ""),
            expected="none",
            do="bring the server back and call flush() again, or allow more time (flush_timeout=); "
            + (here if self._own.place.path is not None else "a local store with a path would keep them"),
        )
