"""Sample ids: pure, pinned for ever, and of two kinds that never meet."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weighted_stream.errors import SampleIdError
from weighted_stream.sources.ids import (
    DENSE_LIMIT,
    HASHED,
    MAX_ID,
    check_id,
    content_id,
    key_id,
    shard_base,
    shard_id,
)

NAMES = st.text(st.characters(blacklist_characters="\0"), max_size=20)
ROWS = st.integers(0, 1 << 40)
CONTENT = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def test_ids_never_change_between_versions() -> None:
    """A store is worthless once these differ."""
    assert shard_id("train/00003.tar", 7) == 6210058873335709703
    assert shard_id("train/00003.tar", 1 << 20) == 5625853034753949696
    assert key_id("a.tar", "0001") == 8057343621687770367
    assert content_id({"text": "a", "n": [1, 2.5, None]}) == 9148696822103806983


@given(NAMES, ROWS)
def test_every_shard_id_is_hashed_and_fits_int64(shard: str, row: int) -> None:
    assert HASHED <= shard_id(shard, row) <= MAX_ID == np.iinfo(np.int64).max
    assert DENSE_LIMIT <= HASHED


@given(NAMES, ROWS, ROWS)
def test_rows_of_a_shard_differ(shard: str, one: int, other: int) -> None:
    assert (shard_id(shard, one) == shard_id(shard, other)) == (one == other)


@given(NAMES, NAMES, st.integers(0, 1 << 20))
def test_shards_differ(one: str, other: str, row: int) -> None:
    assert (shard_id(one, row) == shard_id(other, row)) == (one == other)


@given(NAMES, st.integers(0, (1 << 20) - 1))
def test_neighbours_in_a_block_are_neighbours_in_id_space(shard: str, row: int) -> None:
    assert shard_id(shard, row) - shard_base(shard) == row


@given(st.lists(NAMES, min_size=1, max_size=3), st.lists(NAMES, min_size=1, max_size=3))
def test_key_ids_know_where_a_part_ends(one: list[str], other: list[str]) -> None:
    assert (key_id(*one) == key_id(*other)) == (one == other)
    assert HASHED <= key_id(*one) <= MAX_ID


@given(CONTENT)
def test_content_id_of_equal_content_is_equal(value: object) -> None:
    again = dict(reversed(list(value.items()))) if isinstance(value, dict) else value
    assert content_id(value) == content_id(again)
    assert HASHED <= content_id(value) <= MAX_ID


@given(CONTENT, CONTENT)
def test_content_id_of_other_content_differs(one: object, other: object) -> None:
    if one != other:
        assert content_id(one) != content_id(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["ab", "c"], ["a", "bc"]),
        ("1", 1),
        (b"a", "a"),
        ({"a": 1}, {"a": "1"}),
        ([[1], 2], [1, [2]]),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (np.arange(3), np.arange(3, 6)),
    ],
)
def test_content_that_looks_alike_differs(one: object, other: object) -> None:
    assert content_id(one) != content_id(other)


def test_content_id_of_arrays() -> None:
    grid = np.arange(12).reshape(3, 4)
    assert content_id(grid.T) == content_id(np.ascontiguousarray(grid.T))
    assert content_id(torch.arange(3)) == content_id(np.arange(3))
    assert content_id(torch.ones(2, requires_grad=True)) == content_id(torch.ones(2))
    assert content_id(np.float64(1.0)) == content_id(1.0)
    half = torch.tensor([1.0, 2.0], dtype=torch.bfloat16)
    assert content_id(half) == content_id(half.clone()) != content_id(half + 1)


def test_key_parts_do_not_run_together() -> None:
    assert len({key_id("a", "b"), key_id("ab", ""), key_id("ab"), key_id("a\0b"), key_id("1:a", "b")}) == 5


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array([object()]), {"a": [object()]}])
def test_content_that_cannot_be_read(value: object) -> None:
    with pytest.raises(SampleIdError, match="id_fn"):
        content_id(value)


@given(st.integers(0, MAX_ID))
def test_an_int_is_its_own_id(value: int) -> None:
    assert check_id(value, "here") == value
    assert check_id(np.int64(value), "here") == value
    assert check_id(torch.tensor(value), "here") == value


@given(st.text())
def test_a_string_is_hashed(value: str) -> None:
    assert check_id(value, "here") == key_id(value)


@pytest.mark.parametrize("value", [-1, MAX_ID + 1, 1.0, None, True, np.True_, b"a", [1], (), torch.tensor([1, 2])])
def test_what_cannot_be_an_id(value: object) -> None:
    with pytest.raises(SampleIdError, match="from the column") as caught:
        check_id(value, "the column")
    assert repr(value) in str(caught.value.found)
    assert type(caught.value.expected) is str
    assert caught.value.do
