"""``weighted-stream inspect --follow``: a running store, live in the terminal."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import pairwise
from types import FrameType
from typing import Any

from weighted_stream.cli.printable import printable
from weighted_stream.figures.following import Followed, Sight

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST = "\x1b[H", "\x1b[K", "\x1b[J"
_LEVELS = "▁▂▃▄▅▆▇█"
_BAR = 24


class _Stop(Exception):
    """Somebody wants it to end."""


def follow(followed: Followed, title: str, every: float, *, as_json: bool = False) -> int:
    """Look again and again, until the store ends or somebody ends us: Ctrl-C, SIGTERM, a reader that is gone.

    Args:
        followed: what to look at.
        title: of the view.
        every: seconds between two looks.
        as_json: a JSON object a line, of each look.

    Returns:
        The exit status, 0.
    """
    live = sys.stdout.isatty() and not as_json
    sight: Sight | None = None
    try:
        with _until_told(), _screen(live):
            said: Any = None
            while sight is None or sight.ended is None:
                if sight is not None:
                    time.sleep(every)
                sight = followed.look()
                if live:
                    _draw(sight, title)
                elif as_json:
                    _put(json.dumps(plain(sight)) + "\n")
                elif said != (sight.steps, sight.stats, sight.notes):
                    said = sight.steps, sight.stats, sight.notes
                    _put(line(sight) + "\n")
    except (_Stop, KeyboardInterrupt):
        pass
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        # Nobody reads any more; Python would complain once more when it flushes at its end.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if sight is not None and not as_json:
        with suppress(BrokenPipeError):
            if live:
                _put("\n".join(view(sight, title, shutil.get_terminal_size().columns)) + "\n")
            elif sight.ended:
                _put(sight.ended + "\n")
    return 0


def line(sight: Sight) -> str:
    """One line for a file or a pipe.

    Example:
        >>> line(Sight({"visits": 640.0, "loss_mean": 2.5, "ess": 0.7, "unscored": 3.0, "nonfinite": 0.0}, 10))
        'step 10  samples 640  loss 2.5  ess 70%  unscored 3  nonfinite 0'
    """
    stats, parts = sight.stats, []
    if sight.steps is not None:
        parts.append(f"step {sight.steps:,}")
    rate = f" ({sight.rates['samples']:,.0f}/s)" if "samples" in sight.rates else ""
    parts.append(f"samples {stats['visits']:,.0f}{rate}")
    if math.isfinite(stats.get("loss_mean", math.nan)):
        parts.append(f"loss {stats['loss_mean']:.4g}")
    if math.isfinite(stats.get("ess", math.nan)):
        parts.append(f"ess {stats['ess']:.0%}")
    quantiles = [stats.get(f"weight_{name}", math.nan) for name in ("q05", "q50", "q95")]
    if all(map(math.isfinite, quantiles)):
        parts.append("weights " + " ".join(f"{value:.3g}" for value in quantiles))
    parts += [f"{name} {stats[name]:,.0f}" for name in ("unscored", "nonfinite")]
    return "  ".join([*parts, *map(printable, sight.notes)])


def view(sight: Sight, title: str, width: int) -> list[str]:
    """The lines of the view, none of them longer than ``width``."""
    stats = sight.stats
    rates = {name: f"  ({rate:,.1f}/s)" for name, rate in sight.rates.items()}
    lines = [title]
    if sight.steps is not None:
        lines.append(f"steps      {sight.steps:,}{rates.get('steps', '')}")
    lines.append(f"weighed    {stats['visits']:,.0f}{rates.get('samples', '')}  of {stats['samples']:,.0f} samples")
    if math.isfinite(stats["ess"]):
        lines.append(f"effective  {stats['ess']:.1%} of the samples  {_bar(stats['ess'])}")
        spread = "  ".join(f"{name[1:]}% {stats[f'weight_{name}']:.3g}" for name in ("q05", "q50", "q95"))
        lines.append(f"weights    mean {stats['weight_mean']:.3g}  cv {stats['weight_cv']:.3g}  {spread}")
    if math.isfinite(stats["loss_mean"]):
        spread = "  ".join(f"{name[1:]}% {stats[f'loss_{name}']:.4g}" for name in ("q05", "q50", "q95"))
        lines.append(f"loss       mean {stats['loss_mean']:.4g}  {spread}")
    if len(sight.losses) > 1:
        trend = sparkline(sight.losses, max(8, min(60, width - 32)))
        lines.append(f"trend      {trend}  {sight.losses[0]:.4g} → {sight.losses[-1]:.4g}")
    if sight.deciles:
        ends = f"{sight.deciles[0]:.4g} → {sight.deciles[-1]:.4g}"
        lines.append(f"loss by weight, light to heavy  {sparkline(sight.deciles, 10)}  {ends}")
    lines.append(f"unscored   {stats['unscored']:,.0f}   non-finite {stats['nonfinite']:,.0f}")
    for name, kinds in (("group", sight.groups), ("shard", sight.shards)):
        if kinds:
            lines.append(f"share of the weight, by {name} (and mean weight)")
            for kind, (share, mean) in kinds.items():
                lines.append(f"  {share:6.1%} {_bar(share)} {mean:6.3g}  {printable(kind, 60)}")
    lines += [printable(note) for note in sight.notes]
    if sight.ended:
        lines.append(sight.ended)
    return [one if len(one) <= width else one[: max(0, width - 1)] + "…" for one in lines]


def sparkline(values: Sequence[float], width: int) -> str:
    """Values as a row of bars, from the lowest to the highest; the mean of several where there are more than places.

    Example:
        >>> sparkline([1.0, 2.0, 3.0, 8.0], 4), sparkline([1.0, 3.0, 8.0, 8.0], 2), sparkline([5.0], 4)
        ('▁▂▃█', '▁█', '▁')
    """
    if not values:
        return ""
    places = min(width, len(values))
    edges = [place * len(values) // places for place in range(places + 1)]
    means = [sum(values[begin:end]) / (end - begin) for begin, end in pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(_LEVELS) - 1) / (high - low) if high > low else 0.0
    return "".join(_LEVELS[round((mean - low) * scale)] for mean in means)


def plain(sight: Sight) -> dict[str, Any]:
    """A look as JSON values: null for what is not known."""
    values = asdict(sight)
    values["stats"] = {name: value if math.isfinite(value) else None for name, value in sight.stats.items()}
    return values


def _bar(share: float) -> str:
    full = round(_BAR * share) if share == share else 0
    return "█" * full + "·" * (_BAR - full)


def _draw(sight: Sight, title: str) -> None:
    """The view in place of the one before, as much of it as there is room for."""
    columns, rows = shutil.get_terminal_size()
    lines = view(sight, title, columns)
    if len(lines) > rows:
        lines = [*lines[: max(0, rows - 1)], f"… {len(lines) - rows + 1} more lines"[:columns]]
    _put(_HOME + f"{_REST_OF_LINE}\r\n".join(lines) + _REST_OF_LINE + _REST)


def _put(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@contextmanager
def _screen(live: bool) -> Iterator[None]:
    """The terminal's other screen, given back however it ends."""
    if live:
        _put(_ENTER)
    try:
        yield
    finally:
        if live:
            with suppress(OSError):
                _put(_LEAVE)


@contextmanager
def _until_told() -> Iterator[None]:
    """SIGTERM and SIGHUP end it as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Stop

    numbers = (signal.SIGTERM, signal.SIGHUP)
    try:
        before = {number: signal.signal(number, stop) for number in numbers}
    except ValueError:  # not the main thread, which signals come to
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
