"""Folders that ``datasets.Dataset.save_to_disk`` wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from weighted_stream.errors import SourceError, missing_extra
from weighted_stream.shards.blocks import ROWS, Block, Input


def is_saved(path: Path) -> bool:
    """Whether this is a folder of ``save_to_disk``: of a dataset, or of a `DatasetDict`."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def open_saved(path: Path) -> Input:
    """The rows of a saved dataset, in its order; read from the disk as they are needed.

    Raises:
        SourceError: for a `DatasetDict`, which is several datasets, or a damaged folder.
        MissingExtraError: if the package ``datasets`` is not installed.
    """
    if (path / "dataset_dict.json").is_file():
        try:
            splits = list(json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise _unreadable(path, error) from error
        raise SourceError(
            "This folder holds several datasets.",
            found=f"{path} with the splits {splits}",
            expected="one of them",
            do=f"name its folder: {path / splits[0]}" if splits else "save the dataset again",
        )
    try:
        import datasets
    except ImportError as error:
        raise missing_extra("datasets", "hf") from error
    try:
        data = datasets.load_from_disk(str(path)).with_format("arrow")
    except Exception as error:  # whatever its readers of JSON and Arrow raise
        raise _unreadable(path, error) from error

    def blocks() -> Iterator[Block]:
        start = 0
        for table in data.iter(ROWS):
            yield Block(path.name, start, table.to_pylist())
            start += table.num_rows

    return Input(blocks, data.features.arrow_schema.remove_metadata(), table=True)


def _unreadable(path: Path, error: Exception) -> SourceError:
    return SourceError(
        f"Cannot read the dataset {path}.",
        found=f"{type(error).__name__}: {error}",
        expected="a folder that datasets.Dataset.save_to_disk wrote",
        do="save the dataset again",
    )
