"""Parquet files in parts: row groups in the order in which this rank's readers come to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weighted_stream.sources.ids import shard_ids
from weighted_stream.sources.keys import IdFn, identify
from weighted_stream.sources.parquet_dataset import ParquetDataset
from weighted_stream.sources.parts import Part
from weighted_stream.sources.sharding import Piece
from weighted_stream.sources.unreadable import naming


class ParquetPart(Part):
    """A row group, or what this rank reads of one.

    Args:
        data: the dataset.
        piece: which rows of which row group.
        id_fn: makes the id of a row, or None for (file, row).
    """

    def __init__(self, data: ParquetDataset, piece: Piece, id_fn: IdFn | None) -> None:
        files = data.files
        self._data, self._piece, self._id_fn = data, piece, id_fn
        self._key = files.keys[int(files.group_file[piece.group])]
        whole = piece.start == 0 and piece.stop == int(files.group_rows[piece.group])
        rows = "" if whole else f", rows {piece.start} to {piece.stop - 1}"
        self.name = f"{self._key} (row group {int(files.group_number[piece.group])}{rows})"

    def ids(self) -> NDArray[np.int64] | None:
        """The ids, unless an ``id_fn`` makes them of the rows."""
        if self._id_fn is not None:
            return None
        group, start, stop = self._piece
        first = int(self._data.files.group_start[group])
        return shard_ids(self._key, np.arange(first + start, first + stop))

    def read(self, wanted: NDArray[np.bool_] | None = None) -> Iterator[tuple[int, Any]]:
        """``(id, row)``, the row with the columns that the dataset reads."""
        ids = self.ids()
        left = self._piece.stop - self._piece.start if wanted is None else int(wanted.sum())
        place = 0
        with naming(self.name):
            for first, batch in self._data.batches(self._piece) if left else ():
                stop = place + len(batch)
                chosen = np.arange(len(batch)) if wanted is None else np.flatnonzero(wanted[place:stop])
                rows = (batch if len(chosen) == len(batch) else batch.take(chosen)).to_pylist()
                if ids is not None:
                    yield from zip(ids[place:stop][chosen].tolist(), rows, strict=True)
                elif self._id_fn is not None:
                    for row, sample in enumerate(rows, first):
                        yield identify(self._id_fn, sample, f"{self._key}:{row}"), sample
                place, left = stop, left - len(chosen)
                if not left:
                    return


def parquet_parts(
    data: ParquetDataset, id_fn: IdFn | None, epoch: int, replica: tuple[int, int], workers: int
) -> Iterator[Part]:
    """This rank's share of the rows, as its loader comes to them.

    Each worker of a loader reads a run of the line of row groups, so the parts are taken from all runs alike. Within
    a run they are in line; what the shuffle buffer does to single rows is left out.

    Args:
        data: the dataset.
        id_fn: makes the id of a row, or None.
        epoch: which one to shuffle for.
        replica: (rank, world size).
        workers: how many the loader has; 0 or 1: the share is one run.
    """
    rank, world = replica
    runs = max(workers, 1)
    plans = [data.plan(epoch, rank * runs + run, world * runs) for run in range(runs)]
    read = [0] * runs
    places = [0] * runs
    while any(places[run] < len(plans[run]) for run in range(runs)):
        run = min((run for run in range(runs) if places[run] < len(plans[run])), key=read.__getitem__)
        piece = plans[run][places[run]]
        places[run] += 1
        read[run] += piece.stop - piece.start
        yield ParquetPart(data, piece, id_fn)
