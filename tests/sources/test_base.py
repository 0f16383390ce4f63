"""The source interface: fingerprints tell datasets apart, errors survive worker processes."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset, IterableDataset

from weighted_stream.errors import SourceError
from weighted_stream.sources.base import Fingerprint, Source

FINGERPRINTS = st.builds(
    Fingerprint,
    st.sampled_from(["mds", "parquet"]),
    st.sampled_from(["a", "b"]),
    st.none() | st.integers(0, 3),
    st.dictionaries(st.sampled_from("xyz"), st.integers(1, 2)),
)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(0, "a")])


class Plain(Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return index, "a"


class ASource(Source):
    def __init__(self, data: Dataset[Any]) -> None:
        self._data = data

    @property
    def dataset(self) -> Dataset[Any]:
        return self._data

    def fingerprint(self) -> Fingerprint:
        return Fingerprint("a", "b")


@given(FINGERPRINTS)
def test_a_fingerprint_survives_json(one: Fingerprint) -> None:
    assert Fingerprint.from_json(json.loads(json.dumps(one.to_json()))) == one


@given(FINGERPRINTS, FINGERPRINTS)
def test_conflicts_are_mutual(one: Fingerprint, other: Fingerprint) -> None:
    assert one.conflict(one) is None
    assert (one.conflict(other) is None) == (other.conflict(one) is None)


@given(FINGERPRINTS, FINGERPRINTS)
def test_merging_what_does_not_conflict_conflicts_with_neither(one: Fingerprint, other: Fingerprint) -> None:
    if one.conflict(other) is None:
        merged = one.merged(other)
        assert merged.conflict(one) is None
        assert merged.conflict(other) is None
        assert set(merged.shards) == set(one.shards) | set(other.shards)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Fingerprint("mds", "a", 3, {"x": 1}), "kind 'mds' instead of 'parquet'"),
        (Fingerprint("parquet", "b", 3, {"x": 1}), "name 'b' instead of 'a'"),
        (Fingerprint("parquet", "a", 4, {"x": 1}), "size 4 instead of 3"),
        (Fingerprint("parquet", "a", 3, {"x": 2}), "shard 'x' has size 2 instead of 1"),
        (Fingerprint("parquet", "a", 3, {"y": 1}), "no shard in common (for one, 'y')"),
        (Fingerprint("parquet", "a", 3, {"x": 1, "y": 5}), None),
        (Fingerprint("parquet", "a", 3), None),
    ],
)
def test_a_conflict_says_what_differs(other: Fingerprint, said: str | None) -> None:
    assert Fingerprint("parquet", "a", 3, {"x": 1}).conflict(other) == said


def test_a_source_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Source()  # type: ignore[abstract]


def test_defaults_of_a_source() -> None:
    source = ASource(Stream())
    source.set_epoch(1)
    assert source.iterable
    assert not ASource(Plain()).iterable


def test_what_cannot_shuffle_says_so() -> None:
    with pytest.raises(SourceError, match=r"cannot reorder this Stream\.\n  found: .*\n  expected: .*\n  to do: "):
        ASource(Stream()).set_shuffle(0)


def test_errors_pickle_with_their_parts() -> None:
    error = SourceError("Wrong.", found=[1], expected="2", do="count")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is SourceError
    assert (str(again), again.problem, again.found, again.do) == (str(error), "Wrong.", "[1]", "count")
