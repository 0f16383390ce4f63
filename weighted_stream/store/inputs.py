"""What a caller hands in, as arrays: NumPy arrays, lists, or torch tensors (no torch needed here)."""

from __future__ import annotations

from operator import index
from typing import Any

import numpy as np
import numpy.typing as npt

from weighted_stream.errors import SampleIdError, StoreError
from weighted_stream.sample_ids import MAX_ID
from weighted_stream.store.record import Change, Floats, Ids, unusable

_INT64, _FLOAT32 = np.dtype(np.int64), np.dtype(np.float32)
_LARGEST_INT32 = 2**31 - 1


def as_ids(ids: Any) -> Ids:
    """Sample ids as a contiguous int64 array (n,); they may still be negative.

    Raises:
        SampleIdError: if they are no integers, or not one-dimensional.
    """
    if type(ids) is np.ndarray and ids.dtype is _INT64 and ids.ndim == 1 and ids.flags.c_contiguous:
        return ids
    array = _as_array(ids)
    if array.size == 0 and array.ndim == 1:
        return np.zeros(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu" or (array.dtype.kind == "u" and array.max() > MAX_ID):
        raise SampleIdError(
            "These sample ids cannot be used.",
            found=_describe(array),
            expected="integers in [0, 2**63), of shape (n,)",
            do="pass the ids of the batch (weight.ids), or an int64 array or list",
        )
    return np.ascontiguousarray(array, np.int64)


def negative(ids: Ids) -> SampleIdError:
    """The error for ids of which one is negative."""
    where = np.flatnonzero(ids < 0)[0]
    return SampleIdError(
        "A sample id is negative.",
        found=f"{ids[where]} at position {where}",
        expected="integers in [0, 2**63)",
        do="check where the ids come from; -1 often stands for padding, which has no sample",
    )


def as_change(count: int, loss: Any, weight: Any, similarity: Any, group: Any, step: Any) -> Change:
    """The values of one update of ``count`` ids, checked.

    Raises:
        StoreError: if one does not go with the ids, or there is none.
    """
    if loss is weight is similarity is group is step is None:
        raise StoreError(
            "update() was given nothing to write.",
            found="ids alone",
            expected="at least one of loss, weight, similarity, group, step",
            do="store.update(ids, loss=losses)",
        )
    if loss is not None:
        loss = as_floats("loss", loss, count, finite=False)
    return Change(
        loss,
        None if loss is None else unusable(loss),
        None if weight is None else as_floats("weight", weight, count),
        None if similarity is None else as_floats("similarity", similarity, count),
        None if group is None else as_groups(group, count),
        None if step is None else as_step(step),
    )


def as_floats(name: str, values: Any, count: int, *, finite: bool = True) -> Floats:
    """One float32 per id.

    Raises:
        StoreError: if they are not ``count`` numbers, or (with ``finite``) one is NaN or infinite as float32.
    """
    if not (type(values) is np.ndarray and values.dtype is _FLOAT32):
        array = _as_array(values)
        if array.dtype.kind not in "fiu":
            raise _wrong(name, _describe(array), f"{count} numbers")
        with np.errstate(over="ignore"):
            values = array.astype(np.float32)
    floats: Floats = values
    if values.shape != (count,):
        raise _wrong(name, f"shape {values.shape}", f"one per id, shape ({count},)")
    if finite and unusable(floats) is not None and np.count_nonzero(np.isfinite(values)) != count:
        raise _wrong(name, f"{values[~np.isfinite(values)][0]}", "finite numbers")
    return floats


def as_groups(values: Any, count: int) -> Ids:
    """One group per id, -1 for none.

    Raises:
        StoreError: if they are not ``count`` integers in [-1, 2**31).
    """
    array = _as_array(values)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise _wrong("group", _describe(array), f"integers, shape ({count},)")
    if array.size and (array.min() < -1 or array.max() > _LARGEST_INT32):
        raise _wrong("group", f"{array.min()} to {array.max()}", "-1 (none) to 2**31 - 1")
    return array.astype(np.int64)


def as_step(step: Any) -> int:
    """The step an update belongs to.

    Raises:
        StoreError: if it is not an integer in [0, 2**31).
    """
    try:
        value = index(step)
    except TypeError:
        raise _wrong("step", repr(step), "one int") from None
    if not 0 <= value <= _LARGEST_INT32:
        raise _wrong("step", value, "0 to 2**31 - 1")
    return value


def _as_array(values: Any) -> npt.NDArray[Any]:
    if hasattr(values, "detach"):
        tensor = values.detach().cpu()
        # NumPy knows no bfloat16.
        values = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    try:
        return np.asarray(values)
    except ValueError:
        # Lists of unequal length.
        return np.asarray(repr(values))


def _describe(array: npt.NDArray[Any]) -> str:
    return f"{array.dtype}, shape {array.shape}" + (f", e.g. {array.flat[0]!r}" if array.size else "")


def _wrong(name: str, found: object, expected: str) -> StoreError:
    return StoreError(
        f"The store cannot keep this {name}.",
        found=found,
        expected=expected,
        do=f"pass {name}= as an array, list or tensor that goes with the ids" if name != "step" else "pass step=5",
    )
