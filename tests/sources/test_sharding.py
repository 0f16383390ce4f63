"""Splitting and shuffling: every row once, shares even, orders from seeds alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighted_stream.errors import SourceError
from weighted_stream.sources.sharding import buffer_shuffle, pieces, replica, share

SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=12)


@given(SIZES, st.integers(1, 9), st.randoms())
def test_readers_read_every_row_once_and_the_same_number(sizes: list[int], readers: int, random: object) -> None:
    rows = np.array(sizes, dtype=np.int64)
    order = np.random.default_rng(len(sizes)).permutation(len(sizes))
    shares = [
        [(group, row) for group, start, stop in pieces(rows, order, part, readers) for row in range(start, stop)]
        for part in range(readers)
    ]
    line = [(int(group), row) for group in order for row in range(sizes[group])]
    assert [item for part in shares for item in part] == line
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.integers(0, 1000), st.integers(1, 8), st.integers(1, 8))
def test_the_readers_of_a_rank_share_what_the_rank_has(total: int, world: int, workers: int) -> None:
    for rank in range(world):
        first, last = rank * workers, (rank + 1) * workers - 1
        edges = share(total, first, world * workers)[0], share(total, last, world * workers)[1]
        assert share(total, rank, world) == edges


@given(SIZES, st.integers(1, 50), st.integers(0, 5))
def test_a_shuffled_stream_has_the_same_items(sizes: list[int], size: int, seed: int) -> None:
    ends = np.cumsum(sizes).tolist()
    blocks = [list(range(end - n, end)) for end, n in zip(ends, sizes, strict=True)]
    one, other = (list(buffer_shuffle(blocks, size, np.random.default_rng(seed))) for _ in range(2))
    assert one == other
    assert sorted(one) == list(range(sum(sizes)))
    # An item leaves after the one that made the buffer overflow has come.
    assert all(item <= position + size for position, item in enumerate(one))


def test_a_buffer_shuffles() -> None:
    items = list(buffer_shuffle([list(range(1000))], 100, np.random.default_rng(0)))
    moved = np.abs(np.array(items) - np.arange(1000))
    assert 40 < moved.mean() < 160
    assert sum(later < earlier for earlier, later in pairwise(items)) > 300


def test_the_rank_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert replica() == (0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert replica() == (1, 3)


@pytest.mark.parametrize(("rank", "world"), [("3", "3"), ("-1", "2"), ("one", "2"), ("1", "")])
def test_an_environment_that_names_no_rank(rank: str, world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(SourceError, match=r"'RANK': '.*'WORLD_SIZE': '"):
        replica()
