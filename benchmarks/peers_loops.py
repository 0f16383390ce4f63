"""What `benchmarks.peers` times in plain loops: the same work, weighted by each library and by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW
from torch.utils.data import DataLoader, WeightedRandomSampler

from benchmarks.method_cost_runs import losses_of
from benchmarks.peers_found import info_batch, patched
from weighted_stream import InfoBatch, LinUpper, Uniform, WeightedStream
from weighted_stream.demo.model import GPT, GPTConfig

BATCH, ROWS = 64, 2048
SMALL = GPTConfig(context=32, width=64, heads=2)

Step = Callable[[], Any]


class Work:
    """A model in training; or none: then the losses are made of nothing, and only loading and weighing take time.

    Args:
        config: of a small GPT; None: no model.
        device: where it is.
    """

    def __init__(self, config: GPTConfig | None, device: str) -> None:
        length, vocab = (8, 100) if config is None else (config.context + 1, config.vocab)
        self.rows = torch.randint(1, vocab, (ROWS, length), generator=torch.Generator().manual_seed(0))
        self.model = None if config is None else GPT(config).to(device)
        self.leaf = torch.rand(BATCH, device=device, requires_grad=True)
        parameters = [self.leaf] if self.model is None else list(self.model.parameters())
        self.optimizer = AdamW(parameters, lr=1e-4, fused=True)

    def losses(self, batch: Tensor) -> Tensor:
        """(B,)."""
        return self.leaf[: len(batch)] + 1 if self.model is None else losses_of(self.model, batch)

    def train(self, loss: Tensor) -> None:
        """The rest of the step; without a model there is nothing to learn."""
        if self.model is not None:
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.optimizer.zero_grad()


class Numbered(torch.utils.data.Dataset[Any]):
    """Rows with their numbers, as whoever writes the loop by hand needs them."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        return index, self.rows[index]


def by_hand(losses: Tensor) -> Tensor:
    """LinUpper's formula (arXiv 2502.06733), as one writes it."""
    low, high = losses.min(), losses.max()
    h = (2 * losses - (high + low)) / (high - low).clamp(min=1e-6)
    return len(losses) * torch.softmax((h + 1).clamp(max=1.0), 0)


def epochs(make: Callable[[], Any]) -> Iterator[Any]:
    """Epoch after epoch of a loader, which may be made anew for each."""
    while True:
        yield from make()


def plain(work: Work) -> Step:
    source = epochs(lambda: DataLoader(work.rows, BATCH, shuffle=True, drop_last=True))  # type: ignore[arg-type]
    return lambda: work.train(work.losses(next(source)).mean())


def ours(strategy: Any) -> Callable[[Work], Step]:
    def make(work: Work) -> Step:
        stream = WeightedStream(list(work.rows), strategy())
        loader = stream.loader(batch_size=BATCH, shuffle=True, drop_last=True)
        source = epochs(lambda: loader)

        def step() -> None:
            batch, weight = next(source)
            work.train((work.losses(batch) * weight).mean())

        return step

    return make


def hand_written(remembers: bool) -> Callable[[Work], Step]:
    """LinUpper by hand; with a table of losses by index, or without any memory."""

    def make(work: Work) -> Step:
        data: Any = Numbered(work.rows) if remembers else work.rows
        loader = DataLoader(data, BATCH, shuffle=True, drop_last=True)
        source, table = epochs(lambda: loader), torch.full((ROWS,), torch.nan)

        def step() -> None:
            found = next(source)
            index, batch = found if remembers else (None, found)
            losses = work.losses(batch)
            detached = losses.detach().float()
            if index is not None:
                table[index] = detached.cpu()
            work.train((losses * by_hand(detached)).mean())

        return step

    return make


def their_info_batch(work: Work) -> Step:
    """As its page tells: the wrapper, its sampler, and its update in place of the mean."""
    data = info_batch()(list(work.rows), 10**6)
    loader = DataLoader(data, BATCH, sampler=data.sampler, drop_last=True)
    source = epochs(lambda: loader)

    def step() -> None:
        with patched():
            batch = next(source)
        work.train(data.update(work.losses(batch)))

    return step


def weighted_random(work: Work) -> Step:
    """Samples drawn in proportion to the losses that a table remembers, anew in each epoch; their weight is 1."""
    data, table = Numbered(work.rows), torch.ones(ROWS)
    source = epochs(
        lambda: DataLoader(data, BATCH, sampler=WeightedRandomSampler(table.tolist(), ROWS), drop_last=True)
    )

    def step() -> None:
        index, batch = next(source)
        losses = work.losses(batch)
        table[index] = losses.detach().float().cpu()
        work.train(losses.mean())

    return step


WAYS: dict[str, Callable[[Work], Step]] = {
    "weighted_stream, Uniform": ours(Uniform),
    "weighted_stream, LinUpper": ours(LinUpper),
    "weighted_stream, InfoBatch": ours(InfoBatch),
    "weighted_stream, InfoBatch pruning": ours(lambda: InfoBatch(prune=True)),
    "by hand, LinUpper, no memory": hand_written(False),
    "by hand, LinUpper, a table of losses": hand_written(True),
    "torch's WeightedRandomSampler, a table of losses": weighted_random,
    "InfoBatch's wrapper": their_info_batch,
}
