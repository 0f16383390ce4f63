"""A store on a disk that fills up: `python full_disk.py DISK FILLER TEMPORARY`.

DISK is a small one, FILLER how many bytes on it are freed later, TEMPORARY a folder on another disk.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from test_journal_state import contents, step

from weighted_stream import LinUpper, WeightedStream, WeightStore
from weighted_stream.errors import StoreError


def main(disk: Path, filler: int) -> None:
    (disk / "filler").write_bytes(bytes(filler))
    path = disk / "store"
    with WeightStore(path, journal_bytes=1 << 20) as store, WeightStore() as plain:
        number = 0
        while True:  # records on pages of their own: they fill the disk, not the journal alone
            ids = np.arange(20) * 128 + number * 2560
            try:
                store.update(ids, loss=ids % 7, weight=np.ones(20), step=number)
            except StoreError as error:
                said = error.problem, str(error.found), error.do  # itself, it would keep the files
                break
            plain.update(ids, loss=ids % 7, weight=np.ones(20), step=number)
            number += 1
        print(f"full after {number} updates: {said[0]} {said[1]}")
        assert number > 3
        assert "free" in said[2]
        assert contents(store) == contents(plain)
        for _ in range(3):
            try:
                store.update(ids, loss=ids % 7, weight=np.ones(20), step=number)
                raise AssertionError("a full disk took more")
            except StoreError:
                pass
        assert contents(store) == contents(plain)
        try:
            store.to_parquet(disk / "export.parquet")
        except StoreError:
            assert not (disk / "export.parquet").exists()
        with WeightStore(path, mode="r") as reader:
            assert len(reader) == len(plain)
        (disk / "filler").unlink()
        for each in (store, plain):
            each.update(ids, loss=ids % 7, weight=np.ones(20), step=number)
            for more in range(10):
                step(each, more)
        whole = contents(plain)
        assert contents(store) == whole
    with WeightStore(path, journal_bytes=1 << 20) as store:
        assert contents(store) == whole
    WeightStore.rebuild(path)
    with WeightStore(path, journal_bytes=1 << 20) as store:
        assert contents(store) == whole
    shutil.rmtree(path)
    trained(disk, filler)


def trained(disk: Path, filler: int) -> None:
    """A training loop raises, frees some room, and goes on with the same batch: nothing is lost or counted twice."""
    size = 40_000 * 128
    (disk / "filler").write_bytes(bytes(filler))
    failed = 0
    data = range(0, size, 128)
    with WeightedStream(list(range(size)), LinUpper(), store=disk / "trained") as stream:
        import torch

        for first in range(0, 120 * 32, 32):
            ids = data[first : first + 32]
            weight, losses = stream.weight(list(ids)), torch.rand(32)
            try:
                losses * weight
            except StoreError:
                failed += 1
                (disk / "filler").unlink()
                losses * weight
        visits = stream.store.get(list(data[: 120 * 32]))["visits"]
        assert (visits == 1).all(), np.bincount(visits)
    print(f"trained: {failed} batches found no room at first")


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "The journal of this store cannot be compacted")
    tempfile.tempdir = sys.argv[3]
    main(Path(sys.argv[1]), int(sys.argv[2]))
