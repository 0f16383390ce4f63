"""Where a key may be in an open-addressed table. Pure functions over an array of keys; 0 is a free slot.

The table consists of blocks of 16 buckets with 8 slots each. The upper bits of a key choose a block, its
lower 4 bits a bucket there (turned by bits of the hash, or keys that are all multiples of 16 would meet in
one bucket of each block), and it may be in any slot of the bucket. If the bucket is full, the search goes on
one step further, in another block. So 16 consecutive ids share a block and with it a page of records, a
look-up reads one cache line of keys, and nearly every key is in its first bucket.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from weighted_stream.store.record import Ids

_WAYS = 8
_WAY_BITS = 3
_BUCKET_BITS = 4
_BLOCK_BITS = _WAY_BITS + _BUCKET_BITS

_BUCKET_SHIFT = np.uint64(_BUCKET_BITS)
_BUCKETS = np.uint64((1 << _BUCKET_BITS) - 1)
_FOLD = np.uint64(32)
_TURN = np.uint64(28)
_STEP = np.uint64(20)
_ONE = np.uint64(1)
# 2**64 divided by the golden ratio: multiplying by it spreads neighbours evenly over the upper bits. Once is
# not enough for ids that differ in few bits only.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

_Hashes = npt.NDArray[np.uint64]


class Found(NamedTuple):
    """The outcome of a look-up.

    Attributes:
        slots: where each id is, (n,) int64; for one that is not there, the free slot it belongs in, or -1.
        known: whether it is there, (n,) bool; None if all are.
    """

    slots: Ids
    known: npt.NDArray[np.bool_] | None


def find(keys: Ids, ids: Ids) -> Found:
    """Look up ids.

    Args:
        keys: the table, (2**k,) int64, at least two blocks.
        ids: (n,) int64, positive.
    """
    bits = keys.size.bit_length() - 1 - _BLOCK_BITS
    key = ids.view(np.uint64)
    spread = key >> _BUCKET_SHIFT
    spread ^= spread >> _FOLD
    spread *= _GOLDEN
    spread ^= spread >> _FOLD
    spread *= _GOLDEN
    bucket = (((spread >> _TURN) ^ key) & _BUCKETS) | ((spread >> np.uint64(64 - bits)) << _BUCKET_SHIFT)
    first = bucket.view(np.int64)
    hits = (keys.reshape(-1, _WAYS).take(first, axis=0) == ids[:, None]).ravel().nonzero()[0]
    if hits.size == ids.size:
        # One hit per row, so row after row.
        return Found((first << _WAY_BITS) | (hits & (_WAYS - 1)), None)
    return _search(keys, ids, bucket, (spread >> _STEP) | _ONE, bits)


def _search(keys: Ids, ids: Ids, bucket: _Hashes, step: _Hashes, bits: int) -> Found:
    """Look up ids by all their buckets in turn: stop at the key or at a free slot."""
    buckets = keys.reshape(-1, _WAYS)
    slots, known = np.full(ids.size, -1), np.zeros(ids.size, np.bool_)
    left = np.arange(ids.size)
    mask = np.uint64((1 << (bits + _BUCKET_BITS)) - 1)
    step <<= _BUCKET_SHIFT
    for _ in range(1 << bits):
        where = bucket.view(np.int64)
        seen = buckets.take(where, axis=0)
        hit = seen == ids[left, None]
        # Slots fill from the left and are never freed, so the key, if it is in this bucket, comes first.
        way = (hit | (seen == 0)).argmax(axis=1)
        row = np.arange(left.size)
        there = hit[row, way]
        done = there | (seen[row, way] == 0)
        slots[left[done]] = ((where << _WAY_BITS) | way)[done]
        known[left[there]] = True
        more = ~done
        left, step = left[more], step[more]
        if not left.size:
            break
        bucket = (bucket[more] + step) & mask
    return Found(slots, known)


def insert(keys: Ids, ids: Ids) -> Ids | None:
    """Enter distinct ids that are not in the table, and return their slots; None if one found none free."""
    slots = np.empty(ids.size, np.int64)
    left = np.arange(ids.size)
    while left.size:
        wanted = ids[left]
        free = find(keys, wanted).slots
        if free.min() < 0:
            return None
        # Several may want one slot: the last to write it has it, the others look on.
        keys[free] = wanted
        won = keys.take(free) == wanted
        slots[left[won]] = free[won]
        left = left[~won]
    return slots
