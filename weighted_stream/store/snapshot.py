"""All of a store as arrays: the state of one that has no journal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from weighted_stream.sample_ids import MAX_ID
from weighted_stream.store.header import WINDOW
from weighted_stream.store.journal_base import clear
from weighted_stream.store.record import NOTHING, RECORD, Tally, count, words_of
from weighted_stream.store.refusals import no_state
from weighted_stream.store.regions import Regions


def take(regions: Regions) -> dict[str, Any]:
    """Records, counters and the latest feedback, as copies: 40 bytes for each touched sample."""
    ids = np.concatenate([np.zeros(0, np.int64), *regions.touched()])
    records = regions.read(ids, int(ids.max())) if ids.size else np.zeros(0, RECORD)
    pushed, losses, weights = regions.header.window()
    return {
        "ids": ids,
        "records": words_of(records).copy().view(np.int32),  # torch cannot pickle unsigned tensors
        "counts": list(regions.header.tally),
        "pushed": list(pushed),
        "losses": losses[: pushed[0]],
        "weights": weights[: pushed[1]],
    }


def put(regions: Regions, state: Mapping[str, Any]) -> None:
    """Make a store what it was; what is in it otherwise goes.

    Raises:
        StoreError: if this is no such state, then nothing is changed; or the disk is full.
    """
    try:
        ids = _integers(state["ids"], np.int64)
        records = _integers(state["records"], np.int32).view(np.uint32)
        tally = Tally(*(int(number) for number in state["counts"]))
        pushed = int(state["pushed"][0]), int(state["pushed"][1])
        losses, weights = np.zeros((2, WINDOW), np.float32)
        with np.errstate(all="ignore"):
            losses[: pushed[0]], weights[: pushed[1]] = state["losses"], state["weights"]
        right = records.shape == (ids.size, 8) and ids.ndim == 1 and count(records) == tally and min(pushed) >= 0
        right = right and (not ids.size or 0 <= int(ids.min()) <= int(ids.max()) <= MAX_ID)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise no_state(f"{type(error).__name__}: {error}") from error
    if not right:
        raise no_state("arrays that do not go together")
    regions.make_sure_of_room(ids)  # before anything goes
    header = regions.header
    header.begin()
    clear(regions)
    regions.place(ids, records.view(RECORD)[:, 0])
    header.tally = tally
    header.set_window(pushed, losses, weights)
    header.end(NOTHING, None, None)


def _integers(values: Any, dtype: type[np.signedinteger[Any]]) -> npt.NDArray[Any]:
    """As an array of integers; nothing is rounded or cut."""
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"{array.dtype} in place of {np.dtype(dtype)}")
    integers = np.ascontiguousarray(array, dtype)
    if not np.array_equal(integers, array):
        raise ValueError(f"numbers beyond {np.dtype(dtype)}")
    return integers
