"""WebDataset shards: writing and opening them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from weighted_stream.errors import SourceError, missing_extra
from weighted_stream.shards.blocks import Row
from weighted_stream.shards.columns import is_bytes, json_safe, unsupported

_PLAIN = re.compile(r"[a-z0-9-][a-z0-9_-]*")
"""Names that webdataset keeps: it leaves out members that begin with "_", and reads capitals as small letters."""
_BYTES = ".bin"


class TarShards:
    """Writes tar shards for WebDataset.

    A sample's key counts the samples from 0. All its columns are in the member ``json``, but for those of bytes, which
    are members of their own, ``<column>.bin``. `as_row` puts them together again.

    Args:
        folder: for the shards.
        schema: the columns.

    Raises:
        SourceError: for a column that JSON cannot hold.
        MissingExtraError: if the package ``webdataset`` is not installed.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        for field in schema:
            if is_bytes(field.type) and not _PLAIN.fullmatch(field.name):
                raise SourceError(
                    f"WebDataset cannot hold the bytes of the column {field.name!r}.",
                    found=f"the name {field.name!r}",
                    expected="a name of small letters, digits, '-' and '_', and no '_' first",
                    do="rename the column, or convert to parquet or mds",
                )
            if not (json_safe(field.type) or is_bytes(field.type)):
                raise unsupported(field, "WebDataset")
        self._folder = folder
        self._writer: Any = None
        self._shards = self._rows = 0

    def begin(self) -> None:
        """Begin a shard."""
        try:
            from webdataset import TarWriter
        except ImportError as error:
            raise missing_extra("webdataset", "webdataset") from error
        path = str(self._folder / f"{self._shards:05}.tar")
        self._writer = TarWriter(path, encoder=False, mtime=0)  # the same samples, the same bytes
        self._shards += 1

    def write(self, row: Row) -> None:
        """Write a sample."""
        plain = {name: value for name, value in row.items() if not isinstance(value, bytes)}
        members = {name + _BYTES: value for name, value in row.items() if isinstance(value, bytes)}
        text = json.dumps(plain, ensure_ascii=False)
        self._writer.write({"__key__": f"{self._rows:09}", "json": text.encode(), **members})
        self._rows += 1

    def end(self) -> None:
        """Finish the shard."""
        self._writer.close()

    def close(self) -> None:
        """Nothing is left to do."""


def as_row(sample: Mapping[str, Any]) -> Row:
    """The columns of a sample of a tar file, decoded or not.

    The values in its member ``json`` become columns beside its other members; bytes of a member ``<column>.bin`` become
    that column. ``__key__`` and the like are left out.

    Raises:
        SourceError: if its member ``json`` is no JSON object.

    Example:
        >>> as_row({"__key__": "000", "json": b'{"text": "a", "n": 1}', "image.bin": b"..."})
        {'text': 'a', 'n': 1, 'image': b'...'}
    """
    values = sample.get("json", {})
    if isinstance(values, (bytes, str)):
        try:
            values = json.loads(values)
        except (ValueError, RecursionError) as error:
            raise _no_object(sample, f"{error}") from error
    if not isinstance(values, dict):
        raise _no_object(sample, type(values).__name__)
    members = {n.removesuffix(_BYTES): v for n, v in sample.items() if n != "json" and not n.startswith("__")}
    return {**values, **members}


def _no_object(sample: Mapping[str, Any], found: str) -> SourceError:
    return SourceError(
        f"The member 'json' of the sample {sample.get('__key__')!r} cannot be read.",
        found=found,
        expected="a JSON object",
        do="write the shard again",
    )


def open_webdataset(shards: Sequence[str | Path], **options: Any) -> Any:
    """A ``webdataset.WebDataset`` of tar files.

    Args:
        shards: the files, or urls.
        **options: of the ``WebDataset``.

    Raises:
        MissingExtraError: if the package ``webdataset`` is not installed.
    """
    try:
        from webdataset import WebDataset
    except ImportError as error:
        raise missing_extra("webdataset", "webdataset") from error
    return WebDataset([str(path) for path in shards], **options)
