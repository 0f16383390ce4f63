"""The benchmarks' harness: pairs, spreads, tables, results."""

from __future__ import annotations

import json

import pytest

from benchmarks import harness


def test_pairs_alternate_and_ratios_go_pair_by_pair() -> None:
    calls: list[str] = []
    ours, theirs = iter([99.0, 2.0, 4.0, 9.0]), iter([99.0, 1.0, 4.0, 3.0])

    def a() -> float:
        calls.append("a")
        return next(ours)

    def b() -> float:
        calls.append("b")
        return next(theirs)

    first, second, ratio = harness.paired(a, b, repeats=3, warmup=1)
    assert "".join(calls) == "baabbaab"
    assert (first.median, second.median) == (4.0, 3.0)
    assert (ratio.low, ratio.median, ratio.high) == (1.0, 2.0, 3.0)


def test_results_are_kept_with_their_machine(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    harness.save("x", {"ratio": harness.Spread.of([1.0, 2.0, 4.0])})
    kept = json.loads((tmp_path / "x.json").read_text())
    assert kept["ratio"] == {"median": 2.0, "low": 1.0, "high": 4.0}
    assert "torch" in kept["machine"]
    assert str(harness.Spread(2.0, 1.0, 4.0)) == "2 (1–4)"


def test_tables_line_up() -> None:
    lines = harness.table(["name", "n"], [["a", 1], ["long name", 22]]).splitlines()
    assert lines == ["name       n", "---------  --", "a          1", "long name  22"]


@pytest.mark.parametrize("name", ["parquet", "in memory"])
def test_the_loader_benchmark_measures_something(name: str, tmp_path) -> None:
    from benchmarks.loader_overhead import compare, in_memory, write_parquet

    make = write_parquet(tmp_path, 400) if name == "parquet" else in_memory(tmp_path, 400)
    ours, theirs, ratio = compare(make, 400, 0, warm=True)
    assert min(ours.low, theirs.low, ratio.low) > 0
