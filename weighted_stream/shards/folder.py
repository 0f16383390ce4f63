"""A folder of shards, opened for tools: which shards there are, and the samples of each with their ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from weighted_stream.errors import SourceError
from weighted_stream.shards.mds import INDEX, open_mds
from weighted_stream.shards.remote import look_remote
from weighted_stream.shards.webdataset import as_row, open_webdataset
from weighted_stream.sources import source_for
from weighted_stream.sources.base import Fingerprint
from weighted_stream.sources.files_below import files_below
from weighted_stream.sources.keys import Column, identify
from weighted_stream.sources.parquet_dataset import ParquetDataset
from weighted_stream.sources.parquet_files import find_files, open_file, unreadable
from weighted_stream.sources.parts import Part
from weighted_stream.sources.s3 import is_s3

NO_SHARDS = "There are no shards of one kind here."


@dataclass(frozen=True)
class Shard:
    """One shard: an MDS or tar file, or all row groups of a Parquet file.

    Attributes:
        name: stays the same when the folder moves.
        size: its rows, or its bytes where only those are known; None if neither is.
        parts: what is read of it, in order.
        id: the column of the ids; None: the ids are those of shard and row, or shard and key.
        tar: whether its samples are those of a tar file.
    """

    name: str
    size: int | None
    parts: tuple[Part, ...]
    id: str | None
    tar: bool

    def ids(self) -> NDArray[np.int64] | None:
        """The ids of its samples in reading order, (n,); None if only reading can tell."""
        known = [part.ids() for part in self.parts] if self.id is None else [None]
        return np.concatenate(known) if known and all(ids is not None for ids in known) else None  # type: ignore[arg-type]

    def read(self, wanted: NDArray[np.int64] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """``(id, row)`` of its samples, as WeightedStream gives the ids.

        Args:
            wanted: the ids of interest, (m,); None: all.

        Raises:
            SourceError: if it cannot be read.
            SampleIdError: if a sample has no id in the column of the ids.
        """
        column = None if self.id is None else Column(self.id)
        for part in self.parts:
            mask = None
            if wanted is not None and column is None and (ids := part.ids()) is not None:
                mask = np.isin(ids, wanted)
                if not mask.any():
                    continue
            for place, (number, sample) in enumerate(part.read(mask)):
                row = as_row(sample) if self.tar else sample
                key = number if column is None else identify(column, row, f"{place} of {part.name}")
                if wanted is None or mask is not None or key in wanted:
                    yield key, row


@dataclass(frozen=True)
class ShardFolder:
    """Shards that are one dataset.

    Attributes:
        kind: ``"mds"``, ``"webdataset"`` or ``"parquet"``.
        root: the folder they are in; None: they are in S3.
        shards: all of them that can be opened, in order.
        fingerprint: what a store remembers of the dataset.
        unreadable: what is wrong with each of the others, by name.
    """

    kind: str
    root: Path | None
    shards: tuple[Shard, ...]
    fingerprint: Fingerprint
    unreadable: dict[str, SourceError]


def open_shards(
    path: str | PathLike[str], *, id: str | None = None, columns: Sequence[str] | None = None, skip: bool = False
) -> ShardFolder:
    """Open MDS, WebDataset or Parquet shards.

    A directory with an ``index.json`` holds MDS shards; otherwise a directory's ``.tar`` files, or its ``.parquet``
    files, as `files_below` finds them (``.TAR`` and ``.PARQUET`` too), a file, or the files of a glob pattern. The ids
    are those that `WeightedStream` gives the samples of all these shards, so open for scoring what you train on.

    Args:
        path: the directory, file or pattern; also in S3 (``s3://bucket/train``), but for MDS shards.
        id: the column of the ids, where the stream is made with ``id_fn=`` of it.
        columns: of Parquet files, read only these; None: all.
        skip: leave out Parquet files that cannot be opened. (Of other shards it shows when they are read.)

    Raises:
        SourceError: if there are no shards, or of several kinds, or a file cannot be opened.
        MissingExtraError: if the package that reads this format is not installed.
    """
    root: Path | None = None
    files: Sequence[str | Path]
    if is_s3(path):
        kind, files = look_remote(str(path))
    else:
        path = Path(path)
        kind, root, files = _look(path)
    failed: dict[str, SourceError] = {}
    if kind == "mds":
        data = open_mds(Path(path))
    elif kind == "webdataset":
        data = open_webdataset(files, shardshuffle=False)
    else:
        data, failed = _parquet(path, columns, skip)
    source = source_for(data)
    sizes = source.fingerprint().shards
    parts: dict[str, list[Part]] = {}
    for part in source.parts():
        # A Parquet file is read by row groups; its side file is one.
        name = part.name.rpartition(" (row group ")[0] if kind == "parquet" else part.name
        parts.setdefault(name, []).append(part)
    shards = tuple(Shard(name, sizes.get(name), tuple(some), id, kind == "webdataset") for name, some in parts.items())
    fingerprint = source.fingerprint() if id is None else source_for(data, id).fingerprint()
    return ShardFolder(kind, root, shards, fingerprint, failed)


def _look(path: Path) -> tuple[str, Path, Sequence[Path]]:
    """Format, folder and, of tar files, the files."""
    if (path / INDEX).is_file():
        return "mds", path, []
    if path.is_file():
        found, root = [path], path.parent
    elif path.is_dir():
        found = [path / file for file in files_below(path) if file.suffix.lower() in (".tar", ".parquet")]
        root = path
    else:
        found = [Path(file) for file in sorted(glob(str(path), recursive=True))] if has_magic(str(path)) else []
        root = Path(*path.parts[: next((i for i, part in enumerate(path.parts) if has_magic(part)), None)])
    endings = {file.suffix.lower() for file in found}
    if endings == {".tar"}:
        return "webdataset", root, found
    if endings == {".parquet"}:
        return "parquet", root, found
    more = ": files that end with " + ", ".join(sorted(endings)) if found else ""
    if not found and not path.exists():
        more = ", which matches no file" if has_magic(str(path)) else ", which does not exist"
    raise SourceError(
        NO_SHARDS,
        found=f"{path}{more}",
        expected=f"a folder with {INDEX} (MDS), or .tar (WebDataset) or .parquet files",
        do="check the path; weighted-stream convert makes shards",
    )


def _parquet(
    path: str | PathLike[str], columns: Sequence[str] | None, skip: bool
) -> tuple[Any, dict[str, SourceError]]:
    """The dataset, and the files that had to be left out of it."""
    try:
        return ParquetDataset(path, columns=columns, replica=(0, 1)), {}
    except SourceError:
        if not skip:
            raise
    failed: dict[str, SourceError] = {}
    files = find_files(path)
    for name, file in files.items():
        try:
            with open_file(file):
                pass
        except SourceError as error:
            failed[name] = error
        except (pa.ArrowException, OSError) as error:
            failed[name] = unreadable(file, error)
    good = {name: file for name, file in files.items() if name not in failed}
    return ParquetDataset(good, columns=columns, replica=(0, 1)), failed
