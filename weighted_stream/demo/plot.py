"""The demo's picture: loss on the held-out sets over the steps, and the effective sample size."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

from weighted_stream.demo.train import Curve
from weighted_stream.errors import missing_extra

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise missing_extra("matplotlib", "report") from error

COLOURS = ("#888888", "#c0392b", "#2060a0", "#2e8b57", "#cc9933", "#8e44ad")
"""In turn; the first is that of the run the others are compared with."""


def draw(curves: Mapping[str, Curve], path: Path, title: str) -> None:
    """Write a PNG.

    Args:
        curves: by label; the first one is what the others are compared with.
        path: of the picture.
        title: above it.
    """
    first = next(iter(curves.values()))
    figure = Figure(figsize=(4.2 * (len(first.losses) + 1), 3.6), layout="constrained")
    figure.suptitle(title, fontsize=11)
    *panels, last = figure.subplots(1, len(first.losses) + 1, squeeze=False)[0]
    for panel, name in zip(panels, first.losses, strict=True):
        for colour, (label, curve) in zip(cycle(COLOURS), curves.items(), strict=False):
            panel.plot(curve.steps, curve.losses[name], color=colour, label=f"{label}: {curve.final(name):.3f}")
        panel.axhline(first.final(name), color=COLOURS[0], linewidth=0.8, linestyle=":")
        panel.set(title=f"loss on held-out text: {name}", xlabel="step", ylabel="nats per token")
        panel.legend(frameon=False)
    for colour, (label, curve) in zip(cycle(COLOURS), curves.items(), strict=False):
        last.plot(range(1, len(curve.ess) + 1), curve.ess, color=colour, label=label, linewidth=1)
    last.set(title="effective sample size", xlabel="step", ylabel="share of the batch", ylim=(0, 1.05))
    last.legend(frameon=False)
    figure.savefig(path, dpi=130)
