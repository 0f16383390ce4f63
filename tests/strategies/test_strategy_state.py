"""What a strategy has learned goes through its state: the weights go on as if nothing had happened."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn

from weighted_stream import (
    Adapt,
    Clip,
    Dro,
    Extremes,
    InfoBatch,
    LinUpper,
    Quadratic,
    Shuffled,
    Similarity,
    SmallLoss,
    StateError,
    Strategy,
    Uniform,
    WeightedStream,
)

pytestmark = pytest.mark.filterwarnings("ignore:A weight of .* passes the 2:RuntimeWarning")

ROWS, BATCH = 160, 8
DATA = [
    (x, y) for x, y in zip(torch.randn(ROWS, 5, generator=torch.manual_seed(1)), torch.arange(ROWS) % 3, strict=True)
]


class Training:
    """A small training; all of it is a function of the seed."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.strategy = STRATEGIES[name](self)
        self.stream = WeightedStream(DATA, self.strategy)
        self.stream.store.update(range(ROWS), similarity=torch.linspace(-1, 1, ROWS).numpy())

    @property
    def target(self) -> list[Any]:
        return [DATA[0][0][None].repeat(2, 1)]

    def steps(self, batches: list[Any]) -> list[torch.Tensor]:
        weights = []
        for (x, y), weight in batches:
            losses = nn.functional.cross_entropy(self.model(x), y, reduction="none")
            self.optimizer.zero_grad()
            (losses * weight).mean().backward()
            self.optimizer.step()
            weights.append(weight.tensor())
        return weights


STRATEGIES: dict[str, Any] = {
    "uniform": lambda _: Uniform(),
    "lin_upper": lambda _: LinUpper(),
    "lin_upper, running": lambda _: LinUpper(window="running"),
    "quadratic, running, small": lambda _: Quadratic(window="running", memory=40),
    "extremes, running, ess": lambda _: Extremes(window="running", ess=0.8),
    "dro * small_loss, running": lambda _: Dro(window="running") * SmallLoss(window="running", memory=64),
    "clip(shuffled(lin_upper, running))": lambda _: Clip(Shuffled(LinUpper(window="running", r=0.2))),
    "similarity, running": lambda _: Similarity(window="running"),
    "info_batch": lambda _: InfoBatch(),
    "adapt": lambda t: Adapt(t.model, t.target, head="2", refresh_every=7),
    "adapt, centred": lambda t: Adapt(t.model, t.target, tau=0.1, center="running", head="2", refresh_every=7),
}


def kept(state: Any) -> Any:
    """As it comes back from a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("after", [1, 11])
def test_a_fresh_strategy_goes_on(name: str, after: int) -> None:
    first = Training(name)
    batches = list(first.stream.loader(batch_size=BATCH))
    first.steps(batches[:after])
    second = Training(name)
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(kept(first.optimizer.state_dict()))
    second.stream.store.update(range(ROWS), similarity=torch.linspace(-1, 1, ROWS).numpy())
    rest = list(second.stream.loader(batch_size=BATCH))[after:]
    second.strategy.load_state_dict(kept(first.strategy.state_dict()))
    second.stream._live().step = first.stream._live().step
    for one, other in zip(first.steps(batches[after:]), second.steps(rest), strict=True):
        assert torch.equal(one, other)


def test_a_state_is_a_copy() -> None:
    training = Training("lin_upper, running")
    batches = list(training.stream.loader(batch_size=BATCH))
    training.steps(batches[:5])
    state = training.strategy.state_dict()
    ring = state["latest"]["ring"].clone()
    training.steps(batches[5:])
    assert torch.equal(state["latest"]["ring"], ring)


@pytest.mark.parametrize(
    ("strategy", "state"),
    [
        (Uniform(), {"latest": 1}),
        (LinUpper(), {}),
        (LinUpper(window="running", memory=64), LinUpper(window="running").state_dict() | {"more": 1}),
        (LinUpper() * Dro(), {"0": LinUpper().state_dict()}),
        (InfoBatch(), {"epoch": 1}),
        (Clip(LinUpper()), None),
    ],
)
def test_a_state_of_another_strategy_is_refused(strategy: Strategy, state: Any) -> None:
    with pytest.raises(StateError, match="expected"):
        strategy.load_state_dict(state)


def test_a_window_of_another_size_is_refused() -> None:
    training = Training("quadratic, running, small")
    training.steps(list(training.stream.loader(batch_size=BATCH)))
    with pytest.raises(StateError, match="memory=40"):
        Quadratic(window="running").load_state_dict(training.strategy.state_dict())
