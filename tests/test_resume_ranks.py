"""Resuming on two ranks, each with its own state (in processes that import little: this file is small)."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ranks import run_ranks
from resuming import check_resuming, train
from torch.utils.data import DistributedSampler

from weighted_stream import LinUpper, ParquetDataset, WeightedStream

SIZE = 30


def resume_as_a_rank(rank: int, folder: str) -> None:
    """Each rank reads its own share, of Parquet files and of a list, and goes on after any step."""
    shares = []
    for workers in (0, 1):
        whole = WeightedStream(ParquetDataset(folder, shuffle=True), LinUpper(window="running"))
        shares.append(sorted(m for step, _ in train(whole, 1, batch_size=4, num_workers=workers) for m in step.markers))
    assert shares[0] == shares[1]
    assert len(shares[0]) == SIZE // 2

    def files() -> WeightedStream:
        return WeightedStream(ParquetDataset(folder, shuffle=True), LinUpper(window="running"))

    def rows() -> WeightedStream:
        return WeightedStream([{"marker": row} for row in range(SIZE)], LinUpper(window="running"))

    assert check_resuming(files, batch_size=4, num_workers=rank) >= 8  # also where ranks differ in their workers
    assert check_resuming(rows, batch_size=4, sampler=DistributedSampler(range(SIZE), shuffle=True, seed=3)) == 8


@pytest.mark.timeout(240)
def test_two_ranks(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for part in range(3):
        rows = list(range(part * 10, part * 10 + 10))
        pq.write_table(pa.table({"marker": rows}), tmp_path / "shards" / f"{part}.parquet", row_group_size=4)
    run_ranks(resume_as_a_rank, 2, tmp_path, str(tmp_path / "shards"))
