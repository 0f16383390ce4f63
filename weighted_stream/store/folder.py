"""A store in a directory of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from weighted_stream.errors import StoreError
from weighted_stream.store.file import StoreFile, failure
from weighted_stream.store.place import HEADER, MANIFEST, RECORDS

_MANIFEST_DRAFT = MANIFEST + ".new"


class Folder:
    """A store in a directory.

    Args:
        path: the directory.
        create: make it and its parents if there is none.

    Raises:
        StoreError: if there is no such directory, it cannot be made, or it holds something else than a store.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        self.path = path
        try:
            if create:
                path.mkdir(parents=True, exist_ok=True)
            names = set(os.listdir(path))
        except OSError as error:
            raise failure(
                f"Cannot open a store in {path}.",
                error,
                expected="the directory of a store" + (", or a path where one can be made" if create else ""),
                do="check the path and its permissions",
            ) from error
        strangers = {name for name in names if name not in (HEADER, RECORDS, _MANIFEST_DRAFT)}
        if MANIFEST not in names and (strangers - set(self.tables()) or not create):
            raise StoreError(
                f"{path} is not the directory of a store.",
                found=f"no {MANIFEST}, and {len(names)} other files" + "".join(f", {n}" for n in sorted(names)[:3]),
                expected="an empty or a new directory" if create else f"a {MANIFEST}",
                do="check the path; a store has a directory of its own",
            )

    def open(self, name: str, *, write: bool, create: bool = False) -> StoreFile:
        """Open a file of the directory."""
        flags = (os.O_RDWR if write else os.O_RDONLY) | (os.O_CREAT | os.O_TRUNC if create else 0)
        try:
            fd = os.open(self.path / name, flags | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise failure(
                f"Cannot open {self.path / name}.",
                error,
                expected=f"a {'writable' if write else 'readable'} file",
                do="check permissions; if the file is lost, restore the store from a copy or begin a new one"
                + ('; mode="r" only reads' if write else ""),
            ) from error
        return StoreFile(fd, str(self.path / name), writable=write)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def tables(self) -> list[str]:
        """The names of all tables of hashed ids."""
        return [file.name for file in self.path.glob("hashed-*.bin")]

    def begun(self) -> bool:
        """Whether samples were written here."""
        file = self.path / RECORDS
        # A hole has no blocks.
        return bool(self.tables()) or (file.exists() and file.stat().st_blocks > 0)

    def read_manifest(self) -> Any:
        """The manifest, or None if there is none.

        Raises:
            StoreError: if it is no JSON.
        """
        file = self.path / MANIFEST
        try:
            return json.loads(file.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise failure(
                f"Cannot read {file}.", error, expected="a readable file", do="check its permissions"
            ) from error
        except (ValueError, RecursionError) as error:
            raise StoreError(
                f"{file} is damaged.",
                found=f"no JSON: {error}",
                expected="the manifest this library wrote",
                do="restore it from a copy, or delete the directory and begin a new store",
            ) from error

    def write_manifest(self, value: Any) -> None:
        """Write the manifest beside the old one and put it in its place."""
        draft = self.path / _MANIFEST_DRAFT
        try:
            with open(draft, "w", encoding="utf-8") as file:
                json.dump(value, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, self.path / MANIFEST)
        except OSError as error:
            raise failure(
                f"Cannot write {self.path / MANIFEST}.",
                error,
                expected="a writable directory",
                do="check its permissions and the disk's free space",
            ) from error
