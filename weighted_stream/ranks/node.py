"""NodeStore: one store for all ranks of a node. One of them writes it; all of them read it as if they did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from threading import RLock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weighted_stream.ranks.packet import Ids, Packet
from weighted_stream.store import WeightStore
from weighted_stream.store.inputs import as_change, as_ids
from weighted_stream.store.later import change_words
from weighted_stream.store.record import RECORD, Change, Words, fields, words_of

SCORES_AT_ONCE = 4096
"""Scores made ahead that go with one exchange, beside those of the batch."""


class _Wanted(NamedTuple):
    """A change that is to be written to the files."""

    number: int
    ids: Ids
    values: dict[str, Any]


class NodeStore:
    """What a rank remembers, of its own samples and of the other ranks': the same on every rank, after each exchange.

    Ranks that were given the same directory on the same machine share its files. The first of them writes, the others
    read, without locks: what exchange n brought is written when exchange n + 1 is over, so when all ranks are done with
    reading for n; until a rank has heard that it was written, it reads these records from its own memory.

    Args:
        store: for writing, or for reading if another rank writes it.
        writer: the rank that writes it.
        shared: whether other ranks read it.
    """

    def __init__(self, store: WeightStore, writer: int, shared: bool) -> None:
        self.inner, self.writer = store, writer
        self._shared, self._writes = shared, store.writable
        self._threads = RLock()
        self._later = store.later
        self._wanted: list[_Wanted] = []
        self._names = list(store.groups)
        self._scores: dict[int, float] = {}
        self._told: dict[int, float] = {}  # of any rank's samples: not to be used before all ranks know
        self._heard_scores = False  # they may not be in the files yet
        self._groups: dict[int, str] = {}
        self.written = 0
        """Up to which exchange everything is in the files that this rank writes."""

    @property
    def groups(self) -> Sequence[str]:
        """The names of the groups, by number; those that only this rank knows so far come last."""
        with self._threads:
            if not self._groups:
                return tuple(self._names)
            return tuple(dict.fromkeys([*self._names, *self._groups.values()]))

    def agreed(self, ids: Any) -> dict[str, NDArray[Any]]:
        """The records of these ids, as every rank knows them: for what all ranks have to decide alike."""
        ids = as_ids(ids)
        with self._threads:
            words = self._words(ids)
            found = fields(words.view(RECORD).ravel()) if len(ids) else self.inner.get(ids)
            if found["group"].max(initial=-1) >= len(self._names):
                self.read_names()  # the user has set groups
            return dict(found)

    def get(self, ids: Any) -> dict[str, NDArray[Any]]:
        """The records of these ids, with what only this rank knows so far; see `WeightStore.get`."""
        ids = as_ids(ids)
        with self._threads:
            found = self.agreed(ids)
            if self._scores:
                _lay(self._scores, ids, found["similarity"])
            if self._groups:
                numbers = {name: number for number, name in enumerate(self.groups)}
                _lay({number: numbers[name] for number, name in self._groups.items()}, ids, found["group"])
            return found

    def update(self, ids: Any, *, similarity: Any) -> None:
        """Scores of samples, which the other ranks will be told."""
        ids = as_ids(ids)
        change = as_change(len(ids), None, None, similarity, None, None)
        assert change.similarity is not None
        with self._threads:
            self._scores.update(zip(ids.tolist(), change.similarity.tolist(), strict=True))

    def pass_on(self, ids: Ids, scores: NDArray[np.float32]) -> None:
        """Scores from elsewhere, of any rank's samples: this rank, too, uses them once all ranks were told."""
        with self._threads:
            self._told.update(zip(ids.tolist(), scores.tolist(), strict=True))

    def set_groups(self, ids: Any, names: Sequence[str]) -> None:
        """Groups of samples, which the other ranks will be told, where they are news."""
        ids = as_ids(ids)
        with self._threads:
            known, all_names = self.get(ids)["group"].tolist(), self.groups
            for number, group, name in zip(ids.tolist(), known, names, strict=True):
                if group < 0 or all_names[group] != name:
                    self._groups[number] = name

    def fill(self, packet: Packet) -> Packet:
        """Put what the others may not know into a packet: scores of its samples, and others a few at a time."""
        with self._threads:
            scores = self._scores
            if self._told:
                scores = dict(islice(self._told.items(), SCORES_AT_ONCE)) | scores
            if scores or self._heard_scores or self.inner.scored:
                mine = np.unique(packet.ids)
                similarity = self.get(mine)["similarity"]
                known = mine[~np.isnan(similarity)]
                told = set(known.tolist())
                rest = list(islice((number for number in scores if number not in told), SCORES_AT_ONCE))
                packet.scored = np.concatenate([known, np.array(rest, np.int64)])
                others = np.array([scores[number] for number in rest], np.float32)
                packet.similarity = np.concatenate([similarity[~np.isnan(similarity)], others])
            if self._groups:
                packet.grouped = np.array(list(self._groups), np.int64)
                packet.groups = list(self._groups.values())
            packet.written = self.written
            return packet

    def learn(self, number: int, packets: Sequence[Packet], mine: int) -> None:
        """Remember scores, groups and candidates passed over, of exchange ``number``."""
        with self._threads:
            own = packets[mine]
            for key, score in zip(own.scored.tolist(), own.similarity.tolist(), strict=True):
                for waiting in (self._scores, self._told):
                    if waiting.get(key) == score:
                        del waiting[key]
            for key, name in zip(own.grouped.tolist(), own.groups, strict=True):
                if self._groups.get(key) == name:
                    del self._groups[key]
            for packet in packets:
                if len(packet.grouped):
                    self._learn_groups(number, packet)
                if len(packet.scored):
                    self._heard_scores = True
                    news = self.agreed(packet.scored)["similarity"] != packet.similarity
                    self._change(number, packet.scored[news], similarity=packet.similarity[news])

    def record(self, number: int, ids: Ids, loss: Any, weight: Any, step: int) -> None:
        """Remember the feedback of all ranks."""
        with self._threads:
            self._change(number, ids, loss=loss, weight=weight, step=step)

    def pass_over(self, number: int, ids: Ids, steps: Ids, remembers: bool) -> None:
        """Remember candidates that were not chosen, of all ranks."""
        with self._threads:
            for step in np.unique(steps).tolist():
                part = ids[steps == step]
                weight = np.zeros(len(part), np.float32) if remembers else None
                self._change(number, part, weight=weight, step=step)

    def settle(self, number: int, packets: Sequence[Packet]) -> None:
        """Exchange ``number`` is over: write what came before it, if it is ours to write; know what was written."""
        with self._threads:
            if self._writes:
                self._write(number - 1)
            else:
                self._later.drop(packets[self.writer].written)

    def write_all(self) -> None:
        """Write what came, at the end or when no rank reads."""
        with self._threads:
            if self._writes and self._wanted:
                self._write(self._wanted[-1].number)

    def not_written(self) -> list[dict[str, Any]]:
        """What came and is not in the files yet, for a state: calls of `WeightStore.update`, or of ``set_groups``."""
        with self._threads:
            return [{"ids": ids.copy(), **self._with_names(values)} for _, ids, values in self._wanted]

    def hold(self) -> list[_Wanted]:
        """Take away what came and is not in the files yet, so that it is not written."""
        with self._threads:
            held, self._wanted = self._wanted, []
            return held

    def put_back(self, held: list[_Wanted]) -> None:
        """Have it written after all."""
        with self._threads:
            self._wanted = held + self._wanted

    def forget(self) -> None:
        """The store has gone back to a state."""
        with self._threads:
            self._later.clear()
            self._wanted = []
            self._scores.clear()
            self._told.clear()
            self._groups.clear()
            self.read_names()

    def read_names(self) -> None:
        """Everything is in the files: the names of the groups are what stands there, whoever wrote them."""
        with self._threads:
            self._names = list(self.inner.groups)

    def bind_scores(self, identity: Any) -> None:
        """Check that scores of this identity may be written; see `WeightStore.bind_scores`."""
        if self._writes:
            self.inner.bind_scores(identity)
        else:
            self.inner.check_scores(identity)

    def check_scores(self, identity: Any) -> None:
        """See `WeightStore.check_scores`."""
        self.inner.check_scores(identity)

    def chunks(self) -> Iterator[tuple[Ids, dict[str, NDArray[Any]]]]:
        """Everything in the files."""
        return self.inner.chunks()

    def stats(self) -> dict[str, float]:
        """See `WeightStore.stats`; where ranks share it, as of the exchange before the latest one."""
        return self.inner.stats()

    def _learn_groups(self, number: int, packet: Packet) -> None:
        for name in packet.groups:
            if name not in self._names:
                self._names.append(name)
        if not self._shared:
            self.inner.set_groups(packet.grouped, packet.groups)
            return
        group = np.array([self._names.index(name) for name in packet.groups], np.int64)
        self._change(number, packet.grouped, group=group)

    def _change(self, number: int, ids: Ids, **values: Any) -> None:
        if not len(ids):
            return
        if not self._shared:
            self._apply(ids, values)
            return
        change = _as_change(len(ids), values)
        distinct, places = np.unique(ids, return_inverse=True)
        words = self._words(distinct)
        change_words(words, places, change)
        self._later.put(number, distinct, words)
        if self._writes:
            self._wanted.append(_Wanted(number, ids, values))

    def _write(self, number: int) -> None:
        """Write the changes up to exchange ``number``."""
        while self._wanted and self._wanted[0].number <= number:
            _, ids, values = self._wanted[0]
            self._apply(ids, values)
            del self._wanted[0]
        self._later.drop(number)
        self.written = number

    def _apply(self, ids: Ids, values: dict[str, Any]) -> None:
        if "loss" in values and not self._shared:
            self.inner.record(ids, values["loss"], values["weight"], step=values["step"])
            return
        if "group" in values:
            self.inner.set_groups(ids, **self._with_names(values))
            return
        self.inner.update(ids, **values)

    def _with_names(self, values: dict[str, Any]) -> dict[str, Any]:
        """Groups by name: the files may not have their numbers yet."""
        return {"names": [self._names[n] for n in values["group"].tolist()]} if "group" in values else values

    def _words(self, ids: Ids) -> Words:
        return words_of(self.inner.records(ids))


def _as_change(count: int, values: dict[str, Any]) -> Change:
    names = ("loss", "weight", "similarity", "group", "step")
    return as_change(count, *(values.get(name) for name in names))


def _lay(news: dict[int, Any], ids: Ids, over: NDArray[Any]) -> None:
    """Replace the values of samples that there is news of, in place."""
    for place, number in enumerate(ids.tolist()):
        value = news.get(number)
        if value is not None:
            over[place] = value
