"""Results as a page of tables: `python -m benchmarks.tables [FOLDER]`, by default the folder of your own results.

Reads every JSON file there and writes `tables.md` beside them: what was run, on which machine, and its tables. Nothing
in it is typed by hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.harness import results_folder
from benchmarks.results_page import page, results

PAGE = "tables.md"


def write(folder: Path) -> Path:
    """Make the page of a folder anew."""
    path = folder / PAGE
    path.write_text(page(results(folder), "# Results"), encoding="utf-8")
    return path


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables")
    parser.add_argument("folder", type=Path, nargs="?", help="default: runs/bench")
    options = parser.parse_args(argv)
    print(write(options.folder or results_folder()))


if __name__ == "__main__":
    main()
