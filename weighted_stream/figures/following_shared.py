"""Following a shared store: what is on the server, as trainers and scorers send it."""

from __future__ import annotations

import os
import time
from collections import deque
from contextlib import suppress

import numpy as np

from weighted_stream.errors import SourceError, StoreError
from weighted_stream.figures.following import MOST_STEPS, Rates, Sight
from weighted_stream.figures.measures import loss_deciles
from weighted_stream.store import SharedStore
from weighted_stream.store.header import WINDOW
from weighted_stream.store.record import Tally
from weighted_stream.store.statistics import summary

_PATIENCE = 5.0
_FIRST = 3600.0


class FollowedShared:
    """A shared store: all that is in it is gone through at each look.

    Args:
        url: of the server.
        name: of the shared store.
        ca_file: whom to trust with TLS, PEM; None: whom the system trusts.

    Raises:
        StoreError: if the server cannot be reached or refuses.
        SourceError: if nothing is in it.
    """

    def __init__(self, url: str, name: str, *, ca_file: str | os.PathLike[str] | None = None) -> None:
        self._store = SharedStore(url, name=name, ca_file=ca_file)
        self._rates = Rates()
        self._losses: deque[float] = deque(maxlen=MOST_STEPS)
        self._first = True

    def look(self) -> Sight:
        """What has come here by now; of the weights and losses those of the latest 4,096 samples, by step."""
        notes: list[str] = []
        ended: str | None = None
        try:
            self._store.catch_up(_FIRST if self._first else _PATIENCE)
        except StoreError as error:
            if self._first:
                raise
            notes.append(f"{error.problem.rstrip('.')}: {error.found}. This is what was known before.")
            if self._store.ended is not None:
                ended = "Nothing is shared any more: no more will come."
        counts = np.zeros(5, np.int64)
        latest = np.empty((3, 0))
        for _, fields in self._store.chunks():
            visits, scored = fields["visits"], ~np.isnan(fields["similarity"])
            seen = visits > 0
            counts += [visits.size, visits.sum(), scored.sum(), (seen & ~scored).sum(), fields["nonfinite"].sum()]
            news = np.stack([fields["last_step"][seen], fields["last_loss"][seen], fields["weight"][seen]])
            latest = np.concatenate([latest, news], axis=1)
            if latest.shape[1] > WINDOW:
                latest = latest[:, np.argpartition(-latest[0], WINDOW)[:WINDOW]]
        if self._first and not counts[0]:
            raise SourceError(
                f"There is no shared store {self._store.name!r} at {self._store.url}, or nothing is in it.",
                found="no sample",
                expected="what trainers or scorers have sent",
                do="name another one with --name",
            )
        self._first = False
        steps, losses, weights = latest[0], latest[1].astype(np.float32), latest[2].astype(np.float32)
        weighed = ~np.isnan(weights)
        stats = summary(Tally(*counts.tolist()), losses, weights[weighed])
        last = int(steps.max()) + 1 if steps.size else None
        sight = Sight(stats, last, notes=notes, ended=ended)
        growing = {"samples": stats["visits"]} | ({} if last is None else {"steps": float(last)})
        sight.rates = self._rates.of(growing, time.monotonic())
        if losses.size:
            self._losses.append(stats["loss_mean"])
            sight.deciles = loss_deciles(losses[weighed], weights[weighed])
        sight.losses = list(self._losses)
        return sight

    def close(self) -> None:
        """Let go of the server."""
        with suppress(StoreError):  # there is nothing to be sent
            self._store.close()
