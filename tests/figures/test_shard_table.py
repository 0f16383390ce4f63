"""Ids tell their shards, also of large ones."""

from __future__ import annotations

import numpy as np

from weighted_stream.figures.shard_table import ShardTable
from weighted_stream.sources.ids import key_id, shard_ids


def test_every_row_finds_its_shard() -> None:
    shards = {"a": 5, "b": 2**20 + 3, "empty": 0, "c": 2**21}
    table = ShardTable("mds", shards)
    for number, (name, rows) in enumerate(shards.items()):
        places = np.unique(np.linspace(0, max(rows - 1, 0), 50).astype(np.int64))
        assert set(table.numbers(shard_ids(name, places)).tolist()) == {number}
    strangers = np.array([0, 7, key_id("a", "b"), int(shard_ids("d", np.array([0]))[0])])
    assert table.numbers(strangers).tolist() == [-1] * 4


def test_ids_that_do_not_tell() -> None:
    assert ShardTable("webdataset", {"a.tar": 1000}).names == ()
    assert ShardTable("torch-map", {}).numbers(np.array([3])).tolist() == [-1]
