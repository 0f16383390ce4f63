"""A checkpoint of some ranks goes on, on as many or on another number of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from elastic import SIZE, run
from ranks import run_ranks


def make_shards(folder: Path, source: str) -> None:
    if source == "parquet":
        (folder / "parquet").mkdir()
        for part in range(3):
            rows = list(range(part * 14, part * 14 + 14))
            pq.write_table(pa.table({"marker": rows}), folder / "parquet" / f"{part}.parquet", row_group_size=5)
    if source == "webdataset":
        webdataset = pytest.importorskip("webdataset")
        (folder / "tars").mkdir()
        with webdataset.ShardWriter(str(folder / "tars/%02d.tar"), maxcount=14, verbose=0) as writer:
            for row in range(SIZE):
                writer.write({"__key__": f"{row:03d}", "cls": row})
    if source == "mds":
        streaming = pytest.importorskip("streaming")
        with streaming.MDSWriter(out=str(folder / "mds"), columns={"marker": "int"}, size_limit=256) as writer:
            for row in range(SIZE):
                writer.write({"marker": row})


def of_rank(folder: Path, name: str, rank: int) -> Any:
    return torch.load(folder / f"{name}.{rank}.pt", weights_only=True)


def whole_run(folder: Path, source: str, ranks: int, workers: int, shared: bool) -> tuple[str | None, int]:
    """Run it all; the store's path, and the number of steps of rank 0."""
    make_shards(folder, source)
    path = str(folder / "store") if shared else None
    (folder / "first").mkdir()
    run_ranks(run, ranks, folder / "first", ranks, source, str(folder), workers, path, [], str(folder / "first"))
    return path, len(of_rank(folder / "first", "whole", 0)["steps"])


@pytest.mark.parametrize(
    ("source", "ranks", "workers", "shared"),
    [
        ("parquet", 4, 0, False),
        ("parquet", 2, 2, True),
        ("list", 2, 0, True),
        ("mds", 2, 0, True),
        ("webdataset", 2, 0, True),
    ],
)
@pytest.mark.timeout(240)
def test_as_many_ranks_go_on_bit_for_bit(source: str, ranks: int, workers: int, shared: bool, tmp_path: Path) -> None:
    path, count = whole_run(tmp_path, source, ranks, workers, shared)
    stops = list(range(count, 0, -1 if workers == 0 else -4))  # an older state makes newer ones impossible
    states = [str(tmp_path / "first" / f"state{stop}.pt") for stop in stops]
    (tmp_path / "again").mkdir()
    again = tmp_path / "again"
    run_ranks(run, ranks, again, ranks, source, str(tmp_path), workers, path, states, str(again))
    for rank in range(ranks):
        whole = of_rank(tmp_path / "first", "whole", rank)
        for stop in stops:
            rest = of_rank(again, f"state{stop}", rank)
            left = len(rest["steps"])
            assert rest["steps"] == whole["steps"][len(whole["steps"]) - left :]
            for name, values in whole["records"].items():
                torch.testing.assert_close(rest["records"][name], values, rtol=0, atol=0, equal_nan=True)
    rests = [of_rank(again, f"state{stops[-1]}", rank)["steps"] for rank in range(ranks)]
    assert max(map(len, rests)) == count - stops[-1]


@pytest.mark.parametrize(
    ("source", "before", "after", "shared"),
    [
        ("parquet", (2, 2), (4, 0), True),
        ("list", (2, 0), (3, 0), True),
        ("list", (4, 0), (2, 2), False),
        ("mds", (2, 0), (1, 0), True),
        ("mds", (1, 0), (2, 2), False),
        ("webdataset", (2, 1), (3, 0), True),
    ],
)
@pytest.mark.timeout(240)
def test_other_ranks_see_every_sample_once(
    source: str, before: tuple[int, int], after: tuple[int, int], shared: bool, tmp_path: Path
) -> None:
    path, _ = whole_run(tmp_path, source, *before, shared)
    done = [of_rank(tmp_path / "first", "whole", rank)["steps"] for rank in range(before[0])]
    again = tmp_path / "again"
    again.mkdir()
    stop = 3
    state = str(tmp_path / "first" / f"state{stop}.pt")
    run_ranks(run, after[0], again, after[0], source, str(tmp_path), after[1], path, [state], str(again))
    rest = [of_rank(again, f"state{stop}", rank) for rank in range(after[0])]
    for epoch in range(2):
        seen = Counter(m for steps in done for step in steps[:stop] if step["epoch"] == epoch for m in step["markers"])
        seen += Counter(m for r in rest for step in r["steps"] if step["epoch"] == epoch for m in step["markers"])
        assert set(seen) == set(range(SIZE))
        assert seen.total() <= SIZE + after[0] - 1 + before[0] - 1, "more than what fills up the last batch"
    for other in rest[1:]:
        for name, values in rest[0]["records"].items():
            torch.testing.assert_close(other["records"][name], values, rtol=0, atol=0, equal_nan=True)
    whole = of_rank(tmp_path / "first", "whole", 0)["records"]
    torch.testing.assert_close(rest[0]["records"]["last_loss"], whole["last_loss"], rtol=0, atol=0)
