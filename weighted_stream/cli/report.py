"""``weighted-stream report``: what the weights did in a run, as one HTML page."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from weighted_stream.cli.options import positive
from weighted_stream.errors import SourceError
from weighted_stream.report.build import Options, build
from weighted_stream.report.page import page


def add_command(commands: Any) -> None:
    """Add the command to a parser's ``add_subparsers()``."""
    parser = commands.add_parser(
        "report",
        help="write what the weights did in a run as one HTML page",
        description="Reads a store with its journal, and writes a page that opens anywhere: whether the weights "
        "mattered, what got weight, how it moved, and the samples themselves, to be searched, filtered and sorted. "
        "Nothing is fetched, and nothing of the data is run.",
    )
    add = parser.add_argument
    defaults = Options()
    add("store", type=Path, metavar="STORE", help="directory of a store; it may be in use")
    add("other", type=Path, nargs="?", metavar="OTHER_STORE", help="of another run over the same data, to compare with")
    add("--data", metavar="SHARDS", help="the shards, or the .jsonl, .parquet or .txt file, that the samples are in")
    add("--id", metavar="FIELD", help="the column that the stream is given as id_fn= (default: what the store knows)")
    add("--text", default=defaults.text, metavar="FIELD", help="to show (default: text)")
    add("--samples", type=positive, default=defaults.samples, metavar="N", help="in the table (default: 2000)")
    add("--characters", type=positive, default=defaults.characters, metavar="N", help="of a text (default: 600)")
    add("--out", type=Path, default=Path("report.html"), metavar="FILE", help="to write (default: report.html)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command with its parsed arguments; its exit status."""
    options = Options(
        data=arguments.data,
        id=arguments.id,
        text=arguments.text,
        samples=arguments.samples,
        characters=arguments.characters,
    )

    def progress(step: str) -> None:
        if sys.stderr.isatty():
            print(f"{step} …", file=sys.stderr, flush=True)

    value = build(arguments.store, arguments.other, options, progress)
    write_page(value, arguments.out)
    for one in value["runs"]:
        print(f"{one['name']}: " + ", ".join(f"{count:,} {what}" for what, count in one["facts"].items() if count))
        _say(one["answers"])
    if value["comparison"] is not None:
        print("The two runs:")
        _say(value["comparison"]["answers"])
    print(f"report: {arguments.out}")
    return 0


def _say(answers: list[dict[str, Any]]) -> None:
    width = max((len(finding["question"]) for finding in answers), default=0)
    for finding in answers:
        mark = "!" if finding["level"] == "look" else " "
        print(f"{mark} {finding['question']:{width}} {finding['answer']}")


def write_page(value: dict[str, Any], path: Path) -> None:
    """Write the page of what `build` found; it appears when it is whole.

    Raises:
        SourceError: if it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(page(value), encoding="utf-8")
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise SourceError(
            "The report cannot be written.",
            found=f"{path}: {error.strerror}",
            expected="a file that can be made",
            do="name another one: --out FILE",
        ) from error
