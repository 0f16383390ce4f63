"""What a strategy is told about where its samples stand."""

from __future__ import annotations

import torch

from weighted_stream import Signals, Strategy, WeightedStream


class Listener(Strategy):
    """Weights of 1, and a record of what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple] = []

    def weights(self, signals: Signals) -> torch.Tensor:
        self.hear("weights", signals)
        return torch.ones(len(signals))

    def observe(self, signals: Signals) -> None:
        self.hear("observe", signals)

    def hear(self, when: str, signals: Signals) -> None:
        places, asked = (None if some is None else some.tolist() for some in (signals.places, signals.asked))
        self.told.append((when, places, asked, signals.ids.tolist()))


def test_places_of_parts_of_what_is_counted_and_of_finite_losses() -> None:
    strategy, nan = Listener(), torch.nan
    weight = WeightedStream(list(range(20)), strategy).weight([10, 11, 12, 13, 14])
    weight[1:3].resolve(torch.ones(2))
    weight[[4, 2, 3]].resolve(torch.tensor([1.0, 2.0, nan]))
    weight.resolve(torch.tensor([nan, 1.0, 1.0, 1.0, 1.0]))
    weight.tensor()
    assert strategy.told == [
        ("weights", [1, 2], None, [11, 12]),
        ("observe", [1, 2], None, [11, 12]),
        ("weights", [4, 2], [4, 2, 3], [14, 12]),
        ("observe", [4], None, [14]),
        ("weights", [1, 2, 3, 4], [0, 1, 2, 3, 4], [11, 12, 13, 14]),
    ]


def test_a_whole_batch_has_no_places() -> None:
    strategy = Listener()
    stream = WeightedStream(list(range(20)), strategy)
    stream.weight([3, 1]).tensor()
    stream.weight([3, 1]).resolve(torch.ones(2))
    assert strategy.told == [("weights", None, None, [3, 1])] * 2 + [("observe", None, None, [3, 1])]
