"""Batches of tokens: every text once, within the budget, hardly padded; prepared ahead."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighted_stream.scoring.token_batches import ahead, pad, token_batches, windows


@given(st.lists(st.integers(0, 40), max_size=120), st.integers(1, 200))
def test_batches_hold_every_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = token_batches(lengths, budget)
    assert sorted(row for rows in batches for row in rows.tolist()) == list(range(len(lengths)))
    sizes = np.array(lengths)
    for rows in batches:
        assert len(rows) * sizes[rows].max() <= budget or len(rows) == 1
    for length in set(lengths):
        if lengths.count(length) * length * 4 >= budget:
            assert all(len(set(sizes[rows])) == 1 for rows in batches if length in sizes[rows]), (
                "a common length padded"
            )


def test_padding_on_either_side() -> None:
    ids, mask = pad([[5, 6], [7], []], value=1, left=True)
    assert ids.tolist() == [[5, 6], [1, 7], [1, 1]]
    assert mask.tolist() == [[1, 1], [0, 1], [0, 0]]


@given(st.integers(0, 70))
def test_windows_grow_and_cover_all(count: int) -> None:
    found = list(windows(count, first=4, largest=16))
    assert [row for window in found for row in range(count)[window]] == list(range(count))
    assert [window.stop - window.start for window in found] == [4, 8, 16, 16, 16, 16][: len(found)]


def test_the_next_is_prepared_while_one_is_used() -> None:
    prepared: list[int] = []
    used = ahead(lambda item: prepared.append(item) or item, range(4))
    assert next(used) == 0
    assert next(used) == 1
    assert prepared[:2] == [0, 1]
    assert len(prepared) <= 3, "not bounded"
    assert list(used) == [2, 3]
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda item: 1 // item, [1, 0]))
