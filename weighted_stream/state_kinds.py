"""Whether everything in the state of a stream is of the kind that was put there: what a damaged checkpoint is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from weighted_stream.errors import StateError
from weighted_stream.state import check_keys

Kind: TypeAlias = "Callable[[str, Any], None] | dict[str, Any]"
_LARGEST = 1 << 62


def check_kinds(state: Mapping[str, Any]) -> None:
    """Raise unless each value is of its kind.

    Args:
        state: of a stream, of the right version.

    Raises:
        StateError: naming the first that is not.
    """
    _check("state", state, _STREAM)


def _check(where: str, value: Any, kind: Kind) -> None:
    if isinstance(kind, dict):
        what = where.rpartition("[")[2].strip("]'")
        check_keys(f"a {what}", value, kind)
        for name, inner in kind.items():
            _check(f"{where}[{name!r}]", value[name], inner)
    else:
        kind(where, value)


def _is(expected: str, fits: Callable[[Any], bool]) -> Callable[[str, Any], None]:
    def check(where: str, value: Any) -> None:
        if not fits(value):
            raise StateError(
                f"This is not the state of a stream, or it is damaged: its {where} cannot be.",
                found=f"{type(value).__name__} {str(value)[:60]}".strip(),
                expected=expected,
                do="load what state_dict() gave, as torch.load(..., weights_only=True) gives it back",
            )

    return check


def _or_none(kind: Kind) -> Callable[[str, Any], None]:
    return lambda where, value: None if value is None else _check(where, value, kind)


def _list_of(kind: Kind) -> Callable[[str, Any], None]:
    def check(where: str, value: Any) -> None:
        _is("a list", lambda value: isinstance(value, Sequence) and not isinstance(value, str))(where, value)
        for place, item in enumerate(value):
            _check(f"{where}[{place}]", item, kind)

    return check


def _dict_of(kind: Kind) -> Callable[[str, Any], None]:
    def check(where: str, value: Any) -> None:
        _a_dict(where, value)
        for name, item in value.items():
            _text(where, name)
            _check(f"{where}[{name!r}]", item, kind)

    return check


_a_dict = _is("a dict", lambda value: isinstance(value, Mapping))
_text = _is("a text", lambda value: isinstance(value, str))
_flag = _is("True or False", lambda value: isinstance(value, bool))
_tensor = _is("a tensor", lambda value: isinstance(value, Tensor))
_count = _is("an integer from 0", lambda value: type(value) is int and 0 <= value < _LARGEST)
_place = _is("an integer from 0, or a flag", lambda value: isinstance(value, int) and 0 <= value < _LARGEST)

_LAYOUT = {
    "loader": _text,
    "batch_size": _or_none(_is("an integer from 1", lambda value: type(value) is int and 0 < value < _LARGEST)),
    "drop_last": _flag,
    "workers": _count,
    "shuffle": _flag,
    "seed": _count,
    "rank": _count,
    "ranks": _count,
    "in_order": _flag,
}
_POSITION = {
    "epoch": _count,
    "layout": _LAYOUT,
    "first_step": _count,
    "random": _list_of(_tensor),
    "drawn": _count,
    "samples": _count,
    "batches": _count,
    "digest": _count,
    "filtered": _or_none(_count),
    "over": _flag,
    "kept_workers": _flag,
    "places": _list_of(_list_of(_place)),
}
_STREAM = {
    "version": _count,
    "dataset": {"kind": _text, "name": _text, "size": _or_none(_count), "shards": _dict_of(_or_none(_count))},
    "strategy": {"name": _text, "options": _text, "learned": _a_dict},
    "step": _count,
    "next_epoch": _count,
    "position": _or_none(_POSITION),
    "store": {"files": _or_none(_a_dict), "later": _list_of(_a_dict)},
}
