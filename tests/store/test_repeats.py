"""Samples that come again in one call: each in its turn, as by a call for every row."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from weighted_stream.store.record import Change, apply, apply_in_turn, total, unusable
from weighted_stream.store.repeats import repeats_of

PLACES = st.lists(st.integers(0, 6), min_size=1, max_size=40)
USABLE = st.sampled_from([0.0, 0.1, 2.5, 7.25, 3e37])
LOSSES = USABLE | st.sampled_from([float("nan"), float("inf"), 2e38])


@given(PLACES, st.booleans())
def test_every_row_comes_once_and_in_turn(places: list[int], ordered: bool) -> None:
    given_places = np.array(places)
    order = np.argsort(given_places, kind="stable") if ordered else None
    once, rounds, last = repeats_of(given_places, order)
    found: dict[int, list[int]] = {place: [] for place in once.tolist()}
    for rows in rounds:
        for place, row in zip_longest(once[: rows.size].tolist(), rows.tolist()):
            found[place].append(row)
    for place, row in zip_longest(once.tolist(), last.tolist()):
        found[place].append(row)
    assert found == {place: [row for row, one in enumerate(places) if one == place] for place in places}


def test_as_many_rows_as_no_short_integer_counts() -> None:
    once, rounds, last = repeats_of(np.repeat([5, 9], [1, 1 << 15]))
    assert once.tolist() == [9, 5]
    assert len(rounds) == (1 << 15) - 1
    assert last.tolist() == [1 << 15, 0]


def columns(rows: int, draw: Any, losses: st.SearchStrategy[float]) -> Change:
    def some(values: st.SearchStrategy[Any], dtype: Any) -> NDArray[Any] | None:
        return np.array(draw(st.lists(values, min_size=rows, max_size=rows)), dtype) if draw(st.booleans()) else None

    loss = some(losses, np.float32)
    bad = None if loss is None else unusable(loss)
    weight, similarity = some(st.floats(0, 3, width=32), np.float32), some(st.floats(-1, 1, width=32), np.float32)
    return Change(loss, bad, weight, similarity, some(st.integers(0, 3), np.int64), some(st.integers(0, 9), np.uint32))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("losses", [USABLE, LOSSES])
@given(st.data(), st.booleans())
def test_as_a_call_for_every_row(losses: st.SearchStrategy[float], data: st.DataObject, visited: bool) -> None:
    places = np.array(data.draw(PLACES))
    words = np.zeros((7, 8), np.uint32)
    if visited:  # from then on most changes add visits alone
        for loss in np.random.default_rng(0).uniform(1, 2, (3, 7)).astype(np.float32):
            apply(words, Change(loss, None, None, None, None, 0))
    change = columns(places.size, data.draw, losses)
    expected, tallies = words.copy(), []
    for row, place in enumerate(places.tolist()):
        tallies.append(apply(expected[place : place + 1], change.pick(np.array([row]))))
    once, rounds, last = repeats_of(places)
    changed = words[once]
    assert apply_in_turn(changed, change, rounds, last) == total(tallies)
    words[once] = changed
    np.testing.assert_array_equal(words, expected)
