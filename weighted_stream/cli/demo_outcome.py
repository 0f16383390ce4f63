"""What the demo says at the end: a table, and everything as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from weighted_stream.cli.options import table
from weighted_stream.demo.corpus import Corpus
from weighted_stream.demo.train import Curve


def compare(curves: Mapping[str, Curve]) -> str:
    """A table of the curves, the first of which is what the others are measured by."""
    first = next(iter(curves.values()))
    rows = [["", *curves]]
    for name in first.losses:
        rows.append([f"loss on held-out {name}", *(f"{curve.final(name):.3f}" for curve in curves.values())])
    for name in first.losses:
        reached = [curve.steps_to(name, first.final(name)) for curve in curves.values()]
        steps = ["never" if step is None else str(step) for step in reached]
        rows.append([f"steps to {next(iter(curves))}'s final loss, {name}", *steps])
    rows.append(["effective sample size", *(f"{statistics.mean(c.ess):.0%}" for c in curves.values())])
    rows.append(["samples/s", *(f"{c.samples_per_second():,.0f}" for c in curves.values())])
    return table(rows)


def write_figures(path: Path, settings: Mapping[str, Any], corpus: Corpus, curves: Mapping[str, Curve]) -> None:
    """Everything that was measured, as JSON.

    Args:
        path: of the file.
        settings: what the run was asked for; plain values.
        corpus: what it was trained on.
        curves: by label.
    """
    figures = {
        **settings,
        "texts": len(corpus.train),
        "examples": len(corpus.examples),
        "repeats": corpus.repeats,
        "kinds": corpus.kinds(),
        "curves": {name: asdict(curve) for name, curve in curves.items()},
    }
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
