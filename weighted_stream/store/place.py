"""Where the files of a store are, and what they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from weighted_stream.store.file import StoreFile

HEADER, RECORDS, MANIFEST = "header.bin", "records.bin", "manifest.json"
JOURNAL = "journal"


def table_name(generation: int) -> str:
    """The file of one generation of the table of hashed ids."""
    return f"hashed-{generation}.bin"


class Place(Protocol):
    """Opens and removes the files of one store."""

    @property
    def path(self) -> Path | None:
        """The directory, if there is one."""
        ...

    def open(self, name: str, *, write: bool, create: bool = False) -> StoreFile:
        """Open a file; ``create`` makes it, empty, in place of any that is there."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...

    def tables(self) -> list[str]:
        """The names of all tables of hashed ids."""
        ...

    def read_manifest(self) -> Any:
        """The JSON value that was written last, or None."""
        ...

    def write_manifest(self, value: Any) -> None:
        """Keep a JSON value: all of it or nothing, whenever the process dies."""
        ...
