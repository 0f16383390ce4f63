"""Opening one store per node, or one per rank, on all ranks at once."""

from __future__ import annotations

import os

import numpy as np

from weighted_stream.errors import RanksError
from weighted_stream.ranks.group import RankGroup, place_of
from weighted_stream.ranks.node import NodeStore
from weighted_stream.store import SharedStore, WeightStore
from weighted_stream.store.manifest import Fingerprint


def open_on_ranks(
    group: RankGroup, store: WeightStore | str | os.PathLike[str] | None, fingerprint: Fingerprint
) -> NodeStore:
    """The store of this rank's node.

    Args:
        group: the ranks.
        store: a directory: ranks of one machine that give the same one share it. None: each rank has a temporary store.
            An open store: this rank's own.
        fingerprint: the dataset.

    Raises:
        StoreError, StoreMismatchError: if this rank cannot open it.
        RanksError: if another rank cannot.
    """
    path = None if store is None or isinstance(store, WeightStore) else store
    keys = _say(group, f"rank {group.rank}" if path is None else place_of(path))
    writer = keys.index(keys[group.rank])
    opened: WeightStore | None = None
    for turn in ("a", "r"):  # the writer first: it makes the files
        error: Exception | None = None
        if (turn == "a") == (group.rank == writer):
            try:
                opened = _open(store, turn == "a", fingerprint)
            except Exception as raised:
                error = raised
        failed = _say(group, "" if error is None else str(error) or type(error).__name__)
        if error is not None:
            raise error
        for rank, text in enumerate(failed):
            if text:
                raise RanksError(
                    f"Rank {rank} cannot open its store.",
                    found=text.replace("\n", "\n            "),
                    expected="a store that every rank can open",
                    do=f"see what rank {rank} says",
                )
    assert opened is not None
    node = NodeStore(opened, writer, shared=keys.count(keys[group.rank]) > 1)
    # All of them are about to remember the same feedback, which must not be sent to others more than once.
    with_server = [said == "shared" for said in _say(group, "shared" if isinstance(opened, SharedStore) else "")]
    if isinstance(opened, SharedStore):
        first = group.rank == with_server.index(True)
        opened.on_ranks(first, node.pass_on)
        for ids, records in opened.chunks() if first else ():
            scored = ~np.isnan(records["similarity"])
            node.pass_on(ids[scored], records["similarity"][scored])  # the others may have heard less so far
    return node


def _open(store: WeightStore | str | os.PathLike[str] | None, write: bool, fingerprint: Fingerprint) -> WeightStore:
    if isinstance(store, WeightStore):
        store.bind(fingerprint)
        return store
    if write:
        return WeightStore(store, fingerprint=fingerprint)
    return WeightStore(store, mode="r", fingerprint=fingerprint)


def _say(group: RankGroup, text: str) -> list[str]:
    return [said.tobytes().decode() for said in group.exchange(np.frombuffer(text.encode(), np.uint8).copy())]
