"""Noisy labels: what loss-based weights do when 40 % of the training labels are drawn at random.

    python -m benchmarks.noisy_labels [--quick]

scikit-learn's digits (1,797 images of 8 × 8), an MLP, test accuracy at the end and at the epoch that is best on 200
clean held-out rows. LinUpper favours large losses, and so the wrong labels; SmallLoss favours small ones.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness import Spread, Table, add_form_argument, machine, save
from weighted_stream import LinUpper, Shuffled, SmallLoss, Strategy, Uniform, WeightedStream, per_sample_cross_entropy

SEEDS, EPOCHS, NOISE, PICKING, TESTING = 5, 60, 0.4, 200, 400

STRATEGIES: dict[str, Callable[[int], Strategy]] = {
    "uniform": lambda seed: Uniform(),
    "LinUpper r 0.4": lambda seed: LinUpper(r=0.4),
    "LinUpper r 0.4, shuffled": lambda seed: Shuffled(LinUpper(r=0.4), seed=seed),
    "SmallLoss r 1": lambda seed: SmallLoss(r=1.0),
    "SmallLoss r 1, shuffled": lambda seed: Shuffled(SmallLoss(r=1.0), seed=seed),
    "oracle: clean labels only": lambda seed: Uniform(),
}


def digits(seed: int) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training set (with a mask of the untouched labels), rows to pick the epoch on, test rows."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(seed)
    images, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(labels))
    x = torch.tensor(images[order] / 16, dtype=torch.float32)
    y = torch.tensor(labels[order])
    test, pick, rest = x[:TESTING], x[TESTING : TESTING + PICKING], x[TESTING + PICKING :]
    train_y = y[TESTING + PICKING :].clone()
    noisy = torch.from_numpy(rng.random(len(train_y)) < NOISE)
    train_y[noisy] = torch.from_numpy(rng.integers(0, 10, int(noisy.sum())))
    return (rest, train_y, ~noisy), (pick, y[TESTING : TESTING + PICKING]), (test, y[:TESTING])


def run(name: str, seed: int) -> dict[str, float]:
    """Train once; accuracies, and the weight that fell on wrong labels."""
    (x, y, clean), pick, test = digits(seed)
    if name.startswith("oracle"):
        x, y, clean = x[clean], y[clean], clean[clean]
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    stream = WeightedStream(torch.utils.data.TensorDataset(x, y), STRATEGIES[name](seed))
    loader = stream.loader(batch_size=64, shuffle=True, seed=seed)

    def accuracy(rows: tuple[Tensor, Tensor]) -> float:
        with torch.no_grad():
            return float((model(rows[0]).argmax(1) == rows[1]).float().mean())

    curve = []
    for _ in range(EPOCHS):
        for (inputs, targets), weight in loader:
            losses = per_sample_cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            (losses * weight).mean().backward()
            optimizer.step()
        curve.append((accuracy(pick), accuracy(test)))
    weights = stream.store.get(np.arange(len(y)))["weight"]
    wrong = float(weights[~clean.numpy()].sum() / weights.sum())
    return {"end": curve[-1][1], "picked": max(curve)[1], "weight on wrong labels": wrong}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noisy_labels")
    add_form_argument(parser)
    seeds = 3 if parser.parse_args(argv).quick else SEEDS
    warnings.filterwarnings("ignore", "A weight of", RuntimeWarning)
    print(machine())
    figures: dict[str, Any] = {}
    for name in STRATEGIES:
        runs = [run(name, seed) for seed in range(seeds)]
        figures[name] = {key: [round(one[key], 4) for one in runs] for key in runs[0]}
    headings = [("weights", ""), *((name, "") for name in next(iter(figures.values())))]
    rows = [[name, *(Spread.of(values) for values in columns.values())] for name, columns in figures.items()]
    title = f"Test accuracy, {NOISE:.0%} of the training labels random, {seeds} seeds, median (range)"
    shown = Table(title, headings, rows)
    print(shown)
    end = {name: np.array(columns["end"]) for name, columns in figures.items()}
    print(
        "seeds in which SmallLoss ends above uniform:", int((end["SmallLoss r 1"] > end["uniform"]).sum()), "of", seeds
    )
    print(
        "seeds in which LinUpper ends above uniform: ", int((end["LinUpper r 0.4"] > end["uniform"]).sum()), "of", seeds
    )
    save("noisy_labels", {"seeds": seeds, "epochs": EPOCHS, "accuracy": figures}, [shown])


if __name__ == "__main__":
    main()
