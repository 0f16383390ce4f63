"""What goes wrong in the process that scores ahead, as text on its way to the trainer, and as an error there."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Sequence
from typing import Any

from weighted_stream.errors import ScoringError, SourceError, WeightedStreamError

GUARD = 'if __name__ == "__main__":'
_SHOWN = 3


class ScorerTraceback(Exception):
    """The traceback of the scorer's process, as the cause of the error that the trainer sees."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def describe(error: BaseException) -> dict[str, str]:
    """An error as text.

    Example:
        >>> described = describe(ValueError("no such word"))
        >>> described["problem"], described["found"]
        ('ValueError: no such word', 'ValueError')
    """
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, WeightedStreamError) and error.do:
        facts = {"found": str(error.found), "expected": str(error.expected), "do": error.do}
        return {"problem": error.problem, **facts, "trace": trace}
    return {
        "problem": "".join(traceback.format_exception_only(error)).strip(),
        "found": type(error).__name__,
        "expected": "a score for each sample",
        "do": "look at the traceback of the scorer's process, above",
        "trace": trace,
    }


def revive(described: dict[str, Any]) -> ScoringError:
    """The error that the trainer sees; its cause is the traceback of the scorer's process."""
    error = ScoringError(
        f"The scorer that runs ahead has stopped: {described['problem']}",
        found=described["found"],
        expected=described["expected"],
        do=described["do"],
    )
    error.__cause__ = ScorerTraceback(described["trace"])
    return error


def unreadable(name: str, error: Exception) -> SourceError:
    """A part that cannot be read, named, with the way round it."""
    known = isinstance(error, WeightedStreamError) and bool(error.do)
    problem = error.problem if isinstance(error, WeightedStreamError) else f"{type(error).__name__}: {error}"
    return SourceError(
        problem if name in problem else f"Cannot read {name}: {problem}",
        found=error.found if isinstance(error, WeightedStreamError) and known else type(error).__name__,
        expected=error.expected if isinstance(error, WeightedStreamError) and known else "samples that can be read",
        do=(error.do if isinstance(error, WeightedStreamError) and known else "mend it or leave it out")
        + '; on_bad_shard="skip" of the strategy, Similarity(..., on_bad_shard="skip"), goes on without it, as the '
        "stream's own does for the trainer",
    )


def unscorable(shards: Sequence[str], error: Exception) -> ScoringError:
    """Samples that the scorer fails on, with the shards they are from."""
    text = describe(error)
    where = ", ".join(shards[:_SHOWN]) + (", …" if len(shards) > _SHOWN else "")
    return ScoringError(
        f"{text['problem']} (among the samples of {where})",
        found=text["found"],
        expected=text["expected"],
        do=text["do"],
    )


def no_scores(found: str, expected: str) -> ScoringError:
    """What a scorer returned is not one finite score per sample."""
    return ScoringError(
        "The scorer did not give one finite score per sample.",
        found=found,
        expected=expected,
        do="mend the encoder (finite vectors, one per sample, of one size) or the scorer's score()",
    )


def cannot_travel(error: Exception) -> ScoringError:
    """Source or plan does not pickle."""
    return ScoringError(
        "The dataset and the encoder cannot be sent to the process that scores ahead.",
        found=f"{type(error).__name__}: {error}",
        expected="a dataset, an encoder, a target and functions that pickle",
        do="define functions and classes at the top level of a module, not as lambda or inside a function",
    )


def cannot_arrive(error: Exception) -> ScoringError:
    """Source or plan does not unpickle in the other process."""
    return ScoringError(
        "The dataset and the encoder cannot be loaded in the process that scores ahead.",
        found=f"{type(error).__name__}: {error}",
        expected="classes and functions that another process can import",
        do="define them in a module or in the script itself, not in a notebook or behind " + GUARD,
    )


def cannot_start(error: Exception) -> ScoringError:
    """This process may not start another one."""
    return ScoringError(
        "The process that scores ahead cannot be started from here.",
        found=f"{type(error).__name__}: {str(error).strip()}",
        expected=f"a main process whose script does its work under {GUARD}",
        do=f"put the script's top level under {GUARD} (a process that is itself a worker cannot start one)",
    )


def ended(code: int | None, *, began: bool) -> ScoringError:
    """The process is gone, and did not say why.

    Args:
        code: its exit code; negative: the signal that killed it.
        began: whether it had come as far as our code.
    """
    killed = code is not None and code < 0
    found = f"killed by {signal.Signals(-code).name}" if killed and code is not None else f"exit code {code}"
    if began:
        return ScoringError(
            f"The scorer that runs ahead has ended ({found}).",
            found=found,
            expected="a process that runs until everything is scored",
            do="look at its last words on stderr; SIGKILL often means that memory ran out: use a smaller encoder batch",
        )
    return ScoringError(
        f"The scorer that runs ahead has ended before it began ({found}).",
        found=f"{found}, while Python imported the main script again in the new process",
        expected=f"a script that can be imported: its work under {GUARD}",
        do=f"put the script's top level under {GUARD}; look at the process's last words on stderr",
    )


def never_scored(ids: Sequence[int], bad: Sequence[str]) -> ScoringError:
    """The trainer waits for scores that will never come."""
    shards = f"; unreadable shards: {', '.join(bad[:_SHOWN])}" if bad else ""
    return ScoringError(
        "The scorer has read the whole dataset, and some samples of this batch have no score.",
        found=f"{len(ids)} samples without a score, for one id {ids[0]}{shards}",
        expected="every sample of the loader among those the scorer reads",
        do="use wait=False (they get the neutral weight), or load only samples of the wrapped dataset",
    )
