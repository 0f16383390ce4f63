"""In the scorer's process: a thread that reads the parts of a dataset, ahead of the encoder."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress, islice
from queue import Queue
from typing import Any, NamedTuple

import numpy as np

from weighted_stream.errors import SourceError
from weighted_stream.scoring.ahead_faults import describe, unreadable
from weighted_stream.scoring.ahead_messages import MOST, Gone, Ids, Kind, Line, Mask, Message, unpack_json
from weighted_stream.scoring.base import ScoringPlan
from weighted_stream.sources.base import Source
from weighted_stream.sources.parts import Part

FIRST = 256
"""Samples of the first chunks, until it is known how long one takes."""


class Start(NamedTuple):
    """A pass over the dataset: its number, and the order of the epoch."""

    number: int
    epoch: int
    shuffle_seed: int | None

    @classmethod
    def of(cls, message: Message) -> Start:
        """As the trainer sent it."""
        return cls(message.number, **unpack_json(message.contents))


class _Leave(Exception):
    """The trainer has begun another epoch: leave this pass for that one."""

    def __init__(self, start: Start) -> None:
        self.start = start


@dataclass
class Chunk:
    """Samples that are scored in one go.

    Attributes:
        ids: of the samples.
        samples: as many.
        shards: the parts they are from.
        ended: the parts that end here, each with what was wrong with it, or None.
    """

    ids: list[int] = field(default_factory=list)
    samples: list[Any] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    ended: list[tuple[str, str | None]] = field(default_factory=list)

    def add(self, number: int, sample: Any, shard: str) -> None:
        """One more sample."""
        self.ids.append(number)
        self.samples.append(sample)
        if not self.shards or self.shards[-1] != shard:
            self.shards.append(shard)


class Reader:
    """Reads what has no score yet, one chunk ahead of the encoder, and asks the trainer before it hands a chunk over.

    In memory are at most four chunks: one being read, one that waits for the trainer or the encoder, one taken and one
    whose scores are on their way.

    Args:
        source: the dataset.
        line: to the trainer; only this thread receives from now on.
        plan: how far ahead, and what to do about unreadable shards.
        start: the pass to begin with.
    """

    def __init__(self, source: Source, line: Line, plan: ScoringPlan, start: Start) -> None:
        self._source, self._line, self._start = source, line, start
        self._skip = plan.on_bad_shard == "skip"
        self._most = max(1, min(MOST, plan.ahead // 2))
        self._size = min(FIRST, self._most)
        self._chunk = Chunk()
        self._ready: Queue[Chunk | Start | BaseException] = Queue(maxsize=1)
        # Ids handed over last: the scores of two chunks may still be on their way.
        self._last: deque[Ids] = deque(maxlen=3)
        self._thread = threading.Thread(target=self._run, name="weighted_stream reader", daemon=True)

    def nothing_left(self) -> bool:
        """Whether all samples are known to have a score, without reading any; to be asked before `chunks`."""
        while True:
            try:
                known = (part.ids() for part in self._source.parts(self._start.shuffle_seed))
                return not any(ids is None or self._which(ids).any() for ids in known)
            except _Leave as leave:
                self._start = leave.start
            except SourceError:
                return False

    def chunks(self) -> Iterator[Chunk]:
        """All of the dataset that has no score yet; in the end `finished` is the pass it was.

        The scores of a chunk have to be sent before the next is taken.

        Raises:
            SourceError: for an unreadable shard, unless it is to be skipped.
            Gone: if the trainer is gone.
        """
        self._thread.start()
        while not isinstance(item := self._ready.get(), Start):
            if isinstance(item, BaseException):
                raise item
            yield item
        self.finished = item

    def adapt(self, count: int, seconds: float) -> None:
        """Make chunks that take about a second, so that scores come steadily and little is lost with the process."""
        fitting = round(count / max(seconds, 1e-6))
        self._size = max(1, min(self._most, 2 * self._size, max(fitting, 32)))

    def _run(self) -> None:
        try:
            while True:
                try:
                    self._pass(self._start)
                    break
                except _Leave as leave:
                    self._start, self._chunk = leave.start, Chunk()
            self._ready.put(self._start)
        except BaseException as error:
            self._ready.put(error)

    def _pass(self, start: Start) -> None:
        self._source.set_epoch(start.epoch)
        for part in self._source.parts(start.shuffle_seed):
            fault = None
            try:
                for number, sample in self._unscored(part):
                    self._chunk.add(number, sample, part.name)
                    if len(self._chunk.ids) >= self._size:
                        self._hand_over()
            except (Gone, _Leave):
                raise
            except Exception as error:
                named = unreadable(part.name, error)
                if not self._skip:
                    raise named from error
                fault = describe(named)["problem"]
            self._chunk.ended.append((part.name, fault))
            if not self._chunk.ids:
                self._hand_over()
        self._hand_over()

    def _hand_over(self) -> None:
        chunk, self._chunk = self._chunk, Chunk()
        if chunk.ids:
            self._ask(Kind.MAY, len(chunk.ids).to_bytes(4, "little"), Kind.GO)
            self._last.append(np.array(chunk.ids, np.int64))
        self._ready.put(chunk)

    def _unscored(self, part: Part) -> Iterator[tuple[int, Any]]:
        """What of a part is to be scored; a part that knows its ids is not read where there is nothing."""
        ids = part.ids()
        if ids is not None:
            wanted = self._which(ids)
            if wanted.any():
                yield from part.read(wanted)
            return
        for batch in batches(part.read(), self._size):
            yield from compress(batch, self._which(np.array([number for number, _ in batch], np.int64)))

    def _which(self, ids: Ids) -> Mask:
        """Which of these have no score, and none on its way; of an id that comes twice the first."""
        coming = np.concatenate([np.array(self._chunk.ids, np.int64), *self._last])
        answers = [
            np.frombuffer(self._ask(Kind.WHICH, ids[start : start + MOST].tobytes(), Kind.WANTED), np.bool_)
            for start in range(0, len(ids), MOST)
        ]
        first = np.zeros(len(ids), np.bool_)
        first[np.unique(ids, return_index=True)[1]] = True
        unscored: Mask = first & np.concatenate([np.zeros(0, np.bool_), *answers]) & ~np.isin(ids, coming)
        return unscored

    def _ask(self, kind: Kind, contents: bytes, awaited: Kind) -> bytes:
        """Ask the trainer; an answer that belongs to a pass that was left is not one."""
        self._line.send(kind, self._start.number, contents)
        while True:
            answer = self._line.receive()
            if answer.kind is Kind.START:
                raise _Leave(Start.of(answer))
            if answer.kind is awaited and answer.number == self._start.number:
                return answer.contents


def batches(pairs: Iterator[tuple[int, Any]], size: int) -> Iterator[Sequence[tuple[int, Any]]]:
    """Pairs in lists of ``size``; if reading fails, what was read comes first, and then the error."""
    failure: Exception | None = None
    while failure is None:
        batch: list[tuple[int, Any]] = []
        try:
            for pair in islice(pairs, size):
                batch.append(pair)
        except Exception as error:
            failure = error
        if batch:
            yield batch
        if failure is None and len(batch) < size:
            return
    raise failure
