"""Parts read where a scorer reads them: in a process of its own, from a pickled source."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from typing import Any

import numpy as np

from weighted_stream.sources.base import Source

Read = list[tuple[str, list[tuple[int, Any]]]]


def marker_of(sample: Any) -> int:
    """Who a sample says it is."""
    if isinstance(sample, dict):
        sample = sample["marker"] if "marker" in sample else json.loads(sample["json"])["marker"]
    return int(sample)


def read_parts(source: Source, shuffle_seed: int | None = None) -> Read:
    """Name and (id, marker) of all parts; ids that are known ahead must be those that come with the samples."""
    found = []
    for part in source.parts(shuffle_seed):
        ids = part.ids()
        pairs = list(part.read())
        assert all(type(number) is int for number, _ in pairs)
        assert ids is None or (ids.dtype == np.int64 and ids.tolist() == [number for number, _ in pairs])
        found.append((part.name, [(number, marker_of(sample)) for number, sample in pairs]))
    return found


def pairs_of(parts: Read) -> list[tuple[int, int]]:
    """(id, marker) of all parts, in order."""
    return [pair for _, pairs in parts for pair in pairs]


def answer(source: Source, epoch: int, shuffle_seed: int | None, connection: Any) -> None:
    """What the other process does."""
    try:
        source.set_epoch(epoch)
        connection.send(read_parts(source, shuffle_seed))
    except Exception as error:
        connection.send(error)


def read_elsewhere(
    source: Source, epoch: int = 0, shuffle_seed: int | None = None, meanwhile: Callable[[], Any] = lambda: None
) -> tuple[Read, Any]:
    """`read_parts` in a spawned process, and what ``meanwhile`` gives here."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=answer, args=(source, epoch, shuffle_seed, theirs))
    process.start()
    try:
        here = meanwhile()
        assert ours.poll(60)
        found = ours.recv()
    finally:
        process.join(60)
    if isinstance(found, Exception):
        raise found
    assert process.exitcode == 0
    return found, here
