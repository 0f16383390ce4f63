"""What a state may hold, and whether one that comes back is whole.

A state is a dict of numbers, strings, None, tensors, and lists and dicts of these: it goes through
``torch.save`` and ``torch.load(weights_only=True)``, and through what checkpoints of trainers are made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weighted_stream.errors import StateError


def check_keys(what: str, state: Any, keys: Iterable[str]) -> None:
    """Raise unless the state is a mapping of exactly these keys.

    Raises:
        StateError: naming what is missing, and what is too much.

    Example:
        >>> check_keys("the ring's state", {"seen": 3}, ["seen"])
    """
    expected = set(keys)
    if isinstance(state, Mapping) and set(state) == expected:
        return
    if isinstance(state, Mapping):
        missing, foreign = sorted(expected - set(state)), sorted(map(str, set(state) - expected))
        found = ", ".join([*(f"no {key!r}" for key in missing), *(f"{key!r} besides" for key in foreign)])
    else:
        found = type(state).__name__
    raise StateError(
        f"This is not {what}.",
        found=found,
        expected=f"a dict of {', '.join(sorted(expected))}" if expected else "nothing: {}",
        do="load what state_dict() of the same kind of object gave, by the same version of the library",
    )


def with_tensors(state: Any) -> Any:
    """A state whose NumPy arrays have become tensors, which ``torch.load(weights_only=True)`` takes.

    Example:
        >>> with_tensors({"ids": np.array([3, 5]), "more": [1, None]})
        {'ids': tensor([3, 5]), 'more': [1, None]}
    """
    if isinstance(state, np.ndarray):
        return torch.from_numpy(state)
    if isinstance(state, Mapping):
        return {key: with_tensors(value) for key, value in state.items()}
    return [with_tensors(value) for value in state] if isinstance(state, list) else state


def with_arrays(state: Any) -> Any:
    """The inverse of `with_tensors`."""
    if isinstance(state, Tensor):
        return state.numpy(force=True)
    if isinstance(state, Mapping):
        return {key: with_arrays(value) for key, value in state.items()}
    return [with_arrays(value) for value in state] if isinstance(state, list) else state


def copied(value: Tensor | None) -> Tensor | None:
    """A tensor of its own, on the host, for a state.

    Example:
        >>> copied(torch.ones(2)), copied(None)
        (tensor([1., 1.]), None)
    """
    return None if value is None else value.detach().to("cpu", copy=True)


def like_state(what: str, value: Any, dims: int) -> Tensor:
    """A tensor from a state, copied to the host, wherever ``torch.load`` has put it.

    Raises:
        StateError: if it is none of so many dimensions.
    """
    if not isinstance(value, Tensor) or value.ndim != dims:
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise StateError(
            f"{what} in this state cannot be.",
            found=found,
            expected=f"a tensor of {dims} dimensions",
            do="load a state that was saved whole",
        )
    return value.detach().to("cpu", copy=True)
