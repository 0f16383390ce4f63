"""A store without a path: open files that no directory lists."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from weighted_stream.store.file import StoreFile, failure
from weighted_stream.store.refusals import temporary


class Scratch:
    """The place of a temporary store. Nothing of it stays behind, not even after kill -9."""

    path = None

    def __init__(self) -> None:
        self._manifest: Any = None

    def open(self, name: str, *, write: bool, create: bool = False) -> StoreFile:
        """A new file; an old one cannot be opened again, for it has no name."""
        if not create:
            raise temporary()
        try:
            with tempfile.TemporaryFile(buffering=0) as file:
                return StoreFile(os.dup(file.fileno()), f"a temporary store's {name}", writable=write)
        except OSError as error:
            raise failure(
                "Cannot make a temporary store.",
                error,
                expected=f"a writable directory {tempfile.gettempdir()}",
                do="set TMPDIR to one, or give the store a path",
            ) from error

    def remove(self, name: str) -> None:
        """Nothing to do: the file goes with its last mapping."""

    def tables(self) -> list[str]:
        """None has a name."""
        return []

    def read_manifest(self) -> Any:
        """The value written last."""
        return self._manifest

    def write_manifest(self, value: Any) -> None:
        """Keep a value in memory."""
        self._manifest = value
