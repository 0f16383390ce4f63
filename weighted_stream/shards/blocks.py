"""Samples on their way from a file into shards, some at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa

Row: TypeAlias = dict[str, Any]

ROWS = 256
"""Samples that are held at once."""


class Block(NamedTuple):
    """Some samples that follow each other in a file.

    Attributes:
        file: the durable name of the file.
        start: how many samples of the file come before.
        rows: the samples.
    """

    file: str
    start: int
    rows: list[Row]


@dataclass(frozen=True)
class Input:
    """Samples that can be read again and again.

    Attributes:
        blocks: reads them all, in order.
        schema: their columns, where the file says; None if only reading can tell.
        table: whether all of it is one table, whose rows count from 0 (a Hugging Face dataset).
    """

    blocks: Callable[[], Iterator[Block]]
    schema: pa.Schema | None = None
    table: bool = False


def in_blocks(file: str, rows: Iterable[Row], size: int = ROWS) -> Iterator[Block]:
    """The samples of one file, ``size`` at a time.

    Example:
        >>> [(block.start, len(block.rows)) for block in in_blocks("a.txt", [{"n": n} for n in range(5)], size=2)]
        [(0, 2), (2, 2), (4, 1)]
    """
    start, rest = 0, iter(rows)
    while some := list(islice(rest, size)):
        yield Block(file, start, some)
        start += len(some)
