"""A torch dataset of the rows of Parquet files, split over ranks and workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import IterableDataset, get_worker_info

from weighted_stream.errors import SourceError
from weighted_stream.sources.bad_shards import OnBadShard, Policy, tell_ends
from weighted_stream.sources.board import reads, tell
from weighted_stream.sources.parquet_files import ParquetFiles, PathLike, open_file, read_footers, unreadable
from weighted_stream.sources.sharding import (
    Piece,
    buffer_shuffle,
    check_replica,
    pieces,
    reader,
    replica,
    share,
)

T = TypeVar("T")
Row: TypeAlias = dict[str, Any]
Block: TypeAlias = tuple[int, int, list[Row]]  # file, row of the file, rows from there

# A Parquet file is opened once per visit of its row groups; shuffled visits jump between files.
OPEN_FILES = 8


class ParquetDataset(IterableDataset[Row]):
    """The rows of Parquet files as dicts ``{column: value}``, split over ranks and `DataLoader` workers.

    Every row is delivered exactly once per epoch over all ranks and workers. The row groups form one line
    (in the order of the files' names, or shuffled), and each reader — a worker of a rank — takes a run of
    it: the shares of readers, and of ranks, differ by one row at most, so the batch counts of ranks by
    ``num_workers`` at most. A row group at the border of two shares is read by both, so write a few row
    groups per reader.

    ``shuffle`` shuffles the row groups of all files, the same way for all readers, then the rows of a
    reader within a buffer. The order depends on (seed, epoch, reader, number of readers) only. Files
    written in some order (by date, by source) mix only as far as ``buffer_size`` reaches over row groups.

    Memory per reader: ``batch_rows`` rows, one megabyte per column (of a file in S3 the columns of a row
    group, as they are stored), and with ``shuffle`` ``buffer_size`` rows.

    Files in S3 are read by range, the columns that are asked for only. A request that fails is made again,
    five times in all within seconds; then there is an error, which names the object. The ids are those of
    the same files on a local disk.

    Args:
        paths: a file, a directory (its ``.parquet`` files at any depth), a glob pattern, or a list of
            those; of local or mounted file systems, or in S3 (``"s3://bucket/train/*.parquet"``), with
            endpoint, region and credentials from the environment (``AWS_ENDPOINT_URL``, ``AWS_REGION``,
            ``AWS_ACCESS_KEY_ID`` …). Hive partition columns (``year=2020/``) are not added.
        columns: names of the columns to read; None for all.
        shuffle: shuffle from ``seed`` and the epoch.
        seed: a non-negative int.
        buffer_size: rows that are shuffled among each other.
        batch_rows: rows that are decoded at once.
        replica: (rank, world size); None asks `torch.distributed`, or ``RANK`` and ``WORLD_SIZE`` if it is
            not initialised. ``(0, 1)`` where the trainer distributes the samples itself (accelerate, HF
            Trainer).
        filesystem: a `pyarrow.fs.FileSystem` that the paths lie in, such as ``S3FileSystem(anonymous=True)``;
            None: see ``paths``. It goes along to workers as it is, credentials and all; it is written nowhere.
        on_bad_file: of a file that cannot be opened now, or has other columns than the first: ``"raise"``, or
            leave it out with a warning, ``"skip"`` or so many at most. What breaks later is the stream's
            ``on_bad_shard``, or an error.

    Attributes:
        left_out: the files that were left out, and why.

    Raises:
        SourceError: if there is no file or row, two files have the same name, a file cannot be read
            (damaged data, as against a damaged footer, only when it is reached), a column is missing, or
            files differ in their schema.

    Example:
        >>> import tempfile, pyarrow.parquet as pq
        >>> folder = tempfile.TemporaryDirectory()
        >>> pq.write_table(pa.table({"text": ["a", "b"], "n": [1, 2]}), f"{folder.name}/0.parquet")
        >>> list(ParquetDataset(folder.name, columns=["text"]))
        [{'text': 'a'}, {'text': 'b'}]
        >>> folder.cleanup()
    """

    def __init__(
        self,
        paths: PathLike | Iterable[PathLike],
        *,
        columns: Sequence[str] | None = None,
        shuffle: bool = False,
        seed: int = 0,
        buffer_size: int = 10_000,
        batch_rows: int = 1024,
        replica: tuple[int, int] | None = None,
        filesystem: Any = None,
        on_bad_file: OnBadShard = "raise",
    ) -> None:
        for name, value, least in (
            ("seed", seed, 0),
            ("buffer_size", buffer_size, 1),
            ("batch_rows", batch_rows, 1),
        ):
            if value < least:
                raise SourceError(
                    f"ParquetDataset has an impossible {name}.",
                    found=value,
                    expected=f"an int of at least {least}",
                    do=f"pass another {name}=",
                )
        names, unread = [columns] if isinstance(columns, str) else columns, Policy(on_bad_file)
        self.files: ParquetFiles = read_footers(paths, names, filesystem, unread)
        self.left_out: dict[str, str] = unread.met
        self.shuffle, self.seed, self.buffer_size, self.batch_rows = shuffle, seed, buffer_size, batch_rows
        self._replica = None if replica is None else check_replica(replica)
        self._parent_replica: tuple[int, int] | None = None
        self.policy = Policy()
        self._epoch: Any = torch.zeros((), dtype=torch.int64, device="cpu")
        self._share_epoch()

    def _share_epoch(self) -> None:
        # Shared memory: workers that already run (persistent_workers=True) see a new epoch, too.
        self._epoch.share_memory_()

    def __getstate__(self) -> dict[str, Any]:
        # A spawned worker has no process group to ask for its rank: it takes along what its parent knows.
        return {**self.__dict__, "_parent_replica": self.replica}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._share_epoch()

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration is shuffled for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, for running workers too; it takes effect with the next iteration."""
        self._epoch.fill_(epoch)

    @property
    def replica(self) -> tuple[int, int]:
        """(rank, world size) that the rows are split for."""
        if self._replica is not None:
            return self._replica
        if get_worker_info() is not None and self._parent_replica is not None:
            return self._parent_replica
        return replica()

    def __len__(self) -> int:
        """Rows that this rank delivers per epoch, over all its workers."""
        start, stop = share(sum(self.files.rows), *self.replica)
        return stop - start

    def __iter__(self) -> Iterator[Row]:
        return self.deliver(lambda file, start, rows: rows)

    def deliver(self, make: Callable[[int, int, list[Row]], Iterable[T]]) -> Iterator[T]:
        """The items that ``make(file number, row of the file, rows)`` makes of each block, shuffled."""
        part, parts = reader(*self.replica)
        epoch = self.epoch
        blocks = (make(*block) for block in self._read(self.plan(epoch, part, parts)))
        if not self.shuffle:
            return chain.from_iterable(blocks)
        rng = np.random.default_rng([self.seed, epoch, part, parts])
        return buffer_shuffle(map(list, blocks), self.buffer_size, rng)

    def plan(self, epoch: int, part: int, parts: int) -> list[Piece]:
        """What one of ``parts`` readers reads in an epoch, in its order."""
        groups = self.files.group_rows
        order = np.arange(len(groups))
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(groups))
        return pieces(groups, order, part, parts)

    def _read(self, plan: list[Piece]) -> Iterator[Block]:
        opened = lru_cache(OPEN_FILES)(self._open)
        for piece in plan:
            file = int(self.files.group_file[piece.group])
            reads(self.files.keys[file].encode())
            delivered = 0
            try:
                for row, batch in self.batches(piece, opened):
                    yield file, row, self._rows(piece, batch)  # whose they are then: nobody else keeps them
                    delivered += len(batch)
            except SourceError as error:
                self.policy.meet(self.files.keys[file], error)
                tell({"lacks": piece.stop - piece.start - delivered})

    def _rows(self, piece: Piece, batch: Any) -> list[Row]:
        try:
            rows: list[Row] = batch.to_pylist()
        except (pa.ArrowException, ValueError, OverflowError) as error:  # bytes that are no text, no date …
            path, number = self.files.paths[self.files.group_file[piece.group]], self.files.group_number[piece.group]
            raise unreadable(f"{path} (row group {number})", error) from error
        return rows

    def batches(self, piece: Piece, opened: Callable[[int], Any] | None = None) -> Iterator[tuple[int, Any]]:
        """The rows of a piece as record batches, each with the row of the file that it begins at.

        Args:
            piece: which rows.
            opened: gives the open `pyarrow.parquet.ParquetFile` of a file's number; None opens it for this piece.

        Raises:
            SourceError: if the file cannot be read, or has changed.
        """
        files = self.files
        group, start, stop = piece
        file, number = int(files.group_file[group]), int(files.group_number[group])
        position = 0
        try:
            for batch in (opened or self._open)(file).iter_batches(
                self.batch_rows, row_groups=[number], columns=list(files.columns), use_threads=False
            ):
                first, last = max(start - position, 0), min(stop - position, len(batch))
                if first < last:
                    yield int(files.group_start[group]) + position + first, batch.slice(first, last - first)
                position += len(batch)
                if position >= stop:
                    break
        except (pa.ArrowException, OSError) as error:
            raise unreadable(f"{files.paths[file]} (row group {number})", error) from error
        if position < stop:
            raise self._changed(file, f"{position} rows in row group {number}")

    def _open(self, file: int) -> Any:
        path, rows = self.files.paths[file], self.files.rows[file]
        opened = open_file(path, self.files.filesystem)
        if self.files.filesystem is None:
            tell_ends(self.policy, self.files.keys[file], path)
        if opened.metadata.num_rows != rows:
            raise self._changed(file, f"{opened.metadata.num_rows} rows")
        return opened

    def _changed(self, file: int, found: str) -> SourceError:
        return SourceError(
            f"The Parquet file {self.files.paths[file]} has changed while it was in use.",
            found=found,
            expected=f"{self.files.rows[file]} rows, as when the dataset was made",
            do="make the dataset again; write new data to new files",
        )
