"""Selection: candidates are drawn, some are chosen and weighed, and the trainer gets a smaller batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weighted_stream.errors import StrategyError
from weighted_stream.signals import Records


@dataclass(frozen=True)
class Candidates:
    """What a selecting strategy chooses from.

    Attributes:
        ids: (n,) int64, on the host.
        batch: the n samples as the loader collated them; not to be written to.
        count: how many to choose, 1 <= count <= n.
        step: how many batches this stream has handed over before this one.
        records: looks ids up in the store, see `WeightStore.get`.
        group_names: tells the names of the groups, see `Signals`.

    Example:
        >>> from weighted_stream import WeightStore
        >>> store, ids = WeightStore(), np.array([5, 6, 7, 8])
        >>> len(Candidates(ids, torch.zeros(4, 3), count=2, step=0, records=store.get))
        4
    """

    ids: NDArray[np.int64]
    batch: Any
    count: int
    step: int
    records: Callable[[NDArray[np.int64]], Records]
    group_names: Callable[[], Sequence[str]] = tuple

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Choice:
    """What a selecting strategy chose.

    Attributes:
        places: (k,) int64, ascending and distinct: where the chosen stand among the candidates. k is
            ``Candidates.count``, unless the method itself says how many are worth it; at least 1.
        weights: (k,) float32, finite, >= 0, detached; by convention they average 1.

    Example:
        >>> choice = Choice(np.array([0, 3]), torch.tensor([0.5, 1.5]))
    """

    places: NDArray[np.int64]
    weights: Tensor


def check_choice(choice: Any, n: int, who: object) -> Choice:
    """The choice, if it is one of n candidates.

    Args:
        choice: what a strategy returned.
        n: the number of candidates.
        who: the strategy, for the message.

    Raises:
        StrategyError: if it is none.
    """
    if not isinstance(choice, Choice):
        raise _no_choice(who, type(choice).__name__, "a Choice(places, weights)")
    places, weights = np.asarray(choice.places), choice.weights
    if places.ndim != 1 or places.dtype.kind not in "iu" or not places.size:
        raise _no_choice(who, f"places of shape {places.shape}, {places.dtype}", "integer places (k,), k at least 1")
    if places[0] < 0 or places[-1] >= n or (np.diff(places) <= 0).any():
        raise _no_choice(who, f"places {places[:8].tolist()} …", f"ascending, distinct places in [0, {n})")
    if not isinstance(weights, Tensor) or weights.shape != places.shape:
        found = f"weights of shape {tuple(weights.shape)}" if isinstance(weights, Tensor) else type(weights).__name__
        raise _no_choice(who, found, f"a tensor of weights ({len(places)},)")
    weights = weights.detach().to(torch.float32)
    if not (bool(weights.isfinite().all()) and weights.min().item() >= 0.0):
        raise _no_choice(who, "weights that are negative or not finite", "finite weights of 0 or more")
    return Choice(places.astype(np.int64), weights)


def cut(batch: Any, places: NDArray[np.int64], n: int) -> Any:
    """A batch of n samples cut to some of them. The batch itself stays as it is.

    - A tensor or array with n rows is cut along its first dimension; one without dimensions stays.
    - A dict or namedtuple is cut field by field, and keeps its class.
    - A list or tuple is cut element by element if all of them can be (`default_collate` makes such lists of samples
      that are tuples); else, if it has n elements, they are the samples (strings, images of different sizes …).
    - Numbers, strings, bytes and None belong to the batch as a whole, and stay.

    Args:
        batch: what a collate function returned.
        places: (k,) int64: which samples.
        n: how many samples the batch holds.

    Raises:
        StrategyError: for anything else, e.g. a tensor with another number of rows: whose they are nobody can say.

    Example:
        >>> batch = {"x": torch.arange(8).reshape(4, 2), "text": ["a", "b", "c", "d"], "scale": 0.5}
        >>> cut(batch, np.array([1, 3]), 4)
        {'x': tensor([[2, 3],
                [6, 7]]), 'text': ['b', 'd'], 'scale': 0.5}
    """
    if _kind(batch, n) == "whole":
        raise _cannot_cut("batch", batch, n)
    return _cut(batch, places, n, "batch")


def _cut(value: Any, places: NDArray[np.int64], n: int, path: str) -> Any:
    kind = _kind(value, n)
    if kind == "whole":
        return value
    if isinstance(value, MutableMapping):
        parts = copy.copy(value)
        for key in list(value):
            parts[key] = _cut(value[key], places, n, f"{path}[{key!r}]")
        return parts
    if isinstance(value, (list, tuple)) and _holds_fields(value, n):
        fields = [_cut(element, places, n, f"{path}[{at}]") for at, element in enumerate(value)]
        return _like(value, fields)
    if kind == "other":
        raise _cannot_cut(path, value, n)
    if isinstance(value, Tensor):
        part = value.index_select(0, torch.from_numpy(places).to(value.device))
        return part.pin_memory() if value.is_pinned() else part
    return value[places] if isinstance(value, np.ndarray) else _like(value, [value[place] for place in places])


def _kind(value: Any, n: int) -> Literal["rows", "whole", "other"]:
    """Whether a value holds something of each of n samples, or belongs to the batch as a whole, or neither."""
    if value is None or isinstance(value, (str, bytes, Number, np.generic)):
        return "whole"
    if isinstance(value, (Tensor, np.ndarray)):
        return "whole" if not value.ndim else "rows" if len(value) == n else "other"
    if isinstance(value, MutableMapping):
        return _of_fields(value.values(), n)
    if not isinstance(value, (list, tuple)):
        return "other"
    if not value or _holds_fields(value, n):
        return _of_fields(value, n)
    return "rows" if len(value) == n else "other"


def _of_fields(fields: Iterable[Any], n: int) -> Literal["rows", "whole", "other"]:
    kinds = {_kind(field, n) for field in fields}
    return "other" if "other" in kinds else "rows" if "rows" in kinds else "whole"


def _holds_fields(value: Sequence[Any], n: int) -> bool:
    """Whether a list or tuple holds the fields of a batch, not its samples."""
    if hasattr(value, "_fields"):
        return True
    kinds = {_kind(element, n) for element in value}
    return kinds != {"whole"} if len(value) != n else "rows" in kinds and "other" not in kinds


def _like(value: Any, elements: list[Any]) -> Any:
    return type(value)(*elements) if hasattr(value, "_fields") else type(value)(elements)


def _cannot_cut(path: str, value: Any, n: int) -> StrategyError:
    if isinstance(value, (Tensor, np.ndarray)):
        found = f"{path}: {type(value).__name__} of shape {tuple(value.shape)}"
    else:
        found = f"{path}: {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, (list, tuple)) else "")
    return StrategyError(
        "Chosen samples cannot be cut out of this batch.",
        found=found,
        expected=f"tensors, arrays or lists with {n} rows, one per candidate, in dicts, tuples and lists",
        do="let the collate_fn keep samples apart along the first dimension; repeat what they share",
    )


def _no_choice(who: object, found: str, expected: str) -> StrategyError:
    return StrategyError(
        f"{who!r} made no choice among its candidates.",
        found=found,
        expected=expected,
        do="mend the strategy's choose()",
    )
