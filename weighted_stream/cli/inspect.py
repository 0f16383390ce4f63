"""``weighted-stream inspect``: what is in shards, side files or a store."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from weighted_stream.cli.follow import follow
from weighted_stream.cli.options import not_negative, positive, seconds, table
from weighted_stream.cli.printable import printable
from weighted_stream.errors import SourceError
from weighted_stream.figures.following import Followed, FollowedStore, check_is_store
from weighted_stream.figures.following_shared import FollowedShared
from weighted_stream.shards.folder import NO_SHARDS
from weighted_stream.shards.inspection import FIELDS, Inspection, inspect_path
from weighted_stream.shards.summary import Place, Summary
from weighted_stream.store.shared_address import is_address, parse_address

_WIDTH = 40


def add_command(commands: Any) -> None:
    """Add the command to a parser's ``add_subparsers()``."""
    parser = commands.add_parser(
        "inspect",
        help="show what is in shards, side files or a store",
        description="Counts, distributions, and the samples with the highest and lowest values as text: of shards "
        "(by their scores, else by length), of the side files that score wrote, or of a store. With --follow, a store "
        "that is being trained on, live: it only reads, and ends with the training or with Ctrl-C.",
    )
    add = parser.add_argument
    add("path", metavar="PATH", help="folder of shards, of side files, or of a store; or redis://… of a shared one")
    add("--name", default="weights", help="of the shared store (default: weights)")
    add("--store-ca", metavar="FILE", help="whom to trust with TLS, PEM (default: whom the system trusts)")
    add("--data", metavar="SHARDS", help="the shards a store or side files are about (default: those beside them)")
    add("--id", metavar="FIELD", help="the column that the stream is given as id_fn= (default: none is)")
    add("--text", default="text", metavar="FIELD", help="to show (default: text)")
    add("--by", choices=FIELDS, help="of a store, what is high and low (default: the first of these it has)")
    add("--top", type=not_negative, default=5, metavar="N", help="samples at each end (default: 5)")
    add("--limit", type=positive, default=100_000, metavar="N", help="of shards without scores (default: 100000)")
    add("--json", action="store_true", help="print everything as one JSON value")
    add("--follow", action="store_true", help="of a store: look again and again (with --json: a JSON value a line)")
    add("--every", type=seconds, metavar="S", help="seconds between two looks (default: 1)")
    parser.set_defaults(run=run, usage_error=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Run the command with its parsed arguments; its exit status."""
    if arguments.store_ca is not None and not is_address(arguments.path):
        arguments.usage_error("--store-ca goes with the address of a shared store: rediss://…")
    if arguments.follow:
        return _follow(arguments)
    if arguments.every is not None:
        arguments.usage_error("--every goes with --follow")
    found = _inspected(arguments)
    if arguments.json:
        print(json.dumps(as_json(found, arguments.text)))
        return 0
    shown = parse_address(arguments.path) if is_address(arguments.path) else arguments.path
    print(f"{found.kind}: {shown}")
    for name, value in found.facts.items():
        print(f"  {name}: {_fact(value)}")
    if found.distributions:
        print(f"\n{_figures(found.distributions)}")
    if found.by in found.distributions:
        print(f"\n{found.by}")
        print("\n".join(histogram(found.distributions[found.by])))
    for title, places in (("highest", found.highest), ("lowest", found.lowest)):
        if places:
            print(f"\n{title}, by {found.by}")
            print("\n".join(_line(place, found, arguments.text) for place in places))
    for note in found.notes:
        print(f"\n{note}")
    return 0


def _inspected(arguments: argparse.Namespace) -> Inspection:
    try:
        return inspect_path(
            arguments.path,
            data=arguments.data,
            id=arguments.id,
            text=arguments.text,
            by=arguments.by,
            top=arguments.top,
            limit=arguments.limit,
            name=arguments.name,
            ca_file=arguments.store_ca,
        )
    except SourceError as error:
        if error.problem != NO_SHARDS or arguments.data is not None:  # which holds shards, and nothing else
            raise
        raise SourceError(
            "There is nothing to inspect here: no shards of one kind, no side files, no store.",
            found=error.found,
            expected=f"{error.expected}; or a folder of side files, or of a store",
            do=error.do,
        ) from error


def _follow(arguments: argparse.Namespace) -> int:
    for option in ("data", "id", "by"):
        if getattr(arguments, option) is not None:
            arguments.usage_error(f"--{option} does not go with --follow, which shows no samples")
    followed: Followed
    if is_address(arguments.path):
        title = str(parse_address(arguments.path))
        followed = FollowedShared(arguments.path, arguments.name, ca_file=arguments.store_ca)
    else:
        check_is_store(arguments.path)
        title, followed = arguments.path, FollowedStore(arguments.path)
    try:
        return follow(followed, printable(title), arguments.every or 1.0, as_json=arguments.json)
    finally:
        followed.close()


def as_json(found: Inspection, text: str) -> dict[str, Any]:
    """Everything that was found as plain JSON values."""

    def samples(places: Sequence[Place]) -> list[dict[str, Any]]:
        return [
            {**place._asdict(), "text": text_of(found.rows[place.id], text) if place.id in found.rows else None}
            for place in places
        ]

    return {
        "kind": found.kind,
        "facts": {name: None if value != value else value for name, value in found.facts.items()},
        "distributions": {name: summary.to_json() for name, summary in found.distributions.items()},
        "by": found.by,
        "highest": samples(found.highest),
        "lowest": samples(found.lowest),
        "notes": found.notes,
    }


def histogram(summary: Summary) -> list[str]:
    """Lines of bars.

    Example:
        >>> import numpy as np
        >>> summary = Summary()
        >>> summary.add(np.array([0.0] * 3 + [12.0]))
        >>> print(histogram(summary)[0])
         0 to  1  ████████████████████████████████████████  75.0%
    """
    bins = summary.histogram()
    most = max((share for _, _, share in bins), default=0.0)
    edges = [(f"{low:.3g}", f"{high:.3g}") for low, high, _ in bins]
    width = max((len(edge) for pair in edges for edge in pair), default=0)
    return [
        f"{low:>{width}} to {high:>{width}}  {'█' * round(_WIDTH * share / most):{_WIDTH}}  {share:5.1%}"
        for (low, high), (_, _, share) in zip(edges, bins, strict=True)
    ]


def text_of(row: Any, field: str) -> str:
    """The text of a sample, or all of it if it has no such field."""
    value = row.get(field, row) if isinstance(row, dict) else row
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} ({kind})" for name, kind in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else printable(str(value))


def _figures(distributions: dict[str, Summary]) -> str:
    columns = ["mean", "std", "min", "q05", "q25", "q50", "q75", "q95", "max"]
    rows = [["", "samples", *columns]]
    for name, summary in distributions.items():
        figures = summary.figures()
        about = "" if summary.exact else " *"
        rows.append([name + about, f"{summary.count:,}", *(f"{figures[column]:.4g}" for column in columns)])
    note = "" if all(s.exact for s in distributions.values()) else "\n* quantiles of a random sample of 1,048,576"
    return table(rows) + note


def _line(place: Place, found: Inspection, field: str) -> str:
    where = f"  {place.shard}" if place.shard else ""
    row = found.rows.get(place.id)
    text = "" if row is None else f"\n      {printable(text_of(row, field))}"
    return f"  {place.value:10.4g}  id {place.id}{where}{text}"
