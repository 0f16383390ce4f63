"""The command ``weighted-stream``; also ``python -m weighted_stream.cli``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from weighted_stream._version import __version__
from weighted_stream.cli import convert, demo, inspect, report, score
from weighted_stream.errors import WeightedStreamError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: its arguments, without the program's name; None: those of the process.

    Returns:
        The exit status: 0, or 1 after an error that was printed, or if nobody reads what is printed.

    Raises:
        SystemExit: for arguments that do not parse (status 2), ``--help`` and ``--version`` (status 0).

    Example:
        >>> main(["demo", "--strategy", "linuper"])
        1
    """
    parser = argparse.ArgumentParser(
        prog="weighted-stream",
        description="The data pipeline decides how much each training sample counts, while the model trains.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    convert.add_command(commands)
    demo.add_command(commands)
    inspect.add_command(commands)
    report.add_command(commands)
    score.add_command(commands)
    arguments = parser.parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except WeightedStreamError as error:
        print(f"weighted-stream: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # nobody reads any more, as behind `| head`: what Python writes at its end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status
