"""Which sample a stage made another one of: the rules of `follow`, on plain lists."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import pytest
import webdataset as wds

from weighted_stream.errors import SourceError
from weighted_stream.sources.tracking import as_list, follow, stage_name


def through(*stages: Any, samples: Iterable[Any] = range(100)) -> Iterator[tuple[Any, Any]]:
    """Sample ``n`` is ``(n,)`` with id ``n``."""
    return follow(((n, (n,)) for n in samples), stages, wds.DataPipeline().invoke)


def holds_the_first(samples: Iterator[Any]) -> Iterator[Any]:
    held = next(samples)
    yield next(samples)
    next(samples)
    yield (held[0], "new")


def holds_the_first_and_names_another(samples: Iterator[Any]) -> Iterator[Any]:
    held = next(samples)
    yield {"own": 50}
    next(samples)
    yield (held[0], "new")


def holds_the_first_for_long(samples: Iterator[Any]) -> Iterator[Any]:
    held = next(samples)
    yield from list(islice(samples, 64))
    next(samples)
    yield (held[0], "new")


def sums(samples: Iterator[Any]) -> Iterator[Any]:
    for (one,), (other,) in zip(samples, samples, strict=True):
        yield (one + other, "new")


@pytest.mark.parametrize(
    ("stage", "right"),
    [
        (holds_the_first, [(1, (1,))]),
        (holds_the_first_and_names_another, [(50, {"own": 50})]),
        (holds_the_first_for_long, [(n, (n,)) for n in range(1, 65)]),
        (sums, []),
    ],
)
def test_what_a_stage_may_have_held_back_is_not_guessed(
    stage: Callable[..., Any], right: list[tuple[int, Any]]
) -> None:
    def own_id(sample: Any) -> int | None:
        return sample.get("own") if isinstance(sample, dict) else None

    found: list[Any] = []
    with pytest.raises(SourceError, match=f"the pipeline's stage test_tracking.{stage.__name__}"):
        found.extend(follow(((n, (n,)) for n in range(100)), [stage], wds.DataPipeline().invoke, own_id))
    assert found == right


def test_equal_numbers_are_not_taken_for_one_sample() -> None:
    def one_more(numbers: Iterator[int]) -> Iterator[int]:
        first, _ = next(numbers), next(numbers)
        yield first + 1

    with pytest.raises(SourceError, match="one_more"):
        list(follow(enumerate([7, 8]), [one_more], wds.DataPipeline().invoke))


def test_one_object_that_stands_for_two_samples_is_none_of_them() -> None:
    shared = ("constant",)

    def later(samples: Iterator[Any]) -> Iterator[Any]:
        everything = list(samples)
        yield everything[0]

    with pytest.raises(SourceError, match="later"):
        list(follow(iter([(1, shared), (2, shared)]), [later], wds.DataPipeline().invoke))


def test_a_filter_does_not_keep_what_it_drops_alive() -> None:
    class Sample(dict[str, int]):
        """A dict that can be referred to weakly."""

    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    Sample.__hash__ = object.__hash__  # type: ignore[assignment]

    def samples() -> Iterator[tuple[int, Any]]:
        for n in range(1000):
            sample = Sample(n=n)
            alive.add(sample)
            yield n, sample

    def thousandth(samples: Iterator[Any]) -> Iterator[Any]:
        for sample in samples:
            assert len(alive) < 100
            if sample["n"] == 999:
                yield sample

    assert list(follow(samples(), [thousandth], wds.DataPipeline().invoke)) == [(999, {"n": 999})]


@pytest.mark.parametrize("batches", [[([1, 2, 3], [1, 2])], [([1, 2], [1, 2, 3])], [([1, 2], [1]), ([3], [3])]])
def test_unbatched_gives_out_as_many_samples_as_ids(batches: list[Any]) -> None:
    unlisted = wds.FluidWrapper([]).unlisted().pipeline[-1]
    with pytest.raises(SourceError, match="_unlisted"):
        list(follow(iter(batches), [unlisted], wds.DataPipeline().invoke))


def test_several_stages_in_a_row() -> None:
    stages = [wds.map(lambda sample: sample), wds.shuffle(9, seed=1), holds_nothing, wds.select(lambda s: s[0] % 2)]
    found = list(through(*stages))
    assert sorted(found) == [(n, (n, "new")) for n in range(1, 100, 2)]


def holds_nothing(samples: Iterator[Any]) -> Iterator[Any]:
    return ((*sample, "new") for sample in samples)


def test_names_of_stages() -> None:
    assert stage_name(wds.map(len)) == "webdataset.filters._map"
    assert stage_name(wds.detshuffle()) == "webdataset.filters.detshuffle"
    assert stage_name(wds.split_by_node) == "webdataset.shardlists.split_by_node"
    assert stage_name(wds.slice(3)) == "itertools.islice"


def test_ids_as_a_list() -> None:
    import numpy as np

    assert as_list(np.array([1, 2])) == as_list([1, 2]) == as_list((1, 2)) == [1, 2]
    assert as_list(3) == as_list(np.int64(3)) == as_list(np.array([3])) == [3]
