"""The table and the picture of `benchmarks.standard_mixture`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from itertools import repeat
from pathlib import Path
from typing import Any

from benchmarks.harness import Table
from benchmarks.mixture_runs import Setting
from benchmarks.mixtures import REST

BEST_RATE = "uniform, its best rate"

SHOWN = {
    "uniform": "#888888",
    "Similarity, hashed, shuffled": "#cc9933",
    "Similarity, hashed": "#c0392b",
    "Similarity, MiniLM": "#2060a0",
    "Similarity, BM25 scores": "#2e8b57",
}
"""Rows in the picture and their colours."""


def described(setting: Mapping[str, Any]) -> str:
    """A setting as text: what differs from the default."""
    plain = {field.name: field.default for field in fields(Setting)}
    return " ".join([setting["weights"], *(f"{k}={v}" for k, v in setting.items() if k in plain and v != plain[k])])


def line(result: Mapping[str, Any]) -> str:
    """One run, as it ends."""
    losses = result["losses"]
    return (
        f"seed {result['seed']}  choose {losses['choose']:.3f}  report {losses['report']:.3f}  "
        f"wiki {losses[REST[0]]:.3f}  ess {result['ess']:.2f}  {result['seconds']:.0f} s  "
        f"{described(result['setting'])}"
    )


def figures(
    chosen: Mapping[str, Setting], results: Mapping[tuple[Setting, int], Mapping[str, Any]], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Per row: means, spreads, comparison with uniform seed by seed, curves."""
    uniform = {seed: results[chosen["uniform"], seed] for seed in seeds}
    rows = []
    for row, setting in chosen.items():
        runs = [results[setting, seed] for seed in seeds]
        losses = [run["losses"]["report"] for run in runs]
        aims = [uniform[seed]["losses"]["report"] for seed in seeds]
        rest = [statistics.mean(run["losses"][name] for name in REST) for run in runs]
        aucs = [run["auc"] for run in runs if run["auc"] is not None]
        rows.append(
            {
                "weights": row,
                "setting": asdict(setting),
                "target": statistics.mean(losses),
                "sd": spread(losses),
                "below uniform": sum(loss < aim for loss, aim in zip(losses, aims, strict=True)),
                "seeds": len(runs),
                "steps to uniform's": [
                    first_below(run["steps"], run["curves"], aim) for run, aim in zip(runs, aims, strict=True)
                ],
                "rest": statistics.mean(rest),
                "rest sd": spread(rest),
                "ess": statistics.mean(run["ess"] for run in runs),
                "mean weight": statistics.mean(run["mean weight"] for run in runs),
                "auc": statistics.mean(aucs) if aucs else None,
                "curve steps": runs[0]["steps"],
                "curves": [run["curves"] for run in runs],
            }
        )
    return rows


def spread(values: Sequence[float]) -> float:
    """Standard deviation over the seeds."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def tabulated(rows: Sequence[Mapping[str, Any]], steps: int, choosing: int) -> Table:
    """The rows as a table.

    Args:
        rows: see `figures`; the first is uniform.
        steps: of each run.
        choosing: seeds that settings were chosen with.
    """
    best = next((row for row in rows if row["weights"] == BEST_RATE), None)
    lines = []
    for row in rows:
        below = "" if row["weights"].startswith("uniform") else f"{row['below uniform']} of {row['seeds']}"
        at_best = (
            [] if best is None else [in_turn(map(first_below, repeat(row["curve steps"]), row["curves"], ends(best)))]
        )
        stopped = statistics.mean(min(curves["report"]) for curves in row["curves"])
        losses = [f"{row['target']:.3f}", f"{row['sd']:.3f}", f"{stopped:.3f}", below]
        losses += [in_turn(row["steps to uniform's"]), *at_best]
        rest = [f"{row['rest']:.3f}", f"{row['rest sd']:.3f}", f"{row['ess']:.2f}", f"{row['mean weight']:.2f}"]
        lines.append([row["weights"], *losses, *rest, row["auc"], options(row["setting"])])
    headings = ["weights", "target", "sd", "stopped early", "below uniform, seeds", "steps to uniform's final loss"]
    headings += [] if best is None else ["steps to where uniform ends at its best rate"]
    headings += ["rest", "sd of the rest", "effective sample size", "mean weight", "AUC", "options chosen"]
    return Table(
        "A mixture with a target: loss on held-out maths (the target) and on three other kinds of text",
        [(heading, "") for heading in headings],
        lines,
        "Nats per token. 12,800 texts of twelve kinds, an eighth of them maths; the target: 256 other maths texts. A "
        f"small GPT, {steps} steps, {rows[0]['seeds']} seeds; options chosen on one half of the held-out maths with "
        f"{choosing} of them, losses reported on the other half. Stopped early: at the "
        "evaluation where that loss was lowest.",
    )


def in_turn(steps: Iterable[int | None]) -> str:
    """Steps seed by seed, each number once if they agree.

    Example:
        >>> in_turn([5, 10]), in_turn([5, 5]), in_turn([None, None]), in_turn([None, 5])
        ('5, 10', '5 each', 'never', 'never, 5')
    """
    named = ["never" if step is None else str(step) for step in steps]
    if len(set(named)) > 1 or len(named) == 1:
        return ", ".join(named)
    return named[0] if named[0] == "never" else f"{named[0]} each"


def ends(row: Mapping[str, Any]) -> list[float]:
    """The loss on the target that each seed ends at."""
    return [curves["report"][-1] for curves in row["curves"]]


def first_below(steps: Sequence[int], curves: Mapping[str, Sequence[float]], loss: float) -> int | None:
    """The first evaluated step at which the loss on the target is this low."""
    return next((step for step, value in zip(steps, curves["report"], strict=True) if value <= loss), None)


def options(setting: Mapping[str, Any]) -> str:
    """The options of a row that its strategy has."""
    shown = {
        "uniform": (),
        "oracle": (),
        "similarity": ("encoder", "ess", "score"),
        "adapt": ("tau", "center"),
        "bm25": ("tau",),
        "linupper": ("r",),
        "product": ("ess", "r"),
    }
    names = [*shown.get(setting["weights"], ()), *(["budget"] if setting.get("budget") else [])]
    return ", ".join([f"rate × {setting['rate']:g}", *(f"{name}={setting[name]}" for name in names)])


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Loss over the steps on the target and on Wikipedia: mean and range over the seeds, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    rows = {row["weights"]: row for row in report["rows"]}
    for panel, (name, title) in zip(panels, (("report", "maths (the target)"), (REST[0], "Wikipedia")), strict=True):
        for label, colour in SHOWN.items():
            if label not in rows:
                continue
            runs = zip(*(curve[name] for curve in rows[label]["curves"]), strict=True)
            values = [(min(at), statistics.mean(at), max(at)) for at in runs]
            low, mean, high = (list(column) for column in zip(*values, strict=True))
            steps = rows[label]["curve steps"]
            panel.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
            panel.plot(steps, mean, color=colour, linewidth=1.2, label=f"{label}: {mean[-1]:.2f}")
        panel.axhline(panel.get_lines()[0].get_ydata()[-1], color=SHOWN["uniform"], linewidth=0.8, linestyle=":")
        panel.set(title=f"held-out loss: {title}", xlabel="step", ylabel="nats per token", ylim=(None, 4.6))
        panel.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
