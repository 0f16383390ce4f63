"""Whose weights keep away from wrong labels, and does a weighting model that was trained once help another model?

    python -m benchmarks.weighting_models [--seeds 5] [--steps 1000] [--only NAME]

scikit-learn's digits, 40 % of the training labels drawn at random (a tenth of these is right by chance), an MLP. The
methods are told 100 rows with clean labels: their target, their validation set, or what RhoLoss's reference model is
trained on; what these rows are worth without any method is shown too. Over the steps, the share of the weight (of what
is handed over) that falls on labels drawn at random: 40 % for weights that know nothing. Test accuracy at the end, and
at the evaluation that is best on 100 other clean rows.

Methods that choose take 32 of 128 candidates, so they see four times as many samples in as many steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.utils.data import TensorDataset

from benchmarks.harness import Spread, machine, save, table
from benchmarks.noisy_labels import NOISE, digits
from weighted_stream import FilterThenWeight, RhoLoss, Strategy, Uniform, WeightedStream, per_sample_cross_entropy
from weighted_stream.demo.train import endless

BATCH, BUDGET, TOLD, WIDTH, RATE, EVALUATE_EVERY = 32, 0.25, 100, 128, 2e-3, 50
PICTURE = Path(__file__).parents[1] / "docs" / "corrupted_share.png"

Rows = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Data:
    """The digits of one seed.

    Attributes:
        train: images and labels, of which some were drawn at random.
        drawn: which ones.
        told: clean rows that the methods are told.
        pick: other clean rows, to pick the best evaluation on.
        test: clean rows.
    """

    train: Rows
    drawn: Tensor
    told: Rows
    pick: Rows
    test: Rows

    @classmethod
    def of(cls, seed: int) -> Data:
        """Always the same for a seed."""
        (x, y, clean), (pick_x, pick_y), test = digits(seed)
        return cls((x, y), ~clean, (pick_x[:TOLD], pick_y[:TOLD]), (pick_x[TOLD:], pick_y[TOLD:]), test)


def network(seed: int, width: int = WIDTH) -> nn.Sequential:
    """Two hidden layers."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def losses_of(model: nn.Module, batch: Any) -> Tensor:
    """(B,)."""
    return per_sample_cross_entropy(model(batch[0]), batch[1])


def accuracy(model: nn.Module, rows: Rows) -> float:
    with torch.no_grad():
        return float((model(rows[0]).argmax(1) == rows[1]).float().mean())


def fit(model: nn.Module, rows: Rows, seed: int, steps: int = 300) -> nn.Module:
    """Train a reference model on clean rows alone."""
    optimizer = AdamW(model.parameters(), lr=RATE, weight_decay=0.1)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        places = torch.randint(len(rows[0]), (BATCH,), generator=draw)
        optimizer.zero_grad()
        losses_of(model, (rows[0][places], rows[1][places])).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model


Make = Callable[[nn.Module, Optimizer, Data, int], Strategy]

STRATEGIES: dict[str, Make] = {
    "uniform": lambda model, optimizer, data, seed: Uniform(),
    "RhoLoss": lambda model, optimizer, data, seed: RhoLoss(
        model, fit(network(seed + 500), data.told, seed), losses_of, BUDGET
    ),
    "FilterThenWeight": lambda model, optimizer, data, seed: FilterThenWeight(
        model, optimizer, [data.told], BUDGET, loss_fn=losses_of
    ),
}

ORACLES: dict[str, Callable[[Data], Rows]] = {
    "uniform, the clean rows added": lambda data: joined(data.train, data.told),
    "oracle: no label drawn": lambda data: (data.train[0][~data.drawn], data.train[1][~data.drawn]),
    "the 100 clean rows alone": lambda data: data.told,
}
"""Uniform training on other rows."""


def joined(one: Rows, other: Rows) -> Rows:
    return torch.cat([one[0], other[0]]), torch.cat([one[1], other[1]])


