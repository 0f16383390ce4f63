"""SharedStore: a WeightStore whose samples other trainers and scorers see, through a Redis or Valkey server."""

from __future__ import annotations

import os
import re
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from weighted_stream.errors import StoreError
from weighted_stream.sample_ids import MAX_ID
from weighted_stream.store import inputs, manifest
from weighted_stream.store.dense import PIECE
from weighted_stream.store.manifest import Fingerprint, Identity
from weighted_stream.store.pieces import even
from weighted_stream.store.record import MARKS, RECORD, Floats, Ids, fields, words_of
from weighted_stream.store.refusals import no_state
from weighted_stream.store.shared_address import parse_address
from weighted_stream.store.shared_own import Own, as_writer
from weighted_stream.store.shared_records import joined
from weighted_stream.store.shared_server import Server
from weighted_stream.store.sharing import Sharing
from weighted_stream.store.weight_store import Fields, WeightStore

AT_EXIT = 5.0
"""Seconds that a program which ends without `close` gives to what is still to be sent."""


class SharedStore(WeightStore):
    """A `WeightStore` that trainers and scorers on other machines share, through a Redis or Valkey server.

    Everything is read from and written to a local store, as ever; a thread sends what changed to the server, and brings
    what others have sent, so a training step never waits for the network. Losses and weights come to the others within
    about ``every`` seconds.

    What several trainers know of one sample comes together like this, whatever the order: ``visits`` and ``nonfinite``
    add up; ``loss`` is the mean of their averages, weighted by visits; ``last_loss``, ``weight`` and ``last_step``
    are those of the trainer with the largest ``last_step`` (at the same step, of the larger loss), among those with a
    loss at all; ``similarity`` is the one score there is, as all scores of a store are of one encoder,
    target and method. The server keeps the contributions of each store apart, so nothing counts twice, however often it
    is sent. Steps are compared as they are: trainers that share samples should count alike. Groups are not shared.
    `get`, `ids`, `chunks` and `to_parquet` tell what all together know; ``len`` and the first figures of `stats` are of
    this store alone, with the scores of others.

    If the server is gone, training goes on with what is known here; a `RuntimeWarning` says so once, `stats` counts.
    When it is back, even empty, it gets everything that it lacks. What finished trainers have contributed is only on
    the server: let it keep its data (``appendonly yes``), and not evict any (``maxmemory-policy noeviction``).

    Under several ranks give each its `SharedStore`: the first sends what all of them learn, and brings the scores;
    losses of trainers beyond these ranks do not come to them.

    A state (`state_dict`) is the state of the local store. After `load_state_dict`, and when a store is opened again,
    the server is brought to what this store says: its earlier contributions are replaced in one piece, once all are
    there. A state of a store without a path says whose it is: who loads it goes on as that one, which must have ended
    (of two that go on, sharing ends for one). What is in a state that does not say so (of a `WeightStore`, or of an
    earlier version) counts as a new trainer's.

    Args:
        url: ``redis://host:6379/0``; ``rediss://`` with TLS, which checks the server's certificate; ``unix:///path``.
            User and password may stand in it (``redis://user:password@host``); they are not shown anywhere.
        path: the directory of the local store, which is then this trainer's: opened again, it is the same one. None:
            a temporary one, a trainer (or scorer) of its own every time, unless it loads a state.
        name: of the shared store, one for each dataset and kind of scores.
        fingerprint: the dataset the ids belong to; a `WeightedStream` gives its own. Server and local store refuse
            another one.
        username, password: where the address has none; else those of the environment,
            ``WEIGHTED_STREAM_STORE_USERNAME`` and ``WEIGHTED_STREAM_STORE_PASSWORD``.
        ca_file: whom to trust with TLS, PEM; None: whom the system trusts.
        cert_file, key_file: who we are, for a server that asks, PEM.
        must_connect: if True (default), a server that cannot be reached within ``timeout`` is an error; otherwise it
            may come later.
        timeout: seconds for a connection, and for each answer.
        flush_timeout: seconds that `flush` and `close` may take to send what is left.
        every: seconds between two looks at what is new.
        follow: learn what others have sent; a scorer need not.
        journal, journal_bytes: of the local store, see `WeightStore`.

    Raises:
        StoreError: if the address is none, the server cannot be reached or refuses, or the local store cannot be
            opened.
        StoreMismatchError: if the shared or the local store belongs to another dataset, holds other scores, or is of
            another version.
        MissingExtraError: if the package ``redis`` is not installed.

    Example:
        >>> stream = WeightedStream(data, LinUpper(), store=SharedStore("redis://shared:6379/0"))  # doctest: +SKIP
    """

    url = name = ""
    _sharing: Sharing | None = None  # what `at_step` makes has none

    def __init__(
        self,
        url: str,
        path: str | os.PathLike[str] | None = None,
        *,
        name: str = "weights",
        fingerprint: Fingerprint | None = None,
        username: str | None = None,
        password: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        cert_file: str | os.PathLike[str] | None = None,
        key_file: str | os.PathLike[str] | None = None,
        must_connect: bool = True,
        timeout: float = 10.0,
        flush_timeout: float = 60.0,
        every: float = 0.5,
        follow: bool = True,
        journal: bool | None = None,
        journal_bytes: int = 1 << 30,
    ) -> None:
        address = parse_address(
            url, username=username, password=password, ca_file=ca_file, cert_file=cert_file, key_file=key_file
        )
        _check_name(name)
        for option, seconds in (("timeout", timeout), ("flush_timeout", flush_timeout), ("every", every)):
            _check_seconds(option, seconds)
        server = Server(address, timeout)
        super().__init__(path, fingerprint=fingerprint, journal=journal, journal_bytes=journal_bytes)
        self.url, self.name = str(address), name
        self._flush_timeout = flush_timeout
        try:
            own = Own(self._place, self._regions, self._behind, self._threads)
            sharing = Sharing(own, server, name, every=every, follow=follow)
            if fingerprint is not None:
                sharing.bind(fingerprint)
            sharing.begin(timeout if must_connect else None)
        except BaseException:
            server.close()
            self._release()
            raise
        self._sharing = sharing
        self._ending = weakref.finalize(self, _end, os.getpid(), sharing)

    def bind(self, fingerprint: Fingerprint) -> None:
        """Check that this store and the shared one may hold the dataset of ``fingerprint``, and remember it.

        Raises:
            StoreMismatchError: if one of them holds another dataset. Of a server that is not there now, it is said
                when it comes, by a warning, and nothing is shared then.
        """
        sharing = self._shares()
        if sharing is not None:
            manifest.bind(self._place, fingerprint, write=False)
            sharing.bind(fingerprint)
        super().bind(fingerprint)

    def bind_scores(self, identity: Identity) -> None:
        """As `WeightStore.bind_scores`, here and on the server."""
        sharing = self._shares()
        if sharing is not None:
            super().check_scores(identity)
            sharing.bind_scores(identity)
        super().bind_scores(identity)

    def check_scores(self, identity: Identity) -> None:
        """As `WeightStore.check_scores`, here and on the server."""
        super().check_scores(identity)
        sharing = self._shares()
        if sharing is not None:
            sharing.check_scores(identity)

    def get(self, ids: Any) -> Fields:
        """What all who share this store know of some samples, as far as it has come here; see `WeightStore.get`."""
        sharing = self._shares()
        others = None if sharing is None else sharing.others
        if others is None:
            return super().get(ids)
        self._check_open()
        ids = inputs.as_ids(ids)
        highest = int(ids.view(np.uint64).max()) if ids.size else 0
        if highest > MAX_ID:
            raise inputs.negative(ids)
        own, more = words_of(self._regions.read(ids, highest)), words_of(others.read(ids, highest))
        if np.count_nonzero(more[:, MARKS]):
            own = joined(own, more)
        return fields(own.view(RECORD)[:, 0])

    def update(
        self,
        ids: Any,
        *,
        loss: Any = None,
        weight: Any = None,
        similarity: Any = None,
        group: Any = None,
        step: int | None = None,
    ) -> None:
        """As `WeightStore.update`; it will be sent to the others."""
        ids = inputs.as_ids(ids)
        super().update(ids, loss=loss, weight=weight, similarity=similarity, group=group, step=step)
        self._changed(ids)

    def record(self, ids: Any, loss: Any, weight: Any = None, *, step: int) -> None:
        """As `WeightStore.record`; it will be sent to the others."""
        ids = inputs.as_ids(ids)
        super().record(ids, loss, weight, step=step)
        self._changed(ids)

    def set_groups(self, ids: Any, names: Sequence[str]) -> None:
        """As `WeightStore.set_groups`; groups are not shared."""
        super().set_groups(ids, names)

    def ids(self, size: int = PIECE) -> Iterator[Ids]:
        """The ids of all samples of which anybody remembers anything; see `WeightStore.ids`."""
        yield from super().ids(size)
        sharing = self._shares()
        others = None if sharing is None else sharing.others
        if others is not None:
            more = (ids[self._unknown(ids)] for ids in others.touched())
            yield from even((ids for ids in more if ids.size), size)

    def stats(self) -> dict[str, float]:
        """As `WeightStore.stats`, of this store alone, and of sharing.

        Returns:
            Also ``shared_connected`` (1 if the server is there), ``shared_outages`` (how often it was not),
            ``shared_to_send`` (samples that it has not got yet), ``shared_sent``, ``shared_received`` (samples, each
            time they came), ``shared_scores`` (scores of others, put into this store).
        """
        figures = super().stats()
        sharing = self._shares()
        if sharing is None:
            return figures
        sharing.say()
        return figures | sharing.stats()

    def state_dict(self) -> dict[str, Any]:
        """As `WeightStore.state_dict`; one of records also says who this is to the server."""
        state = super().state_dict()
        sharing = self._shares()
        if sharing is not None and state["kind"] == "records":
            state["writer"] = sharing.writer
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """As `WeightStore.load_state_dict`, of this store; the server is brought to it afterwards."""
        of_records = isinstance(state_dict, Mapping) and state_dict.get("kind") == "records"
        writer = as_writer(state_dict["writer"], no_state) if of_records and "writer" in state_dict else None
        super().load_state_dict(state_dict)
        sharing = self._shares()
        if sharing is not None:
            sharing.restart(writer)

    @property
    def ended(self) -> StoreError | None:
        """What has put an end to sharing, for good; None: it goes on, with a server that is there or gone."""
        sharing = self._shares()
        return None if sharing is None else sharing.error

    def flush(self) -> None:
        """Put everything on the disk, and on the server.

        Raises:
            StoreError: if the server has not got everything within ``flush_timeout``; it says how much is left. On the
                disk it is.
        """
        super().flush()
        sharing = self._shares()
        if sharing is not None:
            sharing.flush(self._flush_timeout)
            sharing.say()

    def catch_up(self, timeout: float | None = None) -> None:
        """Wait until what others have sent by now has come here, e.g. scores before training begins.

        Args:
            timeout: seconds; None: ``flush_timeout``.

        Raises:
            StoreError: if it has not come within that time, or this store does not follow others.
        """
        self._check_open()
        sharing = self._shares()
        if sharing is None or not sharing.follows:
            raise StoreError(
                "This store learns nothing of others.",
                found="follow=False, or a rank that another one shares for",
                expected="a SharedStore that follows",
                do="SharedStore(url, follow=True)",
            )
        sharing.catch_up(self._flush_timeout if timeout is None else timeout)

    def close(self) -> None:
        """Flush, and let go of server and files. Closing twice is fine.

        Raises:
            StoreError: as `flush`; the store is closed then, too.
        """
        sharing, writes = self._sharing, not self._closed and self._writes()
        if sharing is None or not writes:
            super().close()
            return
        try:
            self._behind.write()
            sharing.flush(self._flush_timeout)
        finally:
            sharing.close()
            self._ending.detach()
            self._sharing = None
            super().close()

    def on_ranks(self, first: bool, tell_scores: Callable[[Ids, Floats], None]) -> None:
        """Several ranks train one model, and each remembers the feedback of all: one of them shares it.

        What other trainers have seen is not taken into account then, as it would come to the ranks at different times;
        their scores are, from the exchange on that all ranks hear of them in.

        Args:
            first: whether this rank is the one; otherwise this becomes a store like any other.
            tell_scores: takes ids and scores, for all ranks.
        """
        sharing = self._sharing
        if sharing is None:
            return
        if first:
            sharing.tell_scores(tell_scores)
        else:
            self._ending.detach()
            self._sharing = None
            sharing.close()

    def __repr__(self) -> str:
        return f"SharedStore({self.url!r}, name={self.name!r}, local={super().__repr__()})"

    def _shares(self) -> Sharing | None:
        """Who shares; None in a process that was forked off, which has no such thread."""
        sharing = self._sharing
        if sharing is None or not self._writes():
            return None
        return sharing

    def _changed(self, ids: Ids) -> None:
        sharing = self._shares()
        if sharing is not None and ids.size:
            sharing.changed(ids)
            sharing.say()

    def _unknown(self, ids: Ids) -> Any:
        return words_of(self._regions.read(ids, int(ids.view(np.uint64).max())))[:, MARKS] == 0


def _end(owner: int, sharing: Sharing) -> None:
    """A store was not closed: send what is left, for a little while."""
    if os.getpid() != owner:
        return
    try:
        if sharing.error is None and threading.current_thread() is not sharing.thread:
            sharing.flush(AT_EXIT)
    except StoreError as error:
        warnings.warn(str(error), RuntimeWarning, stacklevel=2)
    finally:
        sharing.close()


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", name):
        raise StoreError(
            "A shared store cannot have this name.",
            found=repr(name)[:200],
            expected="1 to 100 letters, digits, dots, dashes and underscores",
            do='SharedStore(url, name="my-corpus")',
        )


def _check_seconds(option: str, seconds: object) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < 1e6:
        raise StoreError(
            f"SharedStore cannot take this {option}.",
            found=repr(seconds),
            expected="seconds, more than 0",
            do=f"{option}=10.0",
        )
