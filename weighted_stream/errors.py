"""Every error the library raises: what was found, what was expected, what to do.

Each class also inherits the built-in exception a caller would guess (``ValueError``, ``ImportError`` …), so existing
``except`` clauses keep working.
"""

from __future__ import annotations


class WeightedStreamError(Exception):
    """Base of all errors of this library.

    Args:
        problem: one sentence that names the problem.
        found: what the library saw.
        expected: what it needs instead.
        do: what the user can do about it. (All three are always given; a DataLoader that raises a worker's error again
            has only the finished text.)

    Example:
        >>> print(WeightedStreamError("Losses have a wrong shape.", found="()", expected="(B,)", do="reduction='none'"))
        Losses have a wrong shape.
          found:    ()
          expected: (B,)
          to do:    reduction='none'
    """

    def __init__(self, problem: str, *, found: object = "", expected: object = "", do: str = "") -> None:
        self.problem, self.found, self.expected, self.do = problem, found, expected, do
        facts = f"\n  found:    {found}\n  expected: {expected}\n  to do:    {do}" if do else ""
        super().__init__(problem + facts)

    def __str__(self) -> str:
        # Others add arguments to an error that passes through them: webdataset the url, with all that is secret in it.
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[object, ...]:
        # The default would call the class with the message alone, and a worker's error would lose its parts.
        return _rebuild, (type(self), self.problem, str(self.found), str(self.expected), self.do)


def _rebuild(kind: type[WeightedStreamError], problem: str, found: str, expected: str, do: str) -> WeightedStreamError:
    return kind(problem, found=found, expected=expected, do=do)


class LossError(WeightedStreamError, ValueError):
    """The losses given to a `Weight` are not one float per sample of its batch."""


class WindowError(WeightedStreamError, RuntimeError):
    """A strategy needs losses that it has not been given: a part of a batch where it weighs the whole."""


class UnboundError(WeightedStreamError, RuntimeError):
    """A `Weight` was used where its stream does not live (in a worker, or after its stream was deleted)."""


class SampleIdError(WeightedStreamError, ValueError):
    """A sample has no id, or one that cannot be: negative, not an integer, shared by two samples."""


class SourceError(WeightedStreamError, ValueError):
    """A dataset or loader that cannot be wrapped, or cannot be read."""


class StrategyError(WeightedStreamError, ValueError):
    """A strategy or an option that does not exist or cannot be, or weights that are none."""


class ScoringError(WeightedStreamError, ValueError):
    """A target set, an encoder or its vectors that cannot be used, or scoring that stopped."""


class StoreError(WeightedStreamError, OSError):
    """A store that cannot be opened, read or written."""


class StoreMismatchError(StoreError):
    """A store of another dataset or of another version of the file format."""


class StateError(WeightedStreamError, ValueError):
    """A state that cannot be loaded: of another version, another dataset or strategy, or not whole."""


class RanksError(WeightedStreamError, RuntimeError):
    """The ranks that train together do not understand each other: one is gone, elsewhere, or made differently."""


class WorkerError(WeightedStreamError, RuntimeError):
    """A worker of a loader has died, or gave nothing within the time-out."""


class MissingExtraError(WeightedStreamError, ImportError):
    """An optional dependency is not installed."""


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """The error for an optional ``package`` that ``pip install 'weighted-stream[extra]'`` brings."""
    return MissingExtraError(
        f"This needs the package {package!r}, which is not installed.",
        found=f"no module {package!r}",
        expected=f"the extra {extra!r} installed",
        do=f"pip install 'weighted-stream[{extra}]'",
    )
