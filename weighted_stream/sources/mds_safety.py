"""What an index of MosaicML shards may not ask for: to unpickle, or to write files elsewhere."""

from __future__ import annotations

import re
from typing import Any

from weighted_stream.errors import SourceError

MOST_ROWS = 1 << 36
"""Of a shard: who believes a larger number would count for hours."""

_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:")


def refuse_unsafe(data: Any) -> None:
    """Refuse shards whose ``index.json`` would have code run, or files written outside of the dataset's directory.

    Args:
        data: a ``StreamingDataset``.

    Raises:
        SourceError: for a column that is unpickled, unless the dataset was made with ``allow_unsafe_types=True``; for
            a file whose name leads elsewhere; for a number of samples that cannot be.
    """
    trusted = getattr(data, "allow_unsafe_types", False) is True
    for shard in data.shards:
        columns = zip(getattr(shard, "column_names", ()), getattr(shard, "column_encodings", ()), strict=False)
        for column, encoding in columns:
            if not trusted and str(encoding).partition(":")[0] == "pkl":
                raise _pickles(column, shard)
        if not 0 <= int(shard.samples) <= MOST_ROWS:
            raise _rows(shard)
        for info in (info for pair in shard.file_pairs for info in pair if info is not None):
            if leads_elsewhere(info.basename):
                raise _elsewhere(info.basename)


def leads_elsewhere(name: str) -> bool:
    """Whether a relative file name is none.

    Example:
        >>> [leads_elsewhere(name) for name in ("shard.00000.mds", "a/b..mds", "../x", "a/../../x", "/etc/x", "")]
        [False, False, True, True, True, True]
    """
    return not name or "\0" in name or bool(_ABSOLUTE.match(name)) or ".." in re.split(r"[/\\]", name)


def _pickles(column: str, shard: Any) -> SourceError:
    return SourceError(
        "A column of these shards would be unpickled, which runs whatever code was put into it.",
        found=f"column {column!r} with the encoding 'pkl', in {shard.raw_data.basename}",
        expected="columns that are data: str, int, bytes, json, ndarray, jpeg …",
        do="write it as such; if you would let whoever wrote these shards run code on this machine: "
        "StreamingDataset(..., allow_unsafe_types=True)",
    )


def _rows(shard: Any) -> SourceError:
    return SourceError(
        "The index of these shards cannot be right.",
        found=f"{shard.samples:,} samples in {shard.raw_data.basename}",
        expected=f"{MOST_ROWS:,} at most",
        do="write the index again; it is damaged, or made to mislead",
    )


def _elsewhere(name: str) -> SourceError:
    return SourceError(
        "The index of these shards names a file outside of their directory.",
        found=f"{name!r} in index.json",
        expected="names of files below it",
        do="do not use this dataset unless you know why it does that; the index may have been made to overwrite files",
    )
