"""Texts of unequal length in batches that hardly pad: sorted by length, cut by the number of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rows: TypeAlias = NDArray[np.int64]
T = TypeVar("T")
R = TypeVar("R")


def token_batches(lengths: Sequence[int], budget: int) -> list[Rows]:
    """Cut texts into batches of like length, the longest first (a batch that does not fit in memory fails at once).

    A length with texts enough for a quarter of a batch has batches of its own: without padding, attention needs no
    mask and takes its fastest kernel. Rarer lengths join their neighbours and are padded to the longest of them.

    Args:
        lengths: tokens of each text.
        budget: tokens of a batch, padding included; a longer text is a batch by itself.

    Returns:
        The rows of each batch; every text is in one.

    Example:
        >>> [rows.tolist() for rows in token_batches([3, 5, 3, 4, 3], budget=9)]
        [[1], [3], [0, 2, 4]]
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    count = np.bincount(sizes, minlength=1)
    common = count * np.arange(len(count)) * 4 >= budget
    batches: list[list[int]] = []
    longest = group = -1
    for row in np.argsort(-sizes, kind="stable").tolist():
        length = int(sizes[row])
        own = length if common[length] else -1
        if not batches or own != group or (len(batches[-1]) + 1) * longest > budget:
            batches.append([])
            longest, group = length, own
        batches[-1].append(row)
    return [np.array(batch) for batch in batches]


def pad(tokens: Sequence[Sequence[int]], value: int, left: bool = False) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both (n, longest) int64.

    Example:
        >>> pad([[7, 8], [9]], value=0)
        (tensor([[7, 8],
                [9, 0]]), tensor([[1, 1],
                [1, 0]]))
    """
    longest = max(map(len, tokens))
    ids = np.full((len(tokens), longest), value, np.int64)
    mask = np.zeros((len(tokens), longest), np.int64)
    for row, one in enumerate(tokens):
        place = slice(longest - len(one), None) if left else slice(len(one))
        ids[row, place] = one
        mask[row, place] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def windows(count: int, first: int = 256, largest: int = 8192) -> Iterator[slice]:
    """Slices of ``range(count)`` that double: the first is prepared soon, the later sort many texts at once."""
    start, size = 0, first
    while start < count:
        yield slice(start, start + size)
        start, size = start + size, min(2 * size, largest)


def ahead(prepare: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``map(prepare, items)``, with the next one being prepared in a thread while the last is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="tokenise") as pool:
        waiting: Future[Any] | None = None
        for item in items:
            following = pool.submit(prepare, item)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
