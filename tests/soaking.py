"""Whether this is `make soak`, which does the same as `make test`, many times over."""

from __future__ import annotations

import os

_SOAK = os.environ.get("WEIGHTED_STREAM_SOAK")

LONG = _SOAK is not None
SEED = int(_SOAK or 0)
"""Of whatever is drawn at random."""


SHARE = float(os.environ.get("WEIGHTED_STREAM_SOAK_SHARE", 1))
"""How much of the long version is done."""


def times(short: int, long: int) -> int:
    """How often: in `make test`, in `make soak`."""
    return max(1, round(long * SHARE)) if LONG else short


def progress(text: str) -> None:
    """A line for who waits for `make soak`."""
    if LONG:
        print(text, flush=True)
