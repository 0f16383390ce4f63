"""What tells a shard whose contents have changed, without reading its samples: bytes, and where samples lie in them."""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path

from weighted_stream.shards.folder import ShardFolder

_WORD = 4


def contents_of(opened: ShardFolder, shard: str) -> str | None:
    """The bytes of a shard's file, and a digest of what it says of its samples.

    Of a Parquet file that is the footer: where each column lies, how long it is compressed, its statistics. Of an MDS
    shard it is how long each sample is; so samples that were replaced by others of the very same lengths go unseen.

    Args:
        opened: the shards.
        shard: the name of one of them.

    Returns:
        None where it cannot be known for nothing: of a tar file, which says nothing (its size is its bytes); of shards
        in S3, where it would take a request for each; of a file that is not there, such as an MDS shard still to be
        unpacked.
    """
    if opened.root is None or opened.kind == "webdataset":
        return None
    # The name of an MDS shard begins with that of its folder.
    path = opened.root / (shard.partition("/")[2] if opened.kind == "mds" else shard)
    try:
        said = read_footer(path) if opened.kind == "parquet" else _lengths(path)
        return f"{path.stat().st_size}-{blake2b(said, digest_size=8).hexdigest()}"
    except (OSError, ValueError):  # names that are no text
        return None


def read_footer(path: Path) -> bytes:
    """The footer of a Parquet file, undecoded.

    Raises:
        OSError: if it cannot be read.
    """
    with open(path, "rb") as file:
        file.seek(-2 * _WORD, os.SEEK_END)
        length = int.from_bytes(file.read(_WORD), "little")
        file.seek(-2 * _WORD - length, os.SEEK_END)
        return file.read(length)


def _lengths(path: Path) -> bytes:
    """The head of an MDS shard: how many samples there are, and where each begins and the last ends."""
    with open(path, "rb") as file:
        count = file.read(_WORD)
        length = _WORD * (int.from_bytes(count, "little") + 1)
        return count + file.read(min(length, path.stat().st_size))  # a damaged one may say anything
