"""One entry of the journal: what a call changed, and what was there before. To and from an Arrow record batch.

Arrow's IPC stream format, whole batches of about 2,048 samples: 68 bytes a sample, of which 40 are for going back (the
record as it was, and the two figures of the latest feedback that these take the place of).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from weighted_stream.store.header import WINDOW
from weighted_stream.store.journal_index import Line
from weighted_stream.store.record import RECORD, RECORD_BYTES, Change, Floats, Ids, Records, unusable

MOST_ROWS = 16_384
"""Samples of an entry; a larger call becomes several."""

SCHEMA = pa.schema(
    [
        pa.field("step", pa.int32(), nullable=False),
        pa.field("id", pa.int64(), nullable=False),
        pa.field("loss", pa.float32(), nullable=False),
        pa.field("weight", pa.float32(), nullable=False),
        pa.field("similarity", pa.float32(), nullable=False),
        pa.field("group", pa.int32(), nullable=False),
        pa.field("old_record", pa.binary(RECORD_BYTES), nullable=False),
        pa.field("old_loss", pa.float32(), nullable=False),
        pa.field("old_weight", pa.float32(), nullable=False),
    ]
)
"""What a segment of the journal holds; -1 and NaN where nothing was given (the index says which)."""

GIVEN = ("step", "loss", "weight", "similarity", "group")


class Entry(NamedTuple):
    """An entry, read back.

    Attributes:
        line: its line in the index.
        ids: (n,) whose records change; ids may repeat.
        change: how.
        old_records: (n,) the records before.
        old_losses, old_weights: what the losses and weights take the place of, see `Header.overwritten`.
    """

    line: Line
    ids: Ids
    change: Change
    old_records: Records
    old_losses: Floats
    old_weights: Floats


def unpack(message: bytes, line: Line) -> Entry | None:
    """The entry of a message whose checksum is right; None if it is none."""
    try:
        batch = pa.ipc.read_record_batch(pa.py_buffer(message), SCHEMA)
        batch.validate(full=True)
    except (pa.ArrowException, OSError):
        return None
    if batch.num_rows != line.rows or any(column.null_count for column in batch.columns):
        return None
    old_records = np.frombuffer(batch.column(6).buffers()[1], RECORD, count=line.rows)
    step, ids, loss, weight, similarity, group, old_losses, old_weights = (
        batch.column(place).to_numpy() for place in (0, 1, 2, 3, 4, 5, 7, 8)
    )
    has = line.has
    bad = unusable(loss) if has("loss") else None
    change = Change(
        loss if has("loss") else None,
        bad,
        weight if has("weight") else None,
        similarity if has("similarity") else None,
        group.astype(np.int64) if has("group") else None,
        step.view(np.uint32) if has("step") else None,
    )
    losses = 0 if not has("loss") else line.rows if bad is None else line.rows - np.count_nonzero(bad)
    weights = line.rows if has("weight") else 0
    return Entry(line, ids, change, old_records, old_losses[: min(losses, WINDOW)], old_weights[: min(weights, WINDOW)])
