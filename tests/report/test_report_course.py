"""The course of a run and the accounts of its samples, against sums that anybody can follow."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighted_stream.report.course import TENTHS, Course, loss_by_tenth
from weighted_stream.report.feed import Block
from weighted_stream.report.ledger import Ledger
from weighted_stream.report.steps import Intervals

STEPS, BATCH, IDS, GROUPS, SHARDS = 90, 16, 40, 3, 4


def blocks(seed: int, first: int = 100) -> list[Block]:
    """Feedback of several steps each, some of it without loss or weight."""
    rng = np.random.default_rng(seed)
    steps = np.repeat(np.arange(first, first + STEPS), BATCH)
    ids = rng.integers(0, IDS, len(steps))
    losses = rng.uniform(0, 5, len(steps)).astype(np.float32)
    weights = rng.uniform(0, 2, len(steps)).astype(np.float32).round(1)
    losses[rng.random(len(steps)) < 0.1] = np.nan
    weights[rng.random(len(steps)) < 0.1] = np.nan
    cuts = [0, 100, 777, len(steps)]
    parts = itertools.pairwise(cuts)
    passed = rng.random(len(steps)) < 0.2
    losses[passed], weights[passed] = np.nan, 0
    return [Block(steps[a:b], ids[a:b], losses[a:b], weights[a:b], 0, passed[a:b]) for a, b in parts]


def group(ids: np.ndarray) -> np.ndarray:
    return ids % (GROUPS + 1) - 1


def shard(ids: np.ndarray) -> np.ndarray:
    return ids % (SHARDS + 1) - 1


def course_of(some: list[Block]) -> Course:
    rows = sum(len(block.ids) for block in some)
    course = Course(Intervals.over(100, 100 + STEPS - 1, rows), GROUPS, SHARDS)
    for block in some:
        course.add(block, group(block.ids), shard(block.ids))
    return course


def rows_of(some: list[Block]) -> list[tuple[int, int, float, float, bool]]:
    columns = [(*block[:4], block.passed) for block in some]
    return [row for parts in columns for row in zip(*(column.tolist() for column in parts), strict=True)]


@pytest.mark.parametrize("seed", range(3))
def test_sums_and_quantiles(seed: int) -> None:
    some = blocks(seed)
    course, rows = course_of(some), rows_of(some)
    intervals = course.intervals
    assert intervals.parts == STEPS * BATCH // 200
    begins = [*intervals.begins(), 100 + STEPS]
    mean, weighted = course.loss_means()
    for at, (begin, end) in enumerate(itertools.pairwise(begins)):
        mine = [row for row in rows if begin <= row[0] < end]
        losses = [loss for _, _, loss, *_ in mine if loss == loss]
        both = [(loss, weight) for _, _, loss, weight, _ in mine if loss == loss and weight == weight]
        weights = [weight for _, _, _, weight, _ in mine if weight == weight]
        assert mean[at] == pytest.approx(np.mean(losses))
        assert weighted[at] == pytest.approx(sum(loss * w for loss, w in both) / sum(w for _, w in both))
        assert course.weight_quantiles((0.25, 0.9))[at] == pytest.approx(np.quantile([w for _, w in both], [0.25, 0.9]))
        assert course.loss_quantiles((0.5,))[at] == pytest.approx(np.quantile([loss for loss, _ in both], [0.5]))
        for number in range(-1, GROUPS):
            of = [row for row in mine if group(np.array(row[1])) == number]
            assert course.groups[0, at, number] == pytest.approx(sum(row[3] for row in of if row[3] == row[3]))
            assert course.groups[1, at, number] == sum(row[3] == row[3] for row in of)
            alike = [row[2] for row in of if row[2] == row[2] and row[3] == row[3]]
            alike = alike if len(alike) >= 20 else [loss for loss, _ in both]
            assert course.group_medians()[at, number] == pytest.approx(np.median(alike))
        assert course.shard_weights is not None
        assert course.shard_weights[at].sum() == pytest.approx(sum(weights))
    shares = []
    for step in range(100, 100 + STEPS):
        weights = [weight for at, *_, weight, passed in rows if at == step and weight == weight and not passed]
        shares.append(sum(weights) ** 2 / (len(weights) * sum(w * w for w in weights)))
    assert course.ess() == pytest.approx(shares)
    every = [weight for *_, weight, passed in rows if weight == weight and not passed]
    assert course.ess_of_all() == pytest.approx(sum(every) ** 2 / (len(every) * sum(w * w for w in every)))
    count, average, variation = course.moments()
    assert (count, average) == (len(every), pytest.approx(np.mean(every)))
    assert variation == pytest.approx(np.std(every) / np.mean(every))
    assert course.zero == sum(weight == 0 for weight in every)
    assert course.passed == sum(row[4] for row in rows) > 0
    assert course.visits == sum(row[2] == row[2] for row in rows)
    assert not course.drawn


@pytest.mark.parametrize("seed", range(3))
def test_accounts(seed: int) -> None:
    some = blocks(seed)
    course, rows = course_of(some), rows_of(some)
    wanted = np.arange(0, IDS + 5, 2)  # some of them, and some that never came
    ledger = Ledger(wanted, course)
    for block in some:
        ledger.add(block, group(block.ids))
    account = ledger.account()
    high, alike = course.loss_quantiles((0.9,))[:, 0], course.group_medians()
    for place, key in enumerate(wanted.tolist()):
        mine = [row for row in rows if row[1] == key]
        weights = [weight for *_, weight, _ in mine if weight == weight]
        losses = [(int(course.intervals.of(np.array([step]))[0]), loss) for step, _, loss, *_ in mine if loss == loss]
        assert account.weights[place] == len(weights)
        assert account.visits[place] == len(losses)
        if not losses:
            assert np.isnan([account.weight[place], account.first[place], account.last[place]]).all()
            continue
        assert account.weight[place] == pytest.approx(np.mean(weights))
        assert account.first[place] == pytest.approx(losses[0][1])
        assert account.last[place] == pytest.approx(losses[-1][1])
        number = int(group(np.array(key)))
        assert account.first_alike[place] == pytest.approx(alike[losses[0][0], number])
        assert account.last_alike[place] == pytest.approx(alike[losses[-1][0], number])
        assert account.high[place] == sum(loss >= high[at] for at, loss in losses)


def test_visits_without_a_weight_count_for_no_group() -> None:
    ones, none = np.ones(40, np.float32), np.full(40, np.nan, np.float32)
    course = Course(Intervals.over(0, 1, 80), GROUPS, SHARDS)
    for step, weights in enumerate((none, ones)):
        groups = np.repeat([0, step], 20)
        no = np.zeros(40, bool)
        course.add(Block(np.full(40, step), np.arange(40), ones, weights, 0, no), groups, np.full(40, -1))
    assert course.groups[:, :, :2].sum(axis=1).tolist() == [[20, 20], [20, 20]]


def test_losses_that_are_nearly_all_the_same_are_not_high() -> None:
    losses = np.zeros(40, np.float32)
    losses[7] = 2
    block = Block(np.zeros(40, np.int64), np.arange(40), losses, losses, 0, np.zeros(40, bool))
    course = Course(Intervals.over(0, 0, 40), GROUPS, SHARDS)
    course.add(block, np.full(40, -1), np.full(40, -1))
    ledger = Ledger(np.arange(40), course)
    ledger.add(block, np.full(40, -1))
    assert np.flatnonzero(ledger.account().high).tolist() == [7]


@given(st.lists(st.tuples(st.floats(0, 9), st.sampled_from([0.5, 1.0, 2.0])), min_size=TENTHS, max_size=50))
def test_tenths_average_to_the_mean_where_they_are_equal(pairs: list[tuple[float, float]]) -> None:
    pairs = pairs[: len(pairs) // TENTHS * TENTHS]
    losses, weights = np.array(pairs).T
    tenths = loss_by_tenth(losses, weights)
    if len(set(weights.tolist())) < 2:
        assert np.isnan(tenths).all()
        return
    assert tenths.mean() == pytest.approx(losses.mean())
    # The order of samples of one weight says nothing.
    assert loss_by_tenth(losses[::-1], weights[::-1]) == pytest.approx(tenths)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**8))
def test_intervals_cover_all_steps_in_order(first: int, more: int, rows: int) -> None:
    intervals = Intervals.over(first, first + more, rows)
    begins = np.array(intervals.begins())
    assert intervals.of(begins).tolist() == list(range(intervals.parts))
    assert intervals.of(begins[1:] - 1).tolist() == list(range(intervals.parts - 1))
    assert intervals.of(np.array([first, first + more])).tolist() == [0, intervals.parts - 1]
