"""The command ``weighted-stream``; also ``python -m weighted_stream.cli``."""

from __future__ import annotations

import argparse
import io
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
        The exit status: 0, or 1 after an error that was printed, or if nobody reads what is printed, 130 after Ctrl-C.

    Raises:
        SystemExit: for arguments that do not parse (status 2), ``--help`` and ``--version`` (status 0).

    Example:
        >>> main(["demo", "--strategy", "linuper"])
        1
    """
    _open_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # where there are no bars, it shows ?
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
    except KeyboardInterrupt:
        print("weighted-stream: interrupted", file=sys.stderr)
        return score.INTERRUPTED
    except BrokenPipeError:  # nobody reads any more, as behind `| head`
        _let_go()
        return 1
    except OSError as error:
        print(f"weighted-stream: {error}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:
            _let_go()
        return 1
    return status


def _open_closed() -> None:
    """What is printed goes nowhere if the process was started without an output for it (``>&-``)."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))


def _let_go() -> None:
    """What Python writes at its end goes nowhere, or it would complain once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
