"""The journal as anybody reads it, while its store may be open and written: entry by entry, and as Arrow batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from weighted_stream.store.journal_entry import Entry
from weighted_stream.store.journal_index import Line
from weighted_stream.store.journal_segment import Segment, damaged, firsts

HISTORY = pa.schema(
    [
        pa.field("step", pa.int32()),
        pa.field("id", pa.int64(), nullable=False),
        pa.field("loss", pa.float32()),
        pa.field("weight", pa.float32()),
        pa.field("similarity", pa.float32()),
        pa.field("group", pa.int32()),
    ]
)
"""The batches of a history: a row for each sample of each call, null for what was not given."""


def read_lines(folder: Path, first: int = 1) -> Iterator[tuple[Segment, Line]]:
    """What the index says of the entries from a position on, as far as they are written now.

    Raises:
        StoreError: if one is damaged, or was removed while it was read.
    """
    begins = firsts(folder)
    before: Line | None = None
    for place, begin in enumerate(begins):
        if place + 1 < len(begins) and begins[place + 1] <= first:
            continue
        segment = Segment(folder, begin)
        for position in range(begin, begin + segment.count()):
            line = segment.line(position)
            if line is None or not (before is None or goes_on(before.mark, line)):
                raise damaged(segment.path, position)
            before = line
            if position >= first:
                yield segment, line


def read_entries(folder: Path, first: int = 1) -> Iterator[Entry]:
    """The entries themselves.

    Raises:
        StoreError: if one is damaged, or was removed while it was read.
    """
    for segment, line in read_lines(folder, first):
        entry = segment.read(line)
        if entry is None:
            raise damaged(segment.path, line.position)
        yield entry


def has_entries(folder: Path) -> bool:
    """Whether there is a journal: entries, or what they went into."""
    return bool(firsts(folder)) or (folder / "base").exists()


def goes_on(mark: tuple[int, int], line: Line) -> bool:
    """Whether an entry comes right after the one of this position and chain."""
    return line.position == mark[0] + 1 and line.follows(mark[1])


def history(folder: Path) -> Iterator[Any]:
    """All entries as Arrow record batches of the schema `HISTORY`.

    Raises:
        StoreError: if one is damaged, or was removed while it was read.
    """
    return map(_batch, read_entries(folder))


def _batch(entry: Entry) -> Any:
    loss, _, weight, similarity, group, step = entry.change
    assert step is None or isinstance(step, np.ndarray)
    steps = None if step is None else step.view(np.int32)
    columns: tuple[Any, ...] = (steps, entry.ids, loss, weight, similarity, group)
    arrays = []
    for field, values in zip(HISTORY, columns, strict=True):
        arrays.append(pa.nulls(entry.ids.size, field.type) if values is None else pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=HISTORY)
