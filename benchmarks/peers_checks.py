"""What holds and what breaks: small experiments, the same for all libraries that they apply to. Here: the weights."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers_found import data_flex
from benchmarks.peers_loops import by_hand
from weighted_stream import Adapt, LinUpper, WeightedStream
from weighted_stream.strategies import make_strategy

Findings = dict[str, str]
OURS, DATAFLEX, INFOBATCH, HAND, SAMPLER = (
    "weighted_stream",
    "DataFlex",
    "InfoBatch",
    "by hand",
    "WeightedRandomSampler",
)
LIBRARIES = (OURS, DATAFLEX, INFOBATCH, HAND, SAMPLER)

ROWS, BATCH = 640, 64


def of_a_whole_batch(losses: Tensor) -> Tensor:
    """LinUpper as published: over the optimizer's batch."""
    return by_hand(losses)


def their_weights(losses: Tensor) -> Tensor:
    """What DataFlex's loss weighter multiplies the losses by, times their number: mean-1 weights."""
    leaf = losses.clone().requires_grad_()
    weighter = data_flex().build("weighter", "loss", runtime={}, cfg={})
    (gradient,) = torch.autograd.grad(weighter.get_weighted_loss(leaf), leaf)
    return gradient * len(losses)


def micro_batches() -> dict[str, Findings]:
    """One optimizer batch of 64 in micro-batches: how far a weight is from that of the whole batch, at most."""
    losses = torch.rand(BATCH, generator=torch.Generator().manual_seed(0)) * 5
    wanted = of_a_whole_batch(losses)
    found: dict[str, Findings] = {}
    for size in (64, 8, 2, 1):
        stream = WeightedStream(list(range(BATCH)), LinUpper())
        (_, weight), *_ = stream.loader(batch_size=BATCH)
        weight.resolve(losses)
        mine = torch.cat([w.resolve(part) for w, part in zip(weight.split(size), losses.split(size), strict=True)])  # type: ignore[no-untyped-call]
        row = {OURS: _error(mine, wanted)}
        row[HAND] = _error(torch.cat([by_hand(part) for part in losses.split(size)]), wanted)  # type: ignore[no-untyped-call]
        if data_flex() is not None:
            row[DATAFLEX] = _error(torch.cat([their_weights(part) for part in losses.split(size)]), wanted)  # type: ignore[no-untyped-call]
        found[f"LinUpper, batch of 64 in micro-batches of {size}: largest error of a weight"] = row
    return found


def _error(weights: Tensor, wanted: Tensor) -> str:
    return f"{(weights - wanted).abs().max().item():.1g}"


class Seen(torch.nn.Module):
    """A small language model that counts the rows it is shown, and in which mode."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(50, 8), torch.nn.Linear(8, 50)
        self.rows = self.in_training = 0

    def forward(self, input_ids: Tensor, attention_mask: Any = None, output_hidden_states: bool = False) -> Any:
        self.rows += len(input_ids)
        self.in_training += len(input_ids) * self.training
        hidden = self.embed(input_ids).cumsum(1)
        return SimpleNamespace(logits=self.head(hidden), hidden_states=(hidden,))


def anchors() -> dict[str, Findings]:
    """One optimizer step of 16 micro-batches of 4, in which 32 examples of the target are looked at anew."""
    tokens = torch.randint(1, 50, (64, 12), generator=torch.Generator().manual_seed(0))
    target = torch.randint(1, 50, (32, 12), generator=torch.Generator().manual_seed(1))
    what = "ADAPT, a step of 16 micro-batches: rows through the model (64 are trained on, 32 are the target)"
    mode = "of which in training mode, beside those trained on"
    scale = "ADAPT, the loss of a batch given twice over that of the batch"
    found: dict[str, Findings] = {what: {}, mode: {}, scale: {}}

    model = Seen()
    stream = WeightedStream(list(tokens), Adapt(model, [target], head=model.head))
    (_, weight), *_ = stream.loader(batch_size=64)
    for part, one in zip(tokens.split(4), weight.split(4), strict=True):  # type: ignore[no-untyped-call]
        losses = model(part).logits.mean((1, 2)).abs()
        (losses * one).mean()
    found[what][OURS], found[mode][OURS] = str(model.rows), str(model.in_training - 64)
    found[scale][OURS] = _doubled(lambda losses, w: (losses * w).mean())

    if data_flex() is not None:
        model, step = Seen(), SimpleNamespace(state=SimpleNamespace(global_step=50), args=SimpleNamespace(local_rank=1))
        mask = torch.ones_like(target[0])
        data = [{"input_ids": row, "attention_mask": mask} for row in target]
        weighter = data_flex().build("weighter", "adapt", runtime={"eval_dataset": data}, cfg={})
        for part in tokens.split(4):  # type: ignore[no-untyped-call]
            inputs = {"input_ids": part, "attention_mask": torch.ones_like(part)}
            losses = model(part).logits.mean((1, 2)).abs()
            weighter.get_weighted_loss(losses, ctx=step, model=model, inputs=inputs)
        found[what][DATAFLEX], found[mode][DATAFLEX] = str(model.rows), str(model.in_training - 64)
        one = tokens[:8]
        values = []
        for part in (one, torch.cat([one, one])):
            inputs = {"input_ids": part, "attention_mask": torch.ones_like(part)}
            values.append(weighter.get_weighted_loss(torch.ones(len(part)), ctx=step, model=model, inputs=inputs))
        found[scale][DATAFLEX] = f"{float(values[1] / values[0]):.2f}"
    return found


def _doubled(loss: Callable[[Tensor, Tensor], Tensor]) -> str:
    losses, weights = torch.rand(8) + 1, torch.rand(8)
    return f"{float(loss(losses.repeat(2), weights.repeat(2)) / loss(losses, weights)):.2f}"


def options() -> dict[str, Findings]:
    """An option that a method does not have, and one that it should have."""
    found = {"an unknown option": {OURS: outcome_of(lambda: make_strategy("linupper", temprature=0.4))}}
    temperature = {OURS: f"r = {make_strategy('linupper', r=0.4).r:g}"}  # type: ignore[attr-defined]
    if data_flex() is not None:

        def build(**given: Any) -> Any:
            return data_flex().build("weighter", "loss", runtime={}, cfg=given)

        found["an unknown option"][DATAFLEX] = outcome_of(lambda: build(temprature=0.4))
        temperature[DATAFLEX] = f"r = {build(r=0.4).r:g}"
    return found | {"LinUpper asked for with r = 0.4": temperature}


def outcome_of(work: Callable[[], Any]) -> str:
    try:
        work()
    except RecursionError:
        return "RecursionError"
    except Exception as error:
        return f"{type(error).__name__}"
    return "taken without a word"


CHECKS = (micro_batches, anchors, options)
