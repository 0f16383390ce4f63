"""What a sampler draws: an item is a sample or a batch of them, and each is counted when it is handed over."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from struct import error, pack
from typing import Any, TypeAlias
from zlib import crc32

import numpy as np
from torch import Tensor
from torch.utils.data import Sampler

from weighted_stream.sources.wrapping import Forwarding

IndicesIn: TypeAlias = Callable[[Any], list[Any] | None]
"""The indices in an item that is a batch; None for an item that is the index, or the key, of one sample."""


def of_a_batch(item: Any) -> list[Any] | None:
    """The indices in what a batch sampler draws: a list, tuple, range, array, tensor or iterator of them.

    Example:
        >>> of_a_batch(np.array([4, 2])), of_a_batch((4, (2, 64)))
        ([4, 2], [4, (2, 64)])
    """
    return item.tolist() if isinstance(item, (Tensor, np.ndarray)) else list(item)


def of_a_sample(item: Any) -> list[Any] | None:
    """None: what a sampler draws for a loader with a batch size is the key of one sample, whatever it is."""
    return None


class Drawn(Forwarding, Sampler[Any]):
    """A sampler (or batch sampler) that remembers what it drew until that is handed over: a loader draws ahead.

    Args:
        sampler: draws items.
        indices_in: what is in an item.
        items: how many make a batch of the loader.

    Example:
        >>> drawn = Drawn([4, 2, 7], of_a_sample, 2)
        >>> list(drawn), drawn.hand_over(0) == (2, digest_of_keys([4, 2])), drawn.hand_over(0)[0]
        ([4, 2, 7], True, 1)
    """

    def __init__(self, sampler: Any, indices_in: IndicesIn, items: int) -> None:
        self._wrapped, self._indices_in, self._items = sampler, indices_in, items
        self._waiting: deque[list[Any]] = deque()

    def __iter__(self) -> Iterator[Any]:
        waiting = self._waiting = deque()
        for item in self._wrapped:
            indices = self._indices_in(item)
            waiting.append([item] if indices is None else indices)
            yield indices if indices is not None and isinstance(item, Iterator) else item  # that one is used up

    def __len__(self) -> int:
        return len(self._wrapped)

    def hand_over(self, digest: int) -> tuple[int, int]:
        """The next batch was handed over: for how many samples it was drawn, and the digest with their keys."""
        waiting = self._waiting
        indices = [index for _ in range(min(self._items, len(waiting))) for index in waiting.popleft()]
        return len(indices), digest_of_keys(indices, digest)

    def bare(self) -> Any:
        """The user's sampler."""
        return self._wrapped


def digest_of_keys(keys: Sequence[Any], digest: int = 0) -> int:
    """CRC-32 of indices, or keys of any kind, going on from that of those before.

    Of keys that are no numbers, texts, arrays, or tuples of these only their number shows: they may print differently
    in another process.

    Example:
        >>> digest_of_keys([2, "a"], digest_of_keys([4])) == digest_of_keys([4, 2, "a"])
        True
    """
    try:
        return crc32(pack(f"{len(keys)}q", *keys), digest)
    except (error, TypeError):  # that of an array
        return crc32(b"".join(map(_bytes_of, keys)), digest)


def _bytes_of(key: Any) -> bytes:
    try:
        return pack("q", key)
    except (error, TypeError):
        return repr(_plain(key)).encode()


def _plain(key: Any) -> Any:
    if isinstance(key, (Tensor, np.ndarray, np.generic)):
        key = key.tolist()
    if isinstance(key, (tuple, list)):
        return [_plain(part) for part in key]
    return key if isinstance(key, (str, bytes, int, float)) else None
