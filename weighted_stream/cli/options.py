"""Arguments that several commands take."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Sequence
from typing import Any


def positive(text: str) -> int:
    """An argument that counts something: an integer of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return number


def not_negative(text: str) -> int:
    """An argument such as a seed: an integer of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return int(text)


def seconds(text: str) -> float:
    """An argument such as a pause: seconds, 0.1 to 86,400."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.1 <= number <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0.1 to 86400")
    return number


def option(text: str) -> tuple[str, Any]:
    """``NAME=VALUE``, the value as Python would read it, or else as text.

    Example:
        >>> option("r=0.4"), option("window=running"), option("quantile=None")
        (('r', 0.4), ('window', 'running'), ('quantile', None))
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lines of a table; the first row are its headings, the first column its labels.

    Example:
        >>> print(table([["", "a"], ["loss", "2.5"]]))
                a
        ----  ---
        loss  2.5
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
