"""Keepers of per-sample records, as one would build them from what there is: NumPy, LMDB, SQLite, Redis.

Each holds the record of `WeightStore` (losses, weight, similarity, visits, step, group), looks up the same columns for
a batch of ids and makes the same update. None of them, nor the store, waits for the disk; LMDB and SQLite make a
transaction of each update. Nothing checks its arguments but the store.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.store_ops import PLAIN, Floats, Ids, change, columns_of, plain_array, plain_get, plain_update
from weighted_stream.store import WeightStore

Columns = dict[str, npt.NDArray[Any]]

BLANK = np.zeros((), PLAIN)
BLANK["last_step"] = BLANK["group"] = -1
SQL_COLUMNS = ("loss", "last_loss", "weight", "similarity", "visits", "last_step", "sample_group")


class Keeper(Protocol):
    """What is measured."""

    def get(self, ids: Ids) -> Columns:
        """What is known of some samples, in their order."""

    def update(self, ids: Ids, loss: Floats, weight: Floats, step: int) -> None:
        """One observation of each of some different samples."""

    def size(self) -> int:
        """Bytes that the records take: on disk, or of a server's memory."""

    def close(self) -> None:
        """Let go of all."""


class OurStore:
    """`WeightStore`, with its journal or without."""

    def __init__(self, folder: Path, records: int, journal: bool) -> None:
        self.folder, self.store = folder, WeightStore(folder, journal=journal)
        self.store.reserve(records)
        self.get = self.store.get

    def update(self, ids: Ids, loss: Floats, weight: Floats, step: int) -> None:
        self.store.update(ids, loss=loss, weight=weight, step=step)

    def size(self) -> int:
        self.store.flush()
        return sum(file.stat().st_blocks * 512 for file in self.folder.rglob("*") if file.is_file())

    def close(self) -> None:
        self.store.close()


class MappedArray:
    """An array in a mapped file, by id."""

    def __init__(self, folder: Path, records: int) -> None:
        self.array = plain_array(records)

    def get(self, ids: Ids) -> Columns:
        return plain_get(self.array, ids)

    def update(self, ids: Ids, loss: Floats, weight: Floats, step: int) -> None:
        plain_update(self.array, ids, loss, weight, step)

    def size(self) -> int:
        return 0

    def close(self) -> None:
        del self.array


class Lmdb:
    """LMDB, eight bytes of id to a record."""

    def __init__(self, folder: Path, records: int) -> None:
        import lmdb

        folder.mkdir()
        self.folder = folder
        self.base = lmdb.open(str(folder), map_size=1 << 37, sync=False, metasync=False, writemap=True, map_async=True)

    def _found(self, transaction: Any, keys: list[bytes]) -> npt.NDArray[Any]:
        known = dict(transaction.cursor().getmulti(keys))
        blank = BLANK.tobytes()
        return np.frombuffer(bytearray(b"".join([known.get(key, blank) for key in keys])), PLAIN)

    def get(self, ids: Ids) -> Columns:
        with self.base.begin() as transaction:
            return columns_of(self._found(transaction, _keys(ids)))

    def update(self, ids: Ids, loss: Floats, weight: Floats, step: int) -> None:
        keys = _keys(ids)
        with self.base.begin(write=True) as transaction:
            found = self._found(transaction, keys)
            change(found, loss, weight, step)
            raw, width = found.tobytes(), PLAIN.itemsize
            pairs = [(key, raw[at * width : at * width + width]) for at, key in enumerate(keys)]
            transaction.cursor().putmulti(pairs)

    def size(self) -> int:
        return int(self.base.info()["last_pgno"]) * int(self.base.stat()["psize"])

    def close(self) -> None:
        self.base.close()


class Sqlite:
    """A table of SQLite, updated by its own arithmetic."""

    def __init__(self, folder: Path, records: int) -> None:
        folder.mkdir()
        self.file = folder / "records.db"
        self.base = sqlite3.connect(self.file, isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=OFF", "cache_size=-200000", "mmap_size=30000000000"):
            self.base.execute(f"PRAGMA {pragma}")
        fields = ", ".join(SQL_COLUMNS)
        self.base.execute(f"CREATE TABLE records (id INTEGER PRIMARY KEY, {fields})")
        self.upsert = (
            f"INSERT INTO records (id, {fields}) VALUES (?, ?, ?, ?, NULL, 1, ?, -1) "
            "ON CONFLICT (id) DO UPDATE SET loss = loss + (excluded.loss - loss) / min(visits + 1, 10), "
            "last_loss = excluded.loss, weight = excluded.weight, visits = visits + 1, last_step = excluded.last_step"
        )

    def get(self, ids: Ids) -> Columns:
        marks = ",".join("?" * len(ids))
        wanted = ids.tolist()
        query = f"SELECT id, {', '.join(SQL_COLUMNS)} FROM records WHERE id IN ({marks})"
        known = {row[0]: row[1:] for row in self.base.execute(query, wanted)}
        blank = (None, None, None, None, 0, -1, -1)
        columns = zip(*(known.get(i, blank) for i in wanted), strict=True)
        kinds = [np.float32] * 4 + [np.int64] * 3
        return {name: np.array(column, kind) for name, column, kind in zip(SQL_COLUMNS, columns, kinds, strict=True)}

    def update(self, ids: Ids, loss: Floats, weight: Floats, step: int) -> None:
        self.base.execute("BEGIN")
        losses = loss.tolist()
        rows = zip(ids.tolist(), losses, losses, weight.tolist(), [step] * len(ids), strict=True)
        self.base.executemany(self.upsert, rows)
        self.base.execute("COMMIT")

    def size(self) -> int:
        self.base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return self.file.stat().st_size

    def close(self) -> None:
        self.base.close()


class Redis:
    """Keys of a Redis or Valkey server, on this machine and over a socket file: one record each."""

    def __init__(self, address: str) -> None:
        import redis

        self.server: Any = redis.Redis.from_url(address)
        self.server.flushdb()
        self.before = self.server.info("memory")["used_memory"]

    def _found(self, keys: list[bytes]) -> npt.NDArray[Any]:
        blank = BLANK.tobytes()
        known = self.server.mget(keys)
        return np.frombuffer(bytearray(b"".join([blank if one is None else one for one in known])), PLAIN)

    def get(self, ids: Ids) -> Columns:
        return columns_of(self._found(_keys(ids)))

    def update(self, ids: Ids, loss: Floats, weight: Floats, step: int) -> None:
        keys = _keys(ids)
        found = self._found(keys)
        change(found, loss, weight, step)
        raw, width = found.tobytes(), PLAIN.itemsize
        self.server.mset({key: raw[at * width : at * width + width] for at, key in enumerate(keys)})

    def size(self) -> int:
        return int(self.server.info("memory")["used_memory"]) - self.before

    def close(self) -> None:
        self.server.flushdb()
        self.server.close()


def _keys(ids: Ids) -> list[bytes]:
    """Eight bytes each, in the order of the ids."""
    raw = ids.astype(">i8").tobytes()
    return [raw[at : at + 8] for at in range(0, len(raw), 8)]


STORE = "the store"
KEEPERS: dict[str, Callable[[Path, int], Keeper]] = {
    STORE: lambda folder, records: OurStore(folder, records, False),
    "the store, with its journal": lambda folder, records: OurStore(folder, records, True),
    "NumPy, a mapped file": MappedArray,
    "LMDB": Lmdb,
    "SQLite": Sqlite,
}
"""By name; Redis needs the address of a server."""
