"""Entries of the journal as Arrow IPC messages, made in a few microseconds.

Messages of as many rows with the same columns differ in their values alone. So Arrow makes one, and says where in it
the columns lie; it is kept, and the values of the next entries are copied there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from weighted_stream.store.journal_entry import GIVEN, SCHEMA
from weighted_stream.store.record import Change, Floats, Ids, Records

_KEPT = 16
_DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in zip(SCHEMA.names, ("i4", "i8", "f4", "f4", "f4", "i4", "V32", "f4", "f4"), strict=True)
}


class Packer:
    """Makes messages, one at a time."""

    def __init__(self) -> None:
        self._forms: dict[tuple[int, int], _Form] = {}

    def pack(
        self, ids: Ids, change: Change, read: Callable[[Records], None], old_losses: Floats, old_weights: Floats
    ) -> tuple[memoryview, int]:
        """An entry of at most `MOST_ROWS`; ``read`` copies the records as they are.

        Returns:
            The message, which the next call writes over, and which of the columns `GIVEN` it has, as bits.
        """
        loss, _, weight, similarity, group, step = change
        bits = (
            (step is not None)
            | (loss is not None) << 1
            | (weight is not None) << 2
            | (similarity is not None) << 3
            | (group is not None) << 4
        )
        key = ids.size, bits
        form = self._forms.pop(key, None) or _Form(*key)
        self._forms[key] = form  # the last one used is the last one
        if len(self._forms) > _KEPT:
            del self._forms[next(iter(self._forms))]
        into = form.columns
        into["id"][:] = ids
        read(into["old_record"])
        if loss is not None:
            into["loss"][:] = loss
            _fill(into["old_loss"], old_losses)
        if weight is not None:
            into["weight"][:] = weight
            _fill(into["old_weight"], old_weights)
        if similarity is not None:
            into["similarity"][:] = similarity
        if group is not None:
            into["group"][:] = group
        if step is not None:
            into["step"][:] = step
        return form.message, bits


class _Form:
    """A message of so many rows, with nothing (NaN, -1) in the columns of `GIVEN` that are not in ``bits``."""

    def __init__(self, rows: int, bits: int) -> None:
        blank = {name: -1 if name in ("step", "group") else np.nan for name in GIVEN}
        columns = []
        for field in SCHEMA:
            values = np.zeros(rows, _DTYPES[field.name])
            if field.name in blank and not bits >> GIVEN.index(field.name) & 1:
                values[:] = blank[field.name]
            columns.append(pa.Array.from_buffers(field.type, rows, [None, pa.py_buffer(values.view(np.uint8))]))
        data = bytearray(pa.RecordBatch.from_arrays(columns, schema=SCHEMA).serialize())
        self.message = memoryview(data)
        buffer = pa.py_buffer(data)
        batch = pa.ipc.read_record_batch(buffer, SCHEMA)
        self.columns: dict[str, npt.NDArray[Any]] = {
            name: np.frombuffer(data, dtype, rows, batch.column(name).buffers()[1].address - buffer.address)
            for name, dtype in _DTYPES.items()
        }


def _fill(column: npt.NDArray[Any], values: Floats) -> None:
    column[: values.size] = values
    column[values.size :] = 0
