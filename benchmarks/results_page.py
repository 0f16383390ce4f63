"""`docs/results.md`, and the figures inside other pages, made from the published results: `make results`.

    python -m benchmarks.results_page [--check]

A page asks for figures by a remark, and what stands between it and the next ``<!-- end of figures -->`` is made here::

    <!-- figures: redundant_stream | uniform; LinUpper* | loss; steps* -->

These are the tables of a benchmark with the rows that any of the first patterns fits, and beside their first column
those that any of the others fits; without patterns, all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import compress
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.older_results import TABLES

Kept: TypeAlias = Mapping[str, Any]
"""What one benchmark has saved."""
Table: TypeAlias = Mapping[str, Any]
"""``title``, ``columns`` (each with ``name`` and ``unit``), ``rows``, ``note``."""

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "results.md"

_FIGURES = re.compile(r"^<!-- figures: (.+?) -->\n(?:.*?)^<!-- end of figures -->$", re.MULTILINE | re.DOTALL)

INTRODUCTION = """# Results

Made by `make results` from the files in `benchmarks/results`; nothing here is typed. `make bench` measures on your own
machine, and the command beside each table measures it alone. Losses are in nats; spreads are over seeds or repeats, as
each table says. What the tables mean for a method stands on the [page of the method](methods/index.md).
"""


def results(folder: Path = RESULTS) -> dict[str, Kept]:
    """All results in a folder, by default the published ones, by the name of their benchmark."""
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}


def tables_of(name: str, kept: Kept) -> Sequence[Table]:
    """The tables of a benchmark: those it has saved, or, of older results, those made here."""
    saved: Sequence[Table] | None = kept.get("tables")
    if saved:
        return saved
    return TABLES[name](kept) if name in TABLES else [everything(kept)]


def everything(kept: Kept) -> Table:
    """A table of all single numbers of results that nobody has made a table of."""
    rows: list[list[Any]] = []

    def walk(value: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, Mapping):
            if {"median", "low", "high"} == set(value):
                rows.append([" / ".join(path), value])
            else:
                for key, inner in value.items():
                    walk(inner, (*path, str(key)))
        elif isinstance(value, (int, float, str)) and path != ("machine",):
            rows.append([" / ".join(path), value])

    walk(kept, ())
    return {"title": "Figures", "columns": [{"name": "what", "unit": ""}, {"name": "value", "unit": ""}], "rows": rows}


def cell(value: Any) -> str:
    """A cell as text.

    Example:
        >>> cell(0.73251), cell(None), cell(12345.6), cell({"median": 2.0, "low": 1.0, "high": 4.0}), cell("a | b")
        ('0.7325', '', '12,346', '2 (1–4)', 'a \\\\| b')
    """
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return f"{cell(value['median'])} ({cell(value['low'])}–{cell(value['high'])})"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value).replace("|", "\\|")
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.4g}"


def markdown(table: Table) -> str:
    """A table in Markdown, under its title."""
    headings = [
        f"{column['name']}, {column['unit']}" if column["unit"] else column["name"] for column in table["columns"]
    ]
    lines = [
        f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *(map(cell, r) for r in table["rows"]))
    ]
    note = table.get("note")
    return "\n".join([f"**{table['title']}**", "", *lines, *(["", str(note)] if note else [])])


def with_rows(table: Table, patterns: Sequence[str]) -> Table:
    """The table with the rows of which a word fits a pattern."""

    def fits(row: Sequence[Any]) -> bool:
        return any(fnmatchcase(word, p) for p in patterns for word in row if isinstance(word, str))

    return {**table, "rows": [row for row in table["rows"] if fits(row)]}


def with_columns(table: Table, patterns: Sequence[str]) -> Table:
    """The table with its first column and those whose name fits a pattern."""
    names = [column["name"] for column in table["columns"]]
    stay = [not place or any(fnmatchcase(name, p) for p in patterns) for place, name in enumerate(names)]
    return {
        **table,
        "columns": list(compress(table["columns"], stay)),
        "rows": [list(compress(row, stay)) for row in table["rows"]],
    }


def page(kept: Mapping[str, Kept], introduction: str = INTRODUCTION) -> str:
    """The page of all results."""
    parts = [introduction.rstrip()]
    for name, one in kept.items():
        when = f", {one['date']}" if "date" in one else ""
        parts.append(f"## {name}")
        parts.append(f"`{one.get('command', f'python -m benchmarks.{name}')}`, on {one['machine']}{when}")
        parts += [markdown(table) for table in tables_of(name, one)]
    return "\n\n".join(parts) + "\n"


def figures(wanted: str, kept: Mapping[str, Kept], place: Path) -> str:
    """What a remark asks for, for a page in the folder ``place``.

    Raises:
        ValueError: if there are no such results, rows or columns.
    """
    name, *listed = (part.strip() for part in wanted.split("|"))
    if name not in kept:
        raise ValueError(f"no results {name!r}, but {', '.join(kept)}")
    tables = tables_of(name, kept[name])
    rows, columns = ([one.strip() for one in part.split(";") if one] for part in (*listed, "", "")[:2])
    if rows:
        tables = [left for left in (with_rows(table, rows) for table in tables) if left["rows"]]
        cells = (cell for table in tables for row in table["rows"] for cell in row)
        _refuse_others(f"row of {name}", rows, {cell for cell in cells if isinstance(cell, str)})
    if columns:
        _refuse_others(f"column of {name}", columns, {one["name"] for table in tables for one in table["columns"]})
        tables = [with_columns(table, columns) for table in tables]
    link = os.path.relpath(PAGE, place).replace(os.sep, "/")
    where = f"From [{name}]({link}#{name}), measured on {kept[name]['machine']}:"
    return "\n\n".join([where, *map(markdown, tables)])


def _refuse_others(what: str, patterns: Sequence[str], words: Iterable[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(word, pattern) for word in words):
            raise ValueError(f"no {what} fits {pattern!r}")


def filled(text: str, kept: Mapping[str, Kept], place: Path) -> str:
    """A page with its figures as the results have them."""

    def fill(found: re.Match[str]) -> str:
        wanted = found.group(1)
        return f"<!-- figures: {wanted} -->\n{figures(wanted, kept, place)}\n<!-- end of figures -->"

    return _FIGURES.sub(fill, text)


def pages() -> dict[Path, str]:
    """Every page with figures in it, as it should be."""
    kept = results()
    others = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return {
        PAGE: page(kept),
        **{path: filled(path.read_text(encoding="utf-8"), kept, path.parent) for path in others if path != PAGE},
    }


def stale() -> list[Path]:
    """The pages that do not say what the results say."""
    return [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]


def main(argv: list[str] | None = None) -> int:
    """0, or 1 if ``--check`` found a page that is not up to date."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results_page")
    parser.add_argument("--check", action="store_true", help="write nothing, and say which pages are not up to date")
    old = stale()
    if parser.parse_args(argv).check:
        print("".join(f"{path.relative_to(ROOT)} is not up to date: make results\n" for path in old), end="")
        return 1 if old else 0
    made = pages()
    for path in old:
        path.write_text(made[path], encoding="utf-8")
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
