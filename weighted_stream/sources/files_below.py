"""The files in a directory, however deep, also behind links."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def files_below(folder: Path) -> list[Path]:
    """The files below a directory at any depth, relative to it, in the order of their names.

    Links to directories are followed, if they lead to what is not below it already. Names that begin with ``_`` or
    ``.``, and directories that cannot be read, are skipped.
    """
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    real: list[Path] = [Path()]
    linked: list[Path] = []
    while real or linked:
        at = real.pop() if real else linked.pop(0)
        with suppress(OSError):
            about = (folder / at).stat()
            here = (about.st_dev, about.st_ino)
            if here in seen:
                continue
            seen.add(here)
            with os.scandir(folder / at) as entries:
                visible = sorted((entry for entry in entries if entry.name[0] not in "._"), key=lambda one: one.name)
            for entry in visible:
                with suppress(OSError):  # a link that leads to itself
                    if entry.is_dir():
                        (linked if entry.is_symlink() else real).append(at / entry.name)
                    elif entry.is_file():
                        found.append(at / entry.name)
    return sorted(found)
