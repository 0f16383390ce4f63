"""Groups: the domain, language or source that a sample says it is of, told where samples are read.

Names travel, numbers do not: workers cannot agree on numbers, so the store of the main process gives them out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import index
from sys import intern
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from weighted_stream.errors import SourceError
from weighted_stream.sources.keys import Column

GroupFn: TypeAlias = Callable[[Any], Any]
"""sample -> str or int; of a batch that a pipeline made itself, a sequence of them, one per sample."""


class SampleGroups(NamedTuple):
    """Which samples are of which groups.

    Attributes:
        ids: (n,) int64.
        names: of their groups, n of them. Equal names are one object, which is sent once.
    """

    ids: NDArray[np.int64]
    names: list[str]


class GroupColumn(Column):
    """A ``group_fn`` that reads one key of the sample; unlike a lambda it pickles.

    Args:
        name: the key, e.g. the name of a column.

    Raises:
        SourceError: when called with a sample that has no such key.

    Example:
        >>> GroupColumn("domain")({"domain": "code", "text": "a"})
        'code'
    """

    of = ("group", "group_fn")
    error = SourceError


def as_group_fn(group_fn: Any) -> GroupFn | None:
    """What the user said, as a function.

    Raises:
        SourceError: if it is neither None, a name nor a function.
    """
    if isinstance(group_fn, str):
        return GroupColumn(group_fn)
    if group_fn is not None and not callable(group_fn):
        raise SourceError(
            "group_fn does not say which group a sample is of.",
            found=repr(group_fn),
            expected="the name of a column, or a function sample -> str or int",
            do='for example group_fn="domain"',
        )
    function: GroupFn | None = group_fn
    return function


def group_name(value: Any) -> str:
    """The name of a group; that of a number is its digits.

    Raises:
        SourceError: for anything but a str or an int.

    Example:
        >>> group_name("code"), group_name(np.int64(3))
        ('code', '3')
    """
    if type(value) is str:
        return intern(value)
    if isinstance(value, str):  # numpy's
        return intern(str(value))
    try:
        number = None if isinstance(value, (bool, np.bool_)) else index(value)
    except TypeError:
        number = None
    if number is None:
        raise SourceError(
            "group_fn gave no group.",
            found=f"{value!r:.100} ({type(value).__name__})",
            expected="a str or an int for every sample",
            do='let it return a name, "other" where there is none',
        )
    return intern(str(number))


def groups_of(group_fn: GroupFn, ids: Any, samples: Any, own_batches: bool = False) -> SampleGroups:
    """The groups of some samples.

    Args:
        group_fn: asked for each sample; for all at once if they come as a batch that the dataset made.
        ids: one int and ``samples`` is that sample; else n of them.
        samples: n of them.
        own_batches: whether the dataset makes its batches itself.

    Raises:
        SourceError: if ``group_fn`` fails to name a group of each sample.

    Example:
        >>> groups_of(GroupColumn("lang"), [4, 7], [{"lang": "de"}, {"lang": "en"}])
        SampleGroups(ids=array([4, 7]), names=['de', 'en'])
        >>> groups_of(GroupColumn("lang"), [4, 7], {"lang": ["de", "en"]}, own_batches=True).names
        ['de', 'en']
    """
    if isinstance(ids, int):
        return SampleGroups(np.array([ids], np.int64), [_name_of(group_fn, samples)])
    array = ids if type(ids) is np.ndarray else np.array(ids, np.int64)
    if _one_by_one(samples, len(array), own_batches):
        return SampleGroups(array, [_name_of(group_fn, sample) for sample in samples])
    values = group_fn(samples)
    values = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != len(array):
        raise SourceError(
            "group_fn did not name one group per sample of a batch that the dataset made itself.",
            found=f"{values!r:.200}",
            expected=f"a sequence of {len(array)} groups",
            do="make group_fn return one group per sample of its batch",
        )
    return SampleGroups(array, [group_name(value) for value in values])


def _one_by_one(samples: Any, count: int, own_batches: bool) -> bool:
    if not isinstance(samples, (list, tuple)) or len(samples) != count:
        return False
    return not own_batches or all(isinstance(sample, Mapping) for sample in samples)


def _name_of(group_fn: GroupFn, sample: Any) -> str:
    try:
        return group_name(group_fn(sample))
    except KeyError as error:
        raise SourceError(
            "group_fn looked for a key that the sample does not have.",
            found=f"no key {error}" + (f" in {sorted(map(str, sample))}" if isinstance(sample, Mapping) else ""),
            expected="a key that every sample has",
            do='use another key, or sample.get(key, "other")',
        ) from error
