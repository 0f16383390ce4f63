"""The files in a directory, however deep, also behind links."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def files_below(folder: Path) -> list[Path]:
    """The files below a directory at any depth, relative to it, in the order of their names.

    Links are followed, but not into a directory that the way there comes through. Names that begin with ``_`` or ``.``,
    and directories that cannot be read, are skipped.
    """
    found: list[Path] = []
    left: list[tuple[Path, frozenset[tuple[int, int]]]] = [(Path(), frozenset())]
    while left:
        at, above = left.pop()
        with suppress(OSError):
            about = (folder / at).stat()
            here = (about.st_dev, about.st_ino)
            if here in above:
                continue
            with os.scandir(folder / at) as entries:
                visible = [entry for entry in entries if entry.name[0] not in "._"]
            for entry in visible:
                with suppress(OSError):  # a link that leads to itself
                    if entry.is_dir():
                        left.append((at / entry.name, above | {here}))
                    elif entry.is_file():
                        found.append(at / entry.name)
    return sorted(found)