def run(name: str, seed: int, steps: int, width: int = WIDTH, make: Make | None = None) -> dict[str, Any]:
    """Train once: accuracies, and the share of the weight on drawn labels between evaluations."""
    data = Data.of(seed)
    train = ORACLES[name](data) if name in ORACLES else data.train
    model = network(seed, width)
    optimizer = AdamW(model.parameters(), lr=RATE)
    make = make or STRATEGIES["uniform" if name in ORACLES else name]
    strategy = make(model, optimizer, data, seed)
    start = time.process_time()
    shares: list[float] = []
    curve: list[tuple[float, float]] = []
    with WeightedStream(TensorDataset(*train), strategy) as stream:
        loader = stream.loader(batch_size=BATCH, shuffle=True, seed=seed, drop_last=True)
        for step, (batch, weight) in enumerate(islice(endless(loader), steps), 1):
            losses = losses_of(model, batch)
            optimizer.zero_grad()
            (losses * weight).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if name not in ORACLES:
                weights = weight.tensor()
                shares.append(float(weights[data.drawn[weight.ids]].sum() / weights.sum()))
            if step % EVALUATE_EVERY == 0 or step == steps:
                curve.append((accuracy(model, data.pick), accuracy(model, data.test)))
    windows = [shares[at : at + EVALUATE_EVERY] for at in range(0, len(shares), EVALUATE_EVERY)]
    return {
        "name": name,
        "seed": seed,
        "end": curve[-1][1],
        "picked": max(curve)[1],
        "shares": [statistics.mean(window) for window in windows],
        "seconds": time.process_time() - start,
    }


def figures_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One row: spreads over the seeds, and the shares over the steps."""
    shares = [run["shares"] for run in runs]
    return {
        "end": Spread.of([run["end"] for run in runs]),
        "picked": Spread.of([run["picked"] for run in runs]),
        "share at first": Spread.of([one[0] for one in shares]) if shares[0] else None,
        "share at last": Spread.of([one[-1] for one in shares]) if shares[0] else None,
        "seconds": statistics.median(run["seconds"] for run in runs),
        "runs": runs,
    }


def as_table(rows: dict[str, dict[str, Any]]) -> str:
    headings = ["weights", "at the end", "picked", "on drawn labels: first", "last", "CPU s"]
    columns = ("end", "picked", "share at first", "share at last")
    lines = [
        [name, *("" if row[column] is None else row[column] for column in columns), f"{row['seconds']:.1f}"]
        for name, row in rows.items()
    ]
    return table(headings, lines)


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """The share of the weight on drawn labels over the steps: mean and range over the seeds, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), layout="constrained")
    panel = figure.subplots()
    for name, row in rows.items():
        curves = [run["shares"] for run in row["runs"]]
        if not curves[0]:
            continue
        values = [(min(at), statistics.mean(at), max(at)) for at in zip(*curves, strict=True)]
        low, mean, high = (list(column) for column in zip(*values, strict=True))
        steps = [EVALUATE_EVERY * (at + 1) for at in range(len(mean))]
        (drawn,) = panel.plot(steps, mean, linewidth=1.2, label=name)
        panel.fill_between(steps, low, high, color=drawn.get_color(), alpha=0.2, linewidth=0)
    panel.set(title="share of the weight on labels drawn at random", xlabel="step", ylim=(0, 0.5))
    panel.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weighting_models")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--only", action="append", choices=[*STRATEGIES, *ORACLES], help="this row; may be repeated")
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args(argv)
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    torch.set_num_threads(1)
    print(machine())
    rows = {}
    for name in options.only or [*STRATEGIES, *ORACLES]:
        rows[name] = figures_of([run(name, seed, options.steps) for seed in range(options.seeds)])
        print(as_table({name: rows[name]}).splitlines()[-1], flush=True)
    print(f"\n{NOISE:.0%} of the labels drawn at random, {options.steps} steps, {options.seeds} seeds, median (range):")
    print(as_table(rows))
    if not options.no_save:
        save("weighting_models", {"steps": options.steps, "seeds": options.seeds, "rows": rows})
        draw(rows, PICTURE)


if __name__ == "__main__":
    main()
