"""Results as a page of tables: `python -m benchmarks.tables [FOLDER]`, by default the folder of your own results.

Reads every JSON file there and writes `tables.md` beside them: what was run, on which machine, and its tables. Nothing
in it is typed by hand.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Table, results_folder, shown

PAGE = "tables.md"


def read(folder: Path) -> list[dict[str, Any]]:
    """All results of a folder, by name."""
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


def markdown(one: Table) -> str:
    """A table in Markdown."""
    headings = [f"{name}, {unit}" if unit else name for name, unit in one.columns]
    rows = [[shown(cell).replace("|", "\\|") for cell in row] for row in one.rows]
    lines = [f"**{one.title}**", "", _row(headings), _row("---" for _ in headings), *map(_row, rows)]
    return "\n".join([*lines, "", one.note] if one.note else lines)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def page(results: Sequence[dict[str, Any]]) -> str:
    """All tables; results from before there were any are named."""
    parts = ["# Results"]
    for kept in results:
        if not kept.get("tables"):
            continue
        parts.append(f"## {kept['name']}")
        parts.append(f"`{kept['command']}`, {kept['seconds']:.0f} s on {kept['machine']}, {kept['date']}")
        parts += [markdown(Table.from_json(one)) for one in kept["tables"]]
    return "\n\n".join(parts) + "\n"


def write(folder: Path) -> Path:
    """Make the page of a folder anew."""
    path = folder / PAGE
    path.write_text(page(read(folder)), encoding="utf-8")
    return path


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables")
    parser.add_argument("folder", type=Path, nargs="?", help="default: runs/bench")
    options = parser.parse_args(argv)
    print(write(options.folder or results_folder()))


if __name__ == "__main__":
    main()
