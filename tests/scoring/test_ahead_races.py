"""An epoch that begins while a question is on its way: both ends of the pipe, each with the other end in our hands."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from multiprocessing import Pipe
from typing import Any

import numpy as np
import pytest
from ahead_stand_ins import InThread, ListSource, Numbers, plan

from weighted_stream.scoring.ahead_desk import Desk
from weighted_stream.scoring.ahead_messages import Kind, Line, Message, pack_json, unpack_ids, unpack_json
from weighted_stream.scoring.ahead_reader import Reader, Start
from weighted_stream.store import WeightStore

SECOND = pack_json({"epoch": 1, "shuffle_seed": None})


@pytest.fixture
def ends() -> Iterator[tuple[Line, Line]]:
    here, there = (Line(connection) for connection in Pipe())
    yield here, there
    here.close()
    there.close()


def wanted(line: Line, message: Message, answer: bool) -> None:
    """Answer `Kind.WHICH`."""
    count = len(unpack_ids(message.contents))
    line.send(Kind.WANTED, message.number, np.full(count, answer).tobytes())


def test_the_reader_takes_no_answer_of_the_pass_it_left(ends: tuple[Line, Line]) -> None:
    trainer, scorer = ends
    reader = Reader(ListSource([[1, 2], [3]]), scorer, plan(Numbers()), Start(1, 0, None))
    chunks = reader.chunks()
    thread = threading.Thread(target=lambda: got.extend(chunk.ids for chunk in chunks), daemon=True)
    got: list[list[int]] = []
    thread.start()
    first = trainer.receive()
    assert (first.kind, first.number) == (Kind.WHICH, 1)
    trainer.send(Kind.START, 2, SECOND)  # sent before the question came
    wanted(trainer, first, False)
    second = trainer.receive()
    assert (second.kind, second.number, unpack_ids(second.contents).tolist()) == (Kind.WHICH, 2, [3])
    wanted(trainer, second, True)
    third = trainer.receive()
    assert unpack_ids(third.contents).tolist() == [2, 1]
    wanted(trainer, third, True)
    may = trainer.receive()
    assert (may.kind, may.number) == (Kind.MAY, 2)
    trainer.send(Kind.GO, 1)
    trainer.send(Kind.GO, 2)
    thread.join(10)
    assert [ids for ids in got if ids] == [[3, 2, 1]]
    assert reader.finished == Start(2, 1, None)


def test_the_reader_looks_for_what_is_left_in_the_pass_that_counts(ends: tuple[Line, Line]) -> None:
    trainer, scorer = ends
    reader = Reader(ListSource([[1, 2]]), scorer, plan(Numbers()), Start(1, 0, None))
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(reader.nothing_left()), daemon=True)
    thread.start()
    trainer.receive()
    trainer.send(Kind.START, 2, SECOND)
    again = trainer.receive()
    assert again.number == 2
    wanted(trainer, again, False)
    thread.join(10)
    assert answers == [True]


def test_the_desk_grants_nothing_to_a_pass_that_was_left(ends: tuple[Line, Line]) -> None:
    trainer, scorer = ends
    there, end = Pipe()
    process: Any = InThread(there)  # only to be ended and waited for
    with WeightStore() as store:
        desk = Desk(store, limit=10)
        desk.begin(0, None)
        thread = threading.Thread(target=desk.serve, args=(trainer, process, b"parcel"), daemon=True)
        thread.start()
        scorer.send(Kind.HELLO)
        assert scorer.receive().contents == b"parcel"
        assert scorer.receive().number == 1
        desk.begin(1, 7)
        started = scorer.receive()
        assert (started.kind, started.number) == (Kind.START, 2)
        assert unpack_json(started.contents) == {"epoch": 1, "shuffle_seed": 7}
        desk.begin(1, 7)  # the same once more is no news
        for number, count in ((1, 3), (2, 8)):
            scorer.send(Kind.MAY, number, count.to_bytes(4, "little"))
        go = scorer.receive()
        assert (go.kind, go.number) == (Kind.GO, 2)
        scorer.send(Kind.DONE, 2, pack_json({"epoch": 1}))
        scorer.close()
        end.close()
        thread.join(10)
        assert desk._outstanding == 8
        assert desk.done == 1
        assert desk.error is None
