"""Sample ids: non-negative int64, a pure function of where a sample lives, never of when it was delivered.

Two kinds share the 63 bits and can never meet:

- **dense** ids, ``0 <= id < 2**38``: the index of a map-style dataset, or an integer column;
- **hashed** ids, ``id >= 2**62``: a sample of a shard, or a string key. ``shard_id`` keeps neighbours within a shard
  neighbours in id space (blocks of 2**20 rows), so the store touches one page for many of them.
"""

from __future__ import annotations

from hashlib import blake2b
from operator import index
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from weighted_stream.errors import SampleIdError
from weighted_stream.sample_ids import DENSE_LIMIT as DENSE_LIMIT
from weighted_stream.sample_ids import HASHED as HASHED
from weighted_stream.sample_ids import MAX_ID as MAX_ID

ROW_BITS = 20
_ROW_MASK = (1 << ROW_BITS) - 1


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def shard_base(shard: str, block: int = 0) -> int:
    """The id of row 0 of ``block`` (rows ``block * 2**20`` and on) of a shard.

    42 bits of the hash name the block: with 100,000 shards the chance that any two meet is about 0.1 %; a source that
    knows its shards checks for it.
    """
    return HASHED | ((_digest(f"{shard}\0{block}") & ((1 << 42) - 1)) << ROW_BITS)


def shard_id(shard: str, row: int) -> int:
    """The id of one row of a shard.

    Example:
        >>> shard_id("train/00003.tar", 7) - shard_id("train/00003.tar", 0)
        7
    """
    return shard_base(shard, row >> ROW_BITS) | (row & _ROW_MASK)


def shard_ranges(shard: str, start: int, stop: int) -> list[range]:
    """`shard_id` of the rows ``start`` to ``stop`` of a shard, as ranges: one, unless they lie in several blocks.

    Example:
        >>> (ids,) = shard_ranges("a.parquet", 5, 7)
        >>> list(ids) == [shard_id("a.parquet", 5), shard_id("a.parquet", 6)]
        True
    """
    ranges: list[range] = []
    while start < stop:
        block = start >> ROW_BITS
        end = min(stop, (block + 1) << ROW_BITS)
        base = shard_base(shard, block) - (block << ROW_BITS)
        ranges.append(range(base + start, base + end))
        start = end
    return ranges


def shard_ids(shard: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """`shard_id` of many rows of a shard: (n,) int64 for (n,) rows.

    Example:
        >>> shard_ids("train/00003.tar", np.array([2**20, 7])).tolist() == [
        ...     shard_id("train/00003.tar", 2**20), shard_id("train/00003.tar", 7)
        ... ]
        True
    """
    blocks, place = np.unique(rows >> ROW_BITS, return_inverse=True)
    bases = np.array([shard_base(shard, block) for block in blocks.tolist()], np.int64)
    ids: NDArray[np.int64] = bases[place] | (rows & _ROW_MASK)
    return ids


def key_id(*parts: str) -> int:
    """The id of a sample that is named by strings, 62 bits of their hash.

    Example:
        >>> key_id("a.tar", "0001") == key_id("b.tar", "0001")
        False
    """
    return named_id("".join(map(named, parts)))


def named(part: str) -> str:
    """A part of a name with its length, so that ("a", "b") and ("ab", "") differ."""
    return f"{len(part)}:{part}"


def named_id(name: str) -> int:
    """The id of a whole name: ``key_id(a, b) == named_id(named(a) + named(b))``."""
    return HASHED | (_digest(name) & (HASHED - 1))


def content_id(sample: Any) -> int:
    """An id made of a sample's content, for streams whose samples carry no key: equal content, equal id.

    Takes str, bytes, numbers, None, tensors, arrays, and dicts, lists and tuples of them. It reads the whole sample,
    so it costs about a microsecond per kilobyte, and repeats in the data share one record: choose it knowingly.

    Raises:
        SampleIdError: for a value whose content it cannot read.

    Example:
        >>> content_id({"text": "a", "n": 1}) == content_id({"n": 1, "text": "a"})
        True
    """
    digest = blake2b(digest_size=8)
    _feed(digest, sample)
    return HASHED | (int.from_bytes(digest.digest(), "big") & (HASHED - 1))


def _feed(digest: Any, value: Any) -> None:
    """Feed one value, tagged with its type and length so that no two values feed the same bytes."""
    if isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, torch.Tensor) and value.dtype is not torch.bfloat16 and value.layout is torch.strided:
        value = value.detach().cpu().numpy()
    if isinstance(value, str):
        raw, tag = value.encode("utf-8", "surrogatepass"), "s"
    elif isinstance(value, (bytes, bytearray)):
        raw, tag = bytes(value), "b"
    elif value is None or isinstance(value, (bool, int, float)):
        raw, tag = repr(value).encode(), "n"
    elif isinstance(value, dict):
        digest.update(f"d{len(value)}:".encode())
        for key in sorted(value, key=repr):
            _feed(digest, key)
            _feed(digest, value[key])
        return
    elif isinstance(value, (list, tuple)):
        digest.update(f"l{len(value)}:".encode())
        for item in value:
            _feed(digest, item)
        return
    elif isinstance(value, torch.Tensor) and value.dtype is torch.bfloat16:  # unknown to numpy
        raw, tag = value.detach().cpu().contiguous().view(torch.int16).numpy().tobytes(), f"abf16{tuple(value.shape)}"
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        raw, tag = np.ascontiguousarray(value).tobytes(), f"a{value.dtype.str}{value.shape}"
    else:
        raise _unreadable(value)
    digest.update(f"{tag}{len(raw)}:".encode())
    digest.update(raw)


def _unreadable(value: Any) -> SampleIdError:
    return SampleIdError(
        "Cannot make an id of this content.",
        found=f"a value of type {type(value).__name__}",
        expected="str, bytes, numbers, arrays, and dicts or lists of them",
        do="pass id_fn= a function that returns an int or a str per sample",
    )


def check_id(value: Any, where: str) -> int:
    """The id that a column or an ``id_fn`` gave, checked: an int in [0, 2**63), or a str (hashed).

    Raises:
        SampleIdError: if there is none, or it is negative, too large or of another type.
    """
    if isinstance(value, str):
        return key_id(value)
    try:
        number = index(value) if not isinstance(value, (bool, np.bool_)) else None
    except TypeError:
        number = None
    if number is None or not 0 <= number <= MAX_ID:
        raise SampleIdError(
            f"The sample id from {where} cannot be used.",
            found=f"{value!r} ({type(value).__name__})",
            expected="an int in [0, 2**63) or a str, the same one for the same sample always",
            do="check the id column or id_fn; content_id makes an id of the content",
        )
    return number
