"""Tables of results: those that were saved, those of older results, those that nobody has made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import results_page

SAVED: dict[str, Any] = {
    "machine": "2 × a processor",
    "date": "2026-11-29",
    "command": "python -m benchmarks.new --quick",
    "tables": [
        {
            "title": "A table",
            "columns": [{"name": "weights", "unit": ""}, {"name": "time", "unit": "µs"}],
            "rows": [["uniform", {"median": 1.0, "low": 0.5, "high": 2.0}], ["a | b", None], ["LinUpper r 1", 12345.6]],
            "note": "A note.",
        }
    ],
}


def test_saved_tables_are_shown_as_they_are() -> None:
    text = results_page.page({"new": SAVED})
    assert "## new\n\n`python -m benchmarks.new --quick`, on 2 × a processor, 2026-11-29\n\n**A table**" in text
    rows = ["weights | time, µs", "--- | ---", "uniform | 1 (0.5–2)", "a \\| b | ", "LinUpper r 1 | 12,346"]
    assert "\n".join(f"| {row} |" for row in rows) + "\n\nA note.\n" in text


def test_a_page_gets_the_rows_that_it_asks_for(tmp_path: Path) -> None:
    page = "Before.\n<!-- figures: new | uniform; LinUpper* -->\nold\n<!-- end of figures -->\nAfter.\n"
    text = results_page.filled(page, {"new": SAVED}, results_page.ROOT / "docs" / "methods")
    assert "| uniform |" in text
    assert "| LinUpper r 1 |" in text
    assert "a \\| b" not in text
    assert "\nold\n" not in text
    assert "(../results.md#new)" in text
    assert text.startswith("Before.\n<!-- figures: new | uniform; LinUpper* -->\n")
    assert text.endswith("<!-- end of figures -->\nAfter.\n")
    assert results_page.filled(text, {"new": SAVED}, results_page.ROOT / "docs" / "methods") == text


def test_and_the_columns(tmp_path: Path) -> None:
    wide = {**SAVED["tables"][0], "columns": [*SAVED["tables"][0]["columns"], {"name": "loss", "unit": ""}]}
    wide["rows"] = [[*row, f"3.{place}"] for place, row in enumerate(wide["rows"])]
    text = results_page.figures("new | uniform; Lin* | lo*", {"new": {**SAVED, "tables": [wide]}}, results_page.ROOT)
    assert "| weights | loss |\n| --- | --- |\n| uniform | 3.0 |\n| LinUpper r 1 | 3.2 |\n\nA note." in text
    assert "| a \\| b | 3.1 |" in results_page.figures("new | | loss", {"new": {**SAVED, "tables": [wide]}}, tmp_path)


def test_rows_columns_and_results_that_are_not_there_are_named() -> None:
    with pytest.raises(ValueError, match="no row of new fits 'Adapt"):
        results_page.figures("new | uniform; Adapt*", {"new": SAVED}, results_page.ROOT)
    with pytest.raises(ValueError, match="no column of new fits 'loss'"):
        results_page.figures("new | uniform | loss", {"new": SAVED}, results_page.ROOT)
    with pytest.raises(ValueError, match="no results 'old', but new"):
        results_page.figures("old", {"new": SAVED}, results_page.ROOT)


def test_results_without_tables_become_one() -> None:
    kept = {"machine": "m", "steps": 3, "runs": {"a": {"median": 2.0, "low": 1.0, "high": 4.0}}, "curve": [1, 2]}
    (table,) = results_page.tables_of("something", kept)
    assert table["rows"] == [["steps", 3], ["runs / a", {"median": 2.0, "low": 1.0, "high": 4.0}]]


def test_every_published_table_is_whole() -> None:
    for name, kept in results_page.results().items():
        for table in results_page.tables_of(name, kept):
            assert table["rows"], name
            assert {len(row) for row in table["rows"]} == {len(table["columns"])}, name


def test_a_page_that_is_not_up_to_date_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("<!-- figures: noisy_labels | uniform -->\n<!-- end of figures -->\n")
    monkeypatch.setattr(results_page, "ROOT", tmp_path)
    monkeypatch.setattr(results_page, "PAGE", tmp_path / "docs" / "results.md")
    assert results_page.main(["--check"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "docs/results.md is not up to date: make results",
        "README.md is not up to date: make results",
    ]
    assert results_page.main([]) == 0
    assert results_page.main(["--check"]) == 0
    assert "| uniform | 0.8" in (tmp_path / "README.md").read_text()
