"""A weighting network in a file: numpy's npz, with what it is in JSON inside; nothing in it is ever executed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weighted_stream.errors import StateError

FORMAT = "weighted_stream weighting network"
VERSION = 1
LARGEST = 1 << 30
"""Bytes that a file may unpack to; a network has kilobytes."""


def save_network(path: str | PathLike[str], options: Mapping[str, int], values: Mapping[str, Tensor]) -> None:
    """Write a network's options and parameters, whole or not at all.

    Args:
        path: of the file; an old one is replaced.
        options: what the network is made with.
        values: its parameters by name.
    """
    about = json.dumps({"format": FORMAT, "version": VERSION, "options": dict(options)})
    arrays: dict[str, Any] = {f"psi.{name}": values[name].detach().cpu().numpy() for name in values}
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            np.savez(file, about=np.frombuffer(about.encode(), np.uint8), **arrays)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def load_network(path: str | PathLike[str]) -> tuple[dict[str, int], dict[str, Tensor]]:
    """The options and parameters in a file.

    Raises:
        StateError: for a file that is not whole, or none of a weighting network.
        FileNotFoundError: if there is none.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if (size := sum(info.file_size for info in arrays.zip.infolist())) > LARGEST:
                raise _no_network(path, f"{size:,} bytes, unpacked")
            about = json.loads(arrays["about"].tobytes())
            if about["format"] != FORMAT or about["version"] != VERSION:
                raise _no_network(path, f"{about['format']!r}, version {about['version']}")
            values = {name[4:]: torch.from_numpy(arrays[name]) for name in arrays.files if name.startswith("psi.")}
            return {name: int(value) for name, value in about["options"].items()}, values
    except (FileNotFoundError, StateError):
        raise
    except Exception as error:  # numpy reads headers as Python: whatever zlib, its tokenizer or its parser raise
        raise _no_network(path, f"{type(error).__name__}: {error}") from error


def _no_network(path: str | PathLike[str], found: str) -> StateError:
    return StateError(
        f"There is no weighting network in {os.fspath(path)}.",
        found=found,
        expected=f"a file that DataWeightingModel.save() wrote, whole, version {VERSION}",
        do="save it again with this version of the library",
    )
