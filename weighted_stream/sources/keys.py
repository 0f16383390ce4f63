"""Ids from inside the sample: a column, a function, and the errors of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias

from weighted_stream.errors import SampleIdError, WeightedStreamError
from weighted_stream.sources.ids import check_id

IdFn: TypeAlias = Callable[[Any], "int | str"]


class Column:
    """An ``id_fn`` that reads one key of the sample; unlike a lambda it pickles.

    Args:
        name: the key, e.g. the name of a column.

    Raises:
        SampleIdError: when called with a sample that has no such key.

    Example:
        >>> Column("uid")({"uid": 7, "text": "a"})
        7
    """

    of: ClassVar[tuple[str, str]] = ("id", "id_fn")
    """What it reads, and the option that it is."""
    error: ClassVar[type[WeightedStreamError]] = SampleIdError

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, sample: Any) -> Any:
        """The value under the key."""
        try:
            return sample[self.name]
        except (KeyError, IndexError, TypeError) as error:
            keys = sorted(map(str, sample)) if isinstance(sample, Mapping) else None
            what, option = self.of
            raise self.error(
                f"The sample has no column {self.name!r} to take its {what} from.",
                found=f"columns {keys}" if keys is not None else f"a {type(sample).__name__}, which has no columns",
                expected=f"a dict with the key {self.name!r}",
                do=f"name a column that every sample has, or pass {option}= a function of the sample",
            ) from error

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def identify(id_fn: IdFn, sample: Any, position: object) -> int:
    """The id that ``id_fn`` gives a sample, checked; errors name the sample by its ``position``.

    Raises:
        SampleIdError: if ``id_fn`` does not find its key, or gives no valid id.
    """
    try:
        return check_id(id_fn(sample), "id_fn")
    except KeyError as error:
        raise SampleIdError(
            "id_fn looked for a key that the sample does not have.",
            found=f"no key {error} in sample {position}",
            expected="a key that every sample has",
            do="use another key, or content_id, which makes an id of the content",
        ) from error
    except SampleIdError as error:
        found = f"{error.found}, in sample {position}"
        raise SampleIdError(error.problem, found=found, expected=error.expected, do=error.do) from error


def by(id_fn: IdFn | None) -> str:
    """How a fingerprint's name tells ids of one origin from ids of another."""
    if id_fn is None:
        return ""
    return f" by column {id_fn.name!r}" if isinstance(id_fn, Column) else " by id_fn"


def no_key(what: str) -> SampleIdError:
    """The error for an iterable dataset without ``id_fn``."""
    return SampleIdError(
        f"The samples of this {what} have no id.",
        found="an iterable dataset without id_fn",
        expected="a key that is the same for the same sample always",
        do="pass id_fn= a column name, a function sample -> int or str, or content_id",
    )
