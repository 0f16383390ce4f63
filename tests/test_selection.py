"""Cutting batches to the chosen, and checking choices."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import default_collate

from weighted_stream.errors import StrategyError
from weighted_stream.selection import Choice, check_choice, cut


class Pair(NamedTuple):
    x: Any
    y: Any


# A recipe says how a batch is made of rows; so it also says what the batch of the chosen rows is.
ROWS = ["vector", "matrix", "array", "strings", "numbers", "ragged", "samples"]
WHOLE = ["number", "text", "none", "scalar", "flag"]
MAKE: dict[str, Any] = {
    "vector": lambda rows, n: torch.tensor(rows, dtype=torch.int64),
    "matrix": lambda rows, n: torch.tensor(rows, dtype=torch.float32).reshape(-1, 1) + torch.arange(3.0),
    "array": lambda rows, n: np.array([f"row {row}" for row in rows]),
    "strings": lambda rows, n: [str(row) for row in rows],
    "numbers": lambda rows, n: tuple(rows),
    "ragged": lambda rows, n: [torch.full((n + 1 + row,), row) for row in rows],
    "samples": lambda rows, n: [{"row": row, "tokens": torch.arange(n + 1 + row)} for row in rows],
    "number": lambda rows, n: 0.5,
    "text": lambda rows, n: "en",
    "none": lambda rows, n: None,
    "scalar": lambda rows, n: torch.tensor(3.0),
    "flag": lambda rows, n: np.bool_(True),
}


def make(recipe: Any, rows: list[int], n: int) -> Any:
    """A batch of these rows, which are some of n."""
    if isinstance(recipe, str):
        return MAKE[recipe](rows, n)
    kind, parts = recipe
    made = [make(part, rows, n) for part in parts]
    if kind in (dict, OrderedDict, UserDict):
        return kind({f"key {at}": part for at, part in enumerate(made)})
    return Pair(made[0], made[-1]) if kind is Pair else kind(made)


def nodes(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    kinds = st.sampled_from([dict, OrderedDict, UserDict, list, tuple])
    parts = st.tuples(st.sampled_from(ROWS), st.lists(st.one_of(children, st.sampled_from(WHOLE)), max_size=4))
    several = st.tuples(kinds, parts.map(lambda p: [*p[1], p[0]]))
    return st.one_of(several, st.tuples(st.just(Pair), parts.map(lambda p: [*p[1], p[0]])))


RECIPES = st.recursive(st.sampled_from(ROWS), nodes, max_leaves=8)


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(expected, np.ndarray):
        assert np.array_equal(found, expected)
    elif isinstance(expected, (dict, UserDict)):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


@settings(max_examples=300, deadline=None)
@given(recipe=RECIPES, n=st.integers(1, 7), data=st.data())
def test_cut_gives_the_batch_of_the_chosen(recipe: Any, n: int, data: st.DataObject) -> None:
    places = sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1)))
    batch = make(recipe, list(range(n)), n)
    assert_same(cut(batch, np.array(places), n), make(recipe, places, n))
    assert_same(batch, make(recipe, list(range(n)), n))


def test_cut_follows_default_collate_where_fields_are_as_many_as_samples() -> None:
    samples = [(torch.zeros(2), "a"), (torch.ones(2), "b")]
    x, names = cut(default_collate(samples), np.array([1]), 2)
    assert torch.equal(x, torch.ones(1, 2))
    assert tuple(names) == ("b",)


def test_samples_of_different_sizes_stay_samples_though_one_has_as_many_rows_as_there_are_samples() -> None:
    images = [torch.zeros(5), torch.zeros(3), torch.zeros(4)]
    assert [len(image) for image in cut(images, np.array([1, 2]), 3)] == [3, 4]


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        ({"x": torch.zeros(4), "cu_seqlens": torch.zeros(5)}, "batch['cu_seqlens']: Tensor of shape (5,)"),
        ({"a": [torch.zeros(4), {"b": np.zeros((3, 4))}]}, "batch['a'][1]['b']: ndarray of shape (3, 4)"),
        ([torch.zeros(4), ["a", "b", "c"]], "batch[1]: list of 3"),
        (torch.zeros(3, 4), "batch: Tensor of shape (3, 4)"),
        ({"x": torch.zeros(4), "graph": object()}, "batch['graph']: object"),
        (0.5, "batch: float"),
        ({"lr": 0.1, "name": "x"}, "batch: dict"),
    ],
)
def test_cut_refuses_what_belongs_to_nobody_knows_whom(batch: Any, found: str) -> None:
    with pytest.raises(StrategyError, match="cannot be cut") as caught:
        cut(batch, np.array([0, 2]), 4)
    assert caught.value.found == found


def test_cut_keeps_the_autograd_and_the_type_of_numbers() -> None:
    batch = torch.arange(4.0, requires_grad=True)
    part = cut({"x": batch, "bf16": torch.zeros(4, dtype=torch.bfloat16)}, np.array([1, 3]), 4)
    part["x"].sum().backward()
    assert batch.grad is not None
    assert batch.grad.tolist() == [0, 1, 0, 1]
    assert part["bf16"].dtype is torch.bfloat16


@pytest.mark.parametrize(
    "choice",
    [
        None,
        Choice(np.array([], np.int64), torch.ones(0)),
        Choice(np.array([0.0, 1.0]), torch.ones(2)),  # type: ignore[arg-type]
        Choice(np.array([[0, 1]]), torch.ones(1, 2)),
        Choice(np.array([1, 0]), torch.ones(2)),
        Choice(np.array([1, 1]), torch.ones(2)),
        Choice(np.array([-1, 1]), torch.ones(2)),
        Choice(np.array([0, 4]), torch.ones(2)),
        Choice(np.array([0, 1]), torch.ones(3)),
        Choice(np.array([0, 1]), [1.0, 1.0]),  # type: ignore[arg-type]
        Choice(np.array([0, 1]), torch.tensor([1.0, -0.1])),
        Choice(np.array([0, 1]), torch.tensor([1.0, torch.nan])),
        Choice(np.array([0, 1]), torch.tensor([1.0, torch.inf])),
    ],
)
def test_what_is_no_choice(choice: Any) -> None:
    with pytest.raises(StrategyError, match="'me' made no choice"):
        check_choice(choice, 4, "me")


def test_a_choice_comes_out_detached_in_float32() -> None:
    weights = torch.tensor([0.5, 1.5], dtype=torch.float64, requires_grad=True)
    choice = check_choice(Choice(np.array([0, 3], np.int32), weights), 4, "me")
    assert choice.weights.dtype is torch.float32
    assert not choice.weights.requires_grad
    assert choice.places.dtype == np.int64
