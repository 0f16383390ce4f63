"""Packet: what one rank tells the others at a time. Bytes with a fixed head; nothing of it is unpickled."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from weighted_stream.errors import RanksError

Ids: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float32]

_MAGIC = 0x57535241_00000001  # "WSRA", version 1
_HEAD = 17

NO_IDS: Ids = np.empty(0, np.int64)
NO_FLOATS: Floats = np.empty(0, np.float32)


class Kind(IntEnum):
    """Where a rank stands."""

    BEGIN = 1
    """It begins an epoch."""
    FEEDBACK = 2
    """It weighed a batch."""
    ENDED = 3
    """Its loader has ended; it only listens."""
    LOAD = 4
    """It loads a state."""
    ADD = 5
    """It adds up numbers of a batch."""
    NOTHING = 6
    """No loss of its batch is finite: it has nothing to add up, and waits until the others are through with theirs."""


class Place(NamedTuple):
    """How far a rank is in its part of an epoch; see `Position`."""

    drawn: int = 0
    samples: int = 0
    batches: int = 0
    digest: int = 0
    over: int = 0


NOWHERE = Place()


@dataclass(slots=True)
class Packet:
    """What one rank says.

    Attributes:
        kind: where it stands.
        epoch: of its loader.
        step: of the batch, if there is one.
        place: how far it is in the epoch.
        written: up to which exchange what came is in the files of the store that it writes.
        ids: (n,) of the samples weighed.
        losses: (n,) theirs.
        weights: (n,) theirs; None if they follow from all ranks' losses.
        passed: (m,) ids of candidates that were not chosen; at the steps ``passed_steps`` (m,).
        scored: (s,) ids of samples that got a ``similarity`` (s,).
        grouped: (g,) ids of samples whose groups are known now: ``groups``, g names.
        numbers: (k,) float64 to be added up.
        note: a word to all.
    """

    kind: Kind
    epoch: int = 0
    step: int = 0
    place: Place = NOWHERE
    written: int = 0
    ids: Ids = field(default_factory=lambda: NO_IDS)
    losses: Floats = field(default_factory=lambda: NO_FLOATS)
    weights: Floats | None = None
    passed: Ids = field(default_factory=lambda: NO_IDS)
    passed_steps: Ids = field(default_factory=lambda: NO_IDS)
    scored: Ids = field(default_factory=lambda: NO_IDS)
    similarity: Floats = field(default_factory=lambda: NO_FLOATS)
    grouped: Ids = field(default_factory=lambda: NO_IDS)
    groups: list[str] = field(default_factory=list)
    numbers: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    note: str = ""

    def to_bytes(self) -> NDArray[np.uint8]:
        """As bytes: int64 head, int64 arrays, float32 arrays, text."""
        weights = NO_FLOATS if self.weights is None else self.weights
        texts = [self.groups, self.note] if self.groups or self.note else None
        text = b"" if texts is None else json.dumps(texts).encode()
        counts = (len(self.ids), len(self.passed), len(self.scored), len(self.grouped), len(self.numbers), len(text))
        head = (_MAGIC, self.kind, self.epoch, self.step, *self.place, self.written, self.weights is not None, *counts)
        longs = (np.array(head, np.int64), self.ids, self.passed, self.passed_steps, self.scored, self.grouped)
        floats = (self.losses, weights, self.similarity)
        parts = (np.concatenate(longs), self.numbers, np.concatenate(floats).astype(np.float32))
        return np.concatenate([*(part.view(np.uint8) for part in parts), np.frombuffer(text, np.uint8)])

    @classmethod
    def from_bytes(cls, data: NDArray[np.uint8]) -> Packet:
        """The inverse of `to_bytes`.

        Raises:
            RanksError: for bytes that are no packet of this version.
        """
        if len(data) < 8 * _HEAD or (head := data[: 8 * _HEAD].view(np.int64).tolist())[0] != _MAGIC:
            raise RanksError(
                "Another rank speaks another language.",
                found=f"{len(data)} bytes that are no packet of this version",
                expected="the same version of weighted_stream on every rank, and streams made in the same order",
                do="install one version everywhere; make the same streams on every rank, in the same order",
            )
        kind, epoch, step, *place, written, weighed, n, m, s, g, k, letters = head[1:]
        longs = _cut(data, 8 * _HEAD, np.int64, (n, m, m, s, g))
        at = 8 * (_HEAD + n + 2 * m + s + g)
        (numbers,) = _cut(data, at, np.float64, (k,))
        at += 8 * k
        losses, weights, similarity = _cut(data, at, np.float32, (n, n * weighed, s))
        at += 4 * (n + n * weighed + s)
        text: Any = json.loads(data[at : at + letters].tobytes()) if letters else ([], "")
        ids, passed, steps, scored, grouped = longs
        weights_or_none = weights if weighed else None
        said = (ids, losses, weights_or_none, passed, steps, scored, similarity, grouped, text[0], numbers, text[1])
        return cls(Kind(kind), epoch, step, Place(*place), written, *said)


def _cut(data: NDArray[np.uint8], at: int, dtype: Any, counts: tuple[int, ...]) -> list[NDArray[Any]]:
    """Arrays one after the other."""
    values = data[at : at + np.dtype(dtype).itemsize * sum(counts)].view(dtype)
    parts, start = [], 0
    for count in counts:
        parts.append(values[start : start + count])
        start += count
    return parts
