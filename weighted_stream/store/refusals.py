"""What a store object refuses to do, whatever the arguments."""

from __future__ import annotations

import os

from weighted_stream.errors import StoreError


def mode(path: object, mode: object) -> StoreError:
    """There is no such way to open a store."""
    return StoreError(
        "A store cannot be opened like this.",
        found=f"path={path!r}, mode={mode!r}",
        expected='mode "a" (read and write), or "r" (read) with a path',
        do='WeightStore(path) or WeightStore(path, mode="r")',
    )


def address(url: str) -> StoreError:
    """A server is no directory; what may stand in its address is not shown."""
    return StoreError(
        "A store on a server is a SharedStore.",
        found=f"{url.partition('://')[0]}://…, where a directory is wanted",
        expected="a directory, or a SharedStore",
        do="store=SharedStore(url), or SharedStore(url, path) with a local directory of its own",
    )


def closed() -> StoreError:
    """Nothing can be done with a closed store."""
    return StoreError(
        "This store is closed.",
        found="a use after close()",
        expected="an open store",
        do="use it before close() or inside the with block; a store with a path can be opened again",
    )


def write(process: int | None) -> StoreError:
    """A store object that reads cannot write.

    Args:
        process: the process that opened it for writing, if any did.
    """
    if process is None:
        return StoreError(
            "This store was opened for reading.",
            found='mode="r"',
            expected='mode="a"',
            do="write with the object that has the store open for writing, in its process",
        )
    return StoreError(
        "A store is written by the process that opened it.",
        found=f"process {os.getpid()}, forked from {process}",
        expected=f"process {process}",
        do="hand ids and values to the main process; a fork only reads",
    )


def temporary() -> StoreError:
    """Nothing leads from another process to a temporary store."""
    return StoreError(
        "Another process cannot open a temporary store.",
        found="a store without a path",
        expected="a store with a path, which any process can read",
        do="WeightStore(path), or WeightedStream(..., store=path)",
    )


def no_state(found: str) -> StoreError:
    """What should be loaded was never a state."""
    return StoreError(
        "This is no state of a store.",
        found=found,
        expected="what state_dict() returned",
        do="load the checkpoint again, or begin with a new store",
    )


def no_journal() -> StoreError:
    """There is no journal, or no place for one."""
    return StoreError(
        "This store has no journal.",
        found="a temporary store, or one opened with journal=False",
        expected="a store with a path, beside whose records the journal lies",
        do="WeightStore(path)",
    )


def not_on_disk(error: OSError) -> StoreError:
    """The system has what was written, and cannot put it on the disk."""
    return StoreError(
        "What the store holds cannot be put on its disk.",
        found=error.strerror or str(error),
        expected="a disk with room, that can be reached",
        do="free some space, then flush() again",
    )


def names(found: int, expected: int) -> StoreError:
    """Groups cannot be told from these names."""
    return StoreError(
        "The store cannot tell whose groups these are.",
        found=f"{found} names",
        expected=f"{expected}, one per id",
        do="store.set_groups(ids, names), with a name for each id",
    )
