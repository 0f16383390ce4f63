"""What several trainers know of a sample comes together in the same way, whatever the order; packing loses nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weighted_stream import StoreError
from weighted_stream.sample_ids import MAX_ID
from weighted_stream.store.record import Change, Ids, Words, apply, fields, unusable
from weighted_stream.store.shared_outbox import MOST_REPEATS, MOST_WAITING, Outbox
from weighted_stream.store.shared_records import (
    joined,
    packed_ids,
    packed_records,
    sound,
    unpacked_ids,
    unpacked_records,
)
from weighted_stream.store.shared_scripts import BUCKETS

NUMBERS = st.floats(-(2.0**100), 2.0**100, width=32)
LOSSES = st.one_of(NUMBERS, st.just(float("nan")), st.just(float("inf")))
VISIT = st.tuples(st.one_of(st.none(), LOSSES), st.one_of(st.none(), NUMBERS), st.integers(0, 5))
HISTORY = st.lists(VISIT, max_size=12)


def record(history: list[Any]) -> Words:
    words = np.zeros((1, 8), np.uint32)
    for loss, weight, step in history:
        losses = None if loss is None else np.float32([loss])
        bad = None if losses is None else unusable(losses)
        apply(words, Change(losses, bad, None if weight is None else np.float32([weight]), None, None, step))
    return words


@settings(deadline=None, max_examples=200)
@given(st.lists(HISTORY, min_size=2, max_size=3))
def test_in_whatever_order(histories: list[Any]) -> None:
    records = [record(history) for history in histories]
    outcomes = []
    for order in permutations(range(len(records))):
        known = records[order[0]]
        for number in order[1:]:
            known = joined(known, records[number])
        assert known[0, 7] == 0 or sound(known)
        outcomes.append(known)
    for outcome in outcomes[1:]:
        some, other = (fields(words.view("V32")[:, 0]) for words in (outcome, outcomes[0]))
        np.testing.assert_allclose(some.pop("loss"), other.pop("loss"), rtol=1e-5, atol=1e24)
        np.testing.assert_equal(some, other)
    found = fields(outcomes[0].view("V32")[:, 0])
    each = [fields(words.view("V32")[:, 0]) for words in records]
    assert found["visits"][0] == sum(one["visits"][0] for one in each)
    assert found["nonfinite"][0] == sum(one["nonfinite"][0] for one in each)
    seen = [one for one in each if one["visits"][0]] or each
    assert found["last_step"][0] == max(one["last_step"][0] for one in seen)
    assert np.isnan(found["last_loss"][0]) == (found["visits"][0] == 0)


def test_alone_nothing_changes() -> None:
    words = record([(1.0, 2.0, 3)])
    nothing = np.zeros((1, 8), np.uint32)
    np.testing.assert_array_equal(joined(words, nothing), words)
    np.testing.assert_array_equal(joined(nothing, words), words)


@given(st.lists(st.integers(0, MAX_ID), max_size=50))
def test_ids_come_back(numbers: list[int]) -> None:
    ids = np.array(numbers, np.int64)
    packed, buckets = packed_ids(ids)
    np.testing.assert_array_equal(unpacked_ids(packed, 50), ids)
    assert len(buckets) == 4 * len(numbers)


@pytest.mark.parametrize("step", [1, 64, 2**16, 2**20, 2**40])
def test_ids_are_dealt_out_evenly(step: int) -> None:
    buckets = np.frombuffer(packed_ids(np.arange(100_000) * step)[1], "<u4")
    counts = np.bincount(buckets, minlength=BUCKETS)
    assert counts.max() < 20


@given(st.lists(st.lists(HISTORY.filter(bool), max_size=3), max_size=6))
@settings(deadline=None, max_examples=50)
def test_records_come_back(samples: list[Any]) -> None:
    slots, counts = b"", b""
    for histories in samples:
        counts += len(histories).to_bytes(2, "little")
        slots += b"".join(b"12345678" + packed_records(record(history)) for history in histories)
    found = unpacked_records(len(samples), counts, slots)
    for words, histories in zip(found, samples, strict=True):
        expected = np.zeros((1, 8), np.uint32)
        for history in histories:
            expected = joined(expected, record(history))
        np.testing.assert_array_equal(words, expected[0])


@given(st.integers(0, 3), st.binary(max_size=8), st.binary(max_size=90))
def test_anything_else_is_refused(size: int, counts: bytes, slots: bytes) -> None:
    with contextlib.suppress(StoreError):
        assert unpacked_records(size, counts, slots).shape == (size, 8)


def test_what_cannot_be_a_record() -> None:
    good = record([(1.0, 1.0, 1)])
    assert sound(good)
    for word, value in ((0, 0), (4, 0), (4, 2**31), (5, 5), (7, 0), (3, 0x7FC00000 ^ 0x7F800000)):
        bad = good.copy()
        bad[0, word] = value
        assert not sound(bad), word


def outbox(known: int = 10) -> Outbox:
    return Outbox(lambda: iter([np.arange(known)]), lambda: known)


def test_an_outbox_is_bounded() -> None:
    box = outbox()
    assert len(box) == 0
    for begin in range(0, 2 * MOST_WAITING, 1 << 16):
        box.add(np.arange(begin, begin + (1 << 16)))
    assert len(box) == 10  # everything there is, instead
    box.add(np.array([3]))
    assert box.take(100).tolist() == list(range(10))
    for begin in range(0, MOST_WAITING + 5, 1 << 17):
        box.add(np.arange(begin, begin + (1 << 17)))
        box._collect()
    assert len(box) == 10


def test_an_outbox_keeps_what_comes_again_once() -> None:
    box = outbox()
    for turn in range(220):  # 2.2 million visits of 10,000 samples
        box.add(np.random.default_rng(turn).permutation(10_000))
        assert 10_000 <= len(box) <= MOST_REPEATS + 20_000
    assert len(box._new) < 10
    for number in range(2 * MOST_REPEATS + 10):
        box.add(np.array([number % 7]))
    assert len(box._new) <= MOST_REPEATS + 1
    assert not box.many(10_001)
    assert box.many(10_000)
    assert box.take(20_000).tolist() == list(range(10_000))


def test_an_outbox_is_not_empty_before_everything_has_landed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush that asks at any moment must hear of what is on its way."""
    box, unique, lengths = outbox(), np.unique, []

    def watched(ids: Any) -> Any:
        lengths.append(len(box))
        return unique(ids)

    box.add(np.array([3, 4, 4]))
    monkeypatch.setattr("weighted_stream.store.shared_outbox.np.unique", watched)
    taken = box.take(10)
    assert lengths == [3]
    assert len(box) == 2
    box.sent(b"0", taken)
    box.put_back(taken)
    box.landed()
    assert len(box) == 2
    box.take(10)
    box.landed()
    assert len(box) == 0


def test_an_outbox_that_goes_through_everything_is_not_empty_meanwhile() -> None:
    lengths = []

    def everything() -> Iterator[Ids]:
        lengths.append(len(box))
        yield np.arange(10)
        lengths.append(len(box))

    box = Outbox(everything, lambda: 10)
    box.add_all()
    while box.take(100).size:
        assert len(box) == 10
        box.landed()
    assert lengths == [10, 1]
    assert len(box) == 0


def test_an_outbox_after_a_loss() -> None:
    box = outbox()
    for number in range(5):
        box.sent(b"%d" % number, np.array([number, 100]))
        box.landed()
    assert not box.go_on_after(b"9")
    assert box.go_on_after(b"2")
    assert box.take(10).tolist() == [3, 4, 100]
    box.landed()
    assert box.go_on_after(b"2")
    assert len(box) == 0
