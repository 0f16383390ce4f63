"""Going on within an epoch that a sampler of the user's draws: whatever it yields, and whatever tells the ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from resuming import check_resuming, saved, train
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    default_collate,
)

from weighted_stream import StateError, Uniform, WeightedStream

SIZE = 40


class Rows(Dataset[dict[str, int]]):
    """Also of keys that say a size with the row."""

    def __init__(self, size: int = SIZE) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: Any) -> dict[str, int]:
        row = int(key[0] if isinstance(key, tuple) else key)
        return {"marker": row, "uid": 1000 + row}


class Batches(Sampler[Any]):
    """A batch sampler of another kind of batches, in one order."""

    def __init__(self, kind: Callable[[torch.Tensor], Any], size: int = 4) -> None:
        self.kind, self.size = kind, size

    def __iter__(self) -> Iterator[Any]:
        order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(3))
        return iter([self.kind(part) for part in order.split(self.size)])

    def __len__(self) -> int:
        return -(-SIZE // self.size)


class Keys(Sampler[Any]):
    """A sampler of keys that are tuples."""

    def __iter__(self) -> Iterator[Any]:
        return iter([(row, 64) for row in torch.randperm(SIZE, generator=torch.Generator().manual_seed(3)).tolist()])

    def __len__(self) -> int:
        return SIZE


class Unseeded(Sampler[int]):
    """Another order each time."""

    def __init__(self, size: int = SIZE) -> None:
        self.size = size

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng().permutation(self.size).tolist())

    def __len__(self) -> int:
        return self.size


KINDS: dict[str, Callable[[torch.Tensor], Any]] = {
    "list": torch.Tensor.tolist,
    "tuple": tuple,
    "array": torch.Tensor.numpy,
    "tensor": lambda part: part,
    "iterator": lambda part: iter(part.tolist()),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("id_fn", [None, "uid"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_every_kind(kind: str, id_fn: str | None, workers: int) -> None:
    def make() -> WeightedStream:
        return WeightedStream(Rows(), Uniform(), id_fn=id_fn)

    after = [2, 4, 13] if workers else [1, 2, 4, 10, 11, 13]
    assert check_resuming(make, after, batch_sampler=Batches(KINDS[kind]), num_workers=workers) == 20


@pytest.mark.parametrize("kind", KINDS)
def test_batches_that_are_left_in_the_middle_of_one(kind: str) -> None:
    first, second = (WeightedStream(Rows(), Uniform()) for _ in range(2))
    steps = iter(train(first, 1, batch_sampler=Batches(KINDS[kind])))
    seen = [marker for _ in range(3) for marker in next(steps)[0].markers]
    second.load_state_dict(first.state_dict())
    rest = [step.markers for step, _ in train(second, 1, batch_sampler=Batches(KINDS[kind], 8))]
    assert [len(markers) for markers in rest] == [4, 8, 8, 8]
    assert sorted(seen + [marker for markers in rest for marker in markers]) == list(range(SIZE))


def test_keys_that_are_tuples_are_samples() -> None:
    make = lambda: WeightedStream(Rows(), Uniform(), id_fn="uid")  # noqa: E731
    assert check_resuming(make, [1, 4, 10, 12], batch_size=4, sampler=Keys()) == 20


class Opaque:
    """Prints differently in each process."""

    def __init__(self, row: int) -> None:
        self.row = row


class ByKey(Rows):
    """Reads keys that are arrays, tensors or objects."""

    def __getitem__(self, key: Any) -> dict[str, int]:
        return super().__getitem__(key.row if isinstance(key, Opaque) else int(key[0]))


@pytest.mark.parametrize(
    "key",
    [lambda row: np.array([row, 64]), lambda row: torch.tensor([row, 64]), lambda row: (row, "a"), Opaque],
    ids=["array", "tensor", "tuple", "object"],
)
@pytest.mark.parametrize("batched", [False, True])
def test_keys_of_any_kind(key: Callable[[int], Any], batched: bool) -> None:
    def options() -> dict[str, Any]:
        keys = [key(row) for row in torch.randperm(SIZE, generator=torch.Generator().manual_seed(3)).tolist()]
        if batched:
            return {"batch_sampler": [keys[first : first + 4] for first in range(0, SIZE, 4)]}
        return {"sampler": keys, "batch_size": 4}

    first, second = (WeightedStream(ByKey(), Uniform(), id_fn="uid") for _ in range(2))
    steps = iter(train(first, 1, **options()))
    seen = [marker for _ in range(3) for marker in next(steps)[0].markers]
    second.load_state_dict(saved(first.state_dict()))
    seen += [marker for step, _ in train(second, 1, **options()) for marker in step.markers]
    assert sorted(seen) == list(range(SIZE))


def test_slices_without_batching() -> None:
    class Slices(Rows):
        def __getitem__(self, rows: Any) -> Any:
            markers = list(range(SIZE))[rows]  # a list takes a slice, and no list
            return {"marker": torch.tensor(markers), "uid": torch.tensor(markers)}

    def make() -> WeightedStream:
        return WeightedStream(Slices(), Uniform(), id_fn=lambda batch: batch["uid"])

    slices = [slice(first, first + 4) for first in range(0, SIZE, 4)]
    assert check_resuming(make, [1, 4, 10, 12], sampler=slices, batch_size=None) == 20


@pytest.mark.parametrize("id_fn", [None, "uid"])
def test_lists_of_rows_without_batching(id_fn: str | None) -> None:
    """A dataset that takes a list of rows at once."""

    class Several(Rows):
        def __getitem__(self, rows: Any) -> Any:
            return {"marker": torch.tensor(rows), "uid": 1000 + torch.tensor(rows)}

    def make() -> WeightedStream:
        return WeightedStream(Several(), Uniform(), id_fn=None if id_fn is None else lambda batch: batch["uid"])

    options: dict[str, Any] = {"sampler": Batches(KINDS["list"]), "batch_size": None}
    assert check_resuming(make, [1, 4, 10, 12], **options) == 20


PERSISTENT: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "wrapped, global random state": lambda: (
        DataLoader(Rows(), batch_size=8, shuffle=True, num_workers=1, persistent_workers=True),
        {},
    ),
    "wrapped, its own generator": lambda: (
        DataLoader(
            Rows(),
            batch_size=8,
            shuffle=True,
            num_workers=1,
            persistent_workers=True,
            generator=torch.Generator().manual_seed(5),
        ),
        {},
    ),
    "a generator of the user's": lambda: (
        Rows(),
        {
            "batch_size": 8,
            "shuffle": True,
            "num_workers": 1,
            "persistent_workers": True,
            "generator": torch.Generator().manual_seed(5),
        },
    ),
    "a sampler of the user's": lambda: (
        Rows(),
        {
            "batch_size": 8,
            "sampler": RandomSampler(Rows(), generator=torch.Generator().manual_seed(5)),
            "num_workers": 1,
            "persistent_workers": True,
        },
    ),
}


@pytest.mark.parametrize("name", PERSISTENT)
@pytest.mark.parametrize("id_fn", [None, "uid"])
def test_workers_that_are_kept(name: str, id_fn: str | None) -> None:
    """torch asks a generator for their seeds when they begin, so once, and not in each epoch."""

    def run(state: Any, random: torch.Tensor) -> tuple[list[Any], list[Any]]:
        data, options = PERSISTENT[name]()
        torch.set_rng_state(random)
        stream = WeightedStream(data, Uniform(), id_fn=id_fn)
        if state is not None:
            stream.load_state_dict(state)
        loader = stream.loader(**options)
        steps, states = [], []
        while stream._next_epoch < 4 or (stream._unfinished is not None and not stream._unfinished.over):
            for batch, weight in loader:
                weight.resolve(torch.ones(len(weight)))
                steps.append(batch["marker"].tolist())
                states.append((saved(stream.state_dict()), torch.get_rng_state()))
            states[-1] = (saved(stream.state_dict()), torch.get_rng_state())
        return steps, states

    steps, states = run(None, torch.Generator().manual_seed(0).get_state())
    assert len(steps) == 20
    assert steps[:5] != steps[5:10] != steps[10:15]
    for stop in (2, 5, 7, 10, 13):
        rest, later = run(*states[stop - 1])
        assert rest == steps[stop:], stop
        again, _ = run(*later[3])  # and once more
        assert again == steps[stop + 4 :]


@pytest.mark.parametrize("options", [{}, {"id_fn": "uid"}, {"as_dict": True}, {"as_dict": True, "id_fn": "uid"}])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_sampler_that_draws_anew_is_refused(options: dict[str, Any], workers: int) -> None:
    first, second = (WeightedStream(Rows(), Uniform(), **options) for _ in range(2))
    arguments: dict[str, Any] = {"batch_size": 4, "num_workers": workers}
    begun = iter(first.loader(sampler=Unseeded(), **arguments))
    for _ in range(3):
        next(begun)
    second.load_state_dict(saved(first.state_dict()))
    with pytest.raises(StateError, match="does not draw again"):
        next(iter(second.loader(sampler=Unseeded(), **arguments)))
    with pytest.raises(StateError, match="does not draw again"):
        next(iter(second.loader(sampler=list(range(3)), **arguments)))


def test_a_dataset_that_has_grown_is_in_another_order() -> None:
    first, second = (WeightedStream(Rows(size), Uniform(), id_fn="uid") for size in (SIZE, SIZE + 4))
    next(iter(first.loader(batch_size=4, shuffle=True)))
    second.load_state_dict(first.state_dict())
    with pytest.raises(StateError, match="does not draw again"):
        next(iter(second.loader(batch_size=4, shuffle=True)))


def keep_some(samples: list[dict[str, int]]) -> Any:
    return default_collate([sample for sample in samples if sample["marker"] % 4])


@pytest.mark.parametrize("by", ["sampler", "batch_sampler"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("id_fn", [None, "uid"])
def test_a_collate_function_that_leaves_samples_out(by: str, workers: int, id_fn: str | None) -> None:
    def rest(stream: WeightedStream, stop: int | None = None) -> list[int]:
        sampler = RandomSampler(Rows(), generator=torch.Generator().manual_seed(3))
        how: dict[str, Any] = {"sampler": sampler, "batch_size": 7}
        if by == "batch_sampler":
            how = {"batch_sampler": BatchSampler(sampler, 7, False)}
        seen: list[int] = []
        for number, batch in enumerate(stream.loader(collate_fn=keep_some, num_workers=workers, **how), 1):
            seen += batch["marker"].tolist()
            if number == stop:
                break
        return seen

    for stop in (2, 5):
        first, second, third = (WeightedStream(Rows(), Uniform(), as_dict=True, id_fn=id_fn) for _ in range(3))
        seen = rest(first, stop)
        second.load_state_dict(saved(first.state_dict()))
        seen += rest(second, 1 if stop == 2 else None)
        third.load_state_dict(saved(second.state_dict()))
        if stop == 2:
            seen += rest(third)
        assert sorted(seen) == [row for row in range(SIZE) if row % 4]


class Slow(Rows):
    """One sample in eight takes long."""

    def __getitem__(self, key: Any) -> dict[str, int]:
        if key % 8 == 0:
            torch.utils.data.get_worker_info() and __import__("time").sleep(0.1)
        return super().__getitem__(key)


def test_batches_out_of_order_are_left_out_of_the_rest() -> None:
    pytest.importorskip("torch", minversion="2.6")
    options: dict[str, Any] = {"batch_size": 2, "num_workers": 2, "in_order": False}
    first, second = (WeightedStream(Slow(), Uniform()) for _ in range(2))
    steps = iter(train(first, 1, **options))
    seen = [marker for _ in range(5) for marker in next(steps)[0].markers]
    assert seen != list(range(10))
    second.load_state_dict(saved(first.state_dict()))
    seen += [marker for step, _ in train(second, 1, batch_size=2) for marker in step.markers]
    assert sorted(seen) == list(range(SIZE))
    unknown = WeightedStream(Slow(), Uniform(), id_fn="uid")
    next(iter(train(unknown, 1, **options)))
    again = WeightedStream(Slow(), Uniform(), id_fn="uid")
    again.load_state_dict(saved(unknown.state_dict()))
    with pytest.raises(StateError, match="in another order"):
        next(iter(again.loader(**options)))


def test_a_subset_that_repeats_rows_on_other_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> WeightedStream:
        return WeightedStream(Subset(Rows(10), [*range(10), *range(10)]), Uniform())

    def ranked(rank: int, ranks: int) -> dict[str, Any]:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(ranks))
        return {"batch_size": 2, "sampler": range(rank, 20, ranks)}

    first, second = make(), make()
    steps = iter(train(first, 1, **ranked(0, 2)))
    seen = [marker for _ in range(2) for marker in next(steps)[0].markers]
    second.load_state_dict(saved(first.state_dict()))
    with pytest.warns(RuntimeWarning, match="left out of the rest once"):
        rest = [marker for step, _ in train(second, 1, **ranked(0, 1)) for marker in step.markers]
    assert Counter(seen + rest) == Counter([*range(10), *range(10)])


def test_the_samplers_of_a_loader_are_the_users() -> None:
    sampler = SequentialSampler(Rows())
    batches = BatchSampler(sampler, 4, False)
    stream = WeightedStream(Rows(), Uniform(), id_fn="uid")
    assert stream.loader(batch_size=4, sampler=sampler).sampler is sampler
    assert stream.loader(batch_sampler=batches).batch_sampler is batches
    assert len(stream.loader(batch_sampler=batches)) == 10
