"""Tables of published results that were saved without any: one function a benchmark, which its name finds.

Newer results bring their tables along; when a benchmark has been run again, its function here has nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> dict[str, Any]:
    """As newer results have them; a column is its name, with its unit behind a comma."""
    named = [column.partition(", ") for column in columns]
    heads = [{"name": name, "unit": unit} for name, _, unit in named]
    return {"title": title, "columns": heads, "rows": [list(row) for row in rows], "note": note}


def steps(values: Sequence[int | None]) -> str:
    """Steps seed by seed, each number once if they agree."""
    if all(value is None for value in values):
        return "never"
    if len(set(values)) == 1:
        return f"{values[0]} each"
    return ", ".join("never" if value is None else str(value) for value in values)


def selection(kept: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for budget in dict.fromkeys(row["budget"] for row in kept["rows"]):
        for equal in ("steps", "compute"):
            rows = [row for row in kept["rows"] if (row["budget"], row["equal"]) == (budget, equal)]
            found.append(
                table(
                    f"Choosing {budget:.0%} of the candidates by gradients, equal {equal}",
                    [
                        "trains on",
                        "steps",
                        "target",
                        "sd",
                        "below random, seeds",
                        "rest",
                        "chosen of the target's kind",
                        "passes, 10⁶ tokens",
                        "processor time, s",
                    ],
                    [
                        [
                            row["method"],
                            row["steps"],
                            f"{row['target']:.3f}",
                            f"{row['target sd']:.3f}",
                            "" if row["method"] == "random" else f"{row['below random']} of {len(row['targets'])}",
                            f"{row['rest']:.3f}",
                            f"{row['chosen']:.0%}",
                            f"{row['passes'] / 1e6:.2f}",
                            f"{row['seconds']:.1f}",
                        ]
                        for row in rows
                    ],
                )
            )
    found[-1]["note"] = (
        f"On {kept['data']}: loss on held-out maths (the target) and on other text, a GPT of 170,000 parameters, 16 "
        f"samples a step of 320, 160 or 64 candidates, {kept['seeds']} seeds; learning rates, and the step of GREATS, "
        "chosen for each row with another seed on other maths. Equal compute: as many token passes as "
        "Filter-then-Weight makes in 100 steps, products not counted. `full`: all candidates in one batch. It takes an "
        "hour."
    )
    return found


def shared_store(kept: Mapping[str, Any]) -> list[dict[str, Any]]:
    keys = ["trainer's side", "shared, µs", "alone, µs", "ratio"]
    side = table("A batch of 64 with a shared store", keys, [[row[key] for key in keys] for row in kept["trainer"]])
    rates = list(kept["samples/s"].items())
    return [side, table(f"{kept['samples']:,} samples over the line", ["", "rate, samples/s"], rates)]


TABLES: dict[str, Callable[[Mapping[str, Any]], list[dict[str, Any]]]] = {
    f.__name__: f
    for f in (
        selection,
        shared_store,
    )
}
