"""Progress on standard error: the one place that knows tqdm."""

from __future__ import annotations

import sys
from typing import Any

from weighted_stream.errors import missing_extra


def tqdm_class() -> Any:
    """``tqdm.tqdm``.

    Raises:
        MissingExtraError: if the package ``tqdm`` is not installed.
    """
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise missing_extra("tqdm", "cli") from error
    return tqdm


def progress_bar(label: str, unit: str, total: int | None = None) -> Any:
    """A tqdm bar with rate and time left, on standard error; in a log, a line now and then.

    Raises:
        MissingExtraError: if the package ``tqdm`` is not installed.
    """
    every = 0.2 if sys.stderr.isatty() else 15.0
    return tqdm_class()(total=total, desc=label, unit=unit, mininterval=every, dynamic_ncols=True)
