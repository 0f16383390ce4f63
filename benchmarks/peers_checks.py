"""What holds and what breaks: small experiments, each the same for all libraries that it applies to."""

from __future__ import annotations

import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterator
from itertools import chain, islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, WeightedRandomSampler

from benchmarks.peers_found import data_flex, info_batch, patched
from benchmarks.peers_loops import by_hand
from weighted_stream import Adapt, Frozen, LinUpper, Uniform, WeightedStream, WeightStore
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
    found = {"an unknown option": {OURS: _raises(lambda: make_strategy("linupper", temprature=0.4))}}
    temperature = {OURS: f"r = {make_strategy('linupper', r=0.4).r:g}"}  # type: ignore[attr-defined]
    if data_flex() is not None:

        def build(**given: Any) -> Any:
            return data_flex().build("weighter", "loss", runtime={}, cfg=given)

        found["an unknown option"][DATAFLEX] = _raises(lambda: build(temprature=0.4))
        temperature[DATAFLEX] = f"r = {build(r=0.4).r:g}"
    return found | {"LinUpper asked for with r = 0.4": temperature}


def _raises(work: Callable[[], Any]) -> str:
    try:
        work()
    except RecursionError:
        return "RecursionError"
    except Exception as error:
        return f"{type(error).__name__}"
    return "taken without a word"


def ahead(batches: Any) -> Iterator[Any]:
    """A loader that is one batch ahead, as accelerate's is."""
    batches = iter(batches)
    held = list(islice(batches, 1))
    while held:
        held += list(islice(batches, 1))
        yield held.pop(0)


def attribution() -> dict[str, Findings]:
    """Whose losses are whose, if the loader is one batch ahead; the loss of a sample is its number."""
    what = "samples that got another one's loss, with a loader one batch ahead"
    stream = WeightedStream([float(n) for n in range(ROWS)], Uniform())
    for values, weight in ahead(stream.loader(batch_size=BATCH, shuffle=True)):
        values.float() * weight
    mine = stream.store.get(np.arange(ROWS))["last_loss"]
    found = {OURS: f"{int((mine != np.arange(ROWS)).sum())} of {ROWS}"}
    if info_batch() is not None:
        data = info_batch()([float(n) for n in range(ROWS)], 10**6)
        loader = DataLoader(data, BATCH, sampler=data.sampler, drop_last=True)
        trained = wrong = 0
        with patched():
            for values in ahead(loader):
                try:
                    data.update(values.float() * 1.0)
                except AssertionError:  # after the last batch there are no indices left
                    wrong += len(values)
                else:
                    wrong += int((data.scores[values.long()] != values).sum())
                trained += len(values)
        found[INFOBATCH] = f"{wrong} of {trained}"
    return {what: found}


def precision() -> dict[str, Findings]:
    """Where losses are remembered on ranks (of which there is one here): in bfloat16, and with ids beyond 2^24."""
    found = {
        "64 losses in bfloat16, torch.distributed in use: remembered elsewhere": {OURS: _remembered_by_us(0)},
        "64 losses of ids around 2^24, torch.distributed in use: remembered elsewhere": {
            OURS: _remembered_by_us(2**24)
        },
    }
    if info_batch() is not None:
        with tempfile.TemporaryDirectory() as folder:
            torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=0, world_size=1)
            try:
                cases = ((300, torch.bfloat16), (2**24, torch.float32))
                for by, case in zip(found.values(), cases, strict=True):
                    by[INFOBATCH] = _remembered_by_them(*case)
            finally:
                torch.distributed.destroy_process_group()
    return found


def _remembered_by_them(middle: int, dtype: torch.dtype) -> str:
    ids = torch.arange(middle - 32, middle + 32)
    data = info_batch()(range(middle + 64), 10**6)
    data.set_active_indices(ids)
    try:
        data.update(torch.zeros(64, dtype=dtype))
    except RuntimeError:
        return "RuntimeError"
    return f"{int((data.scores[ids] != 0).sum())} of 64"


def _remembered_by_us(first: int) -> str:
    """Losses of zero; in bfloat16."""
    data = [(first + 300 + n, 0.0) for n in range(64)]
    stream = WeightedStream(IterableOf(data), Uniform(), id_fn=lambda sample: sample[0])
    for (_, values), weight in stream.loader(batch_size=BATCH):
        values.to(torch.bfloat16) * weight
    ids = [number for number, _ in data]
    return f"{int((stream.store.get(ids)['last_loss'] != 0).sum())} of 64"


class IterableOf(torch.utils.data.IterableDataset[Any]):
    """Samples one after the other."""

    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[Any]:
        return iter(self.samples)


def epoch_ends() -> dict[str, Findings]:
    """An epoch whose last batch is not full."""
    what = "batches of an epoch of 100 samples, 32 a batch, the last one kept"
    most = 1000
    stream = WeightedStream(list(range(100)), Uniform())
    found = {OURS: str(sum(1 for _ in stream.loader(batch_size=32)))}
    if info_batch() is not None:
        data = info_batch()(list(range(100)), 10**6)
        loader = DataLoader(data, 32, sampler=data.sampler, drop_last=False)
        with patched():
            count = sum(1 for _ in islice(loader, most))
        found[INFOBATCH] = str(count) if count < most else f"no end after {most:,}"
    return {what: found}


def pickles() -> dict[str, Findings]:
    """Loader workers that are spawned need a dataset that pickles."""
    what = "the dataset after pickling, as spawned workers get it"
    stream = WeightedStream(list(range(100)), Uniform())
    loader = stream.loader(batch_size=10, num_workers=1, multiprocessing_context="spawn")
    found = {OURS: "works" if sum(len(batch) for batch, _ in loader) == 100 else "loses samples"}
    if info_batch() is not None:
        data = info_batch()(list(range(100)), 10**6)
        outcome = _raises(lambda: pickle.loads(pickle.dumps(data)))
        found[INFOBATCH] = "works" if outcome.startswith("taken") else outcome
    return {what: found}


def goes_on() -> dict[str, Findings]:
    """A state to go on from within an epoch."""
    what = "stops within an epoch and goes on"
    found = {OURS: "each sample once", SAMPLER: _state_of(WeightedRandomSampler([1.0], 1))}
    stream = WeightedStream(list(range(64)), LinUpper())
    seen = [batch.tolist() for batch, _ in islice(stream.loader(batch_size=8, shuffle=True), 3)]
    again = WeightedStream(list(range(64)), LinUpper())
    again.load_state_dict(stream.state_dict())
    seen += [batch.tolist() for batch, _ in again.loader(batch_size=8, shuffle=True)]
    if sorted(chain.from_iterable(seen)) != list(range(64)):
        found[OURS] = "not so"
    if data_flex() is not None:
        found[DATAFLEX] = _state_of(data_flex().build("weighter", "loss", runtime={}, cfg={}))
    if info_batch() is not None:
        found[INFOBATCH] = "no state" if "state_dict" not in dir(info_batch()) else "has a state"
    return {what: found}


def _state_of(thing: Any) -> str:
    return "has a state" if hasattr(thing, "state_dict") else "no state"


def sampling() -> dict[str, Findings]:
    """What drawing samples in place of weighing them means."""
    torch.manual_seed(0)
    drawn = torch.tensor(list(WeightedRandomSampler([1.0] * 10_000, 10_000)))
    unseen = 1 - len(drawn.unique()) / 10_000
    weights = torch.ones(1000)
    sampler: Any = WeightedRandomSampler(weights, 1000)  # type: ignore[arg-type]
    draws = iter(sampler)
    next(draws)
    sampler.weights[:] = 0
    sampler.weights[7] = 1  # from now on nothing but sample 7
    after = torch.tensor(list(draws))
    big = _raises(lambda: next(iter(WeightedRandomSampler(torch.ones(2**24 + 1), 1))))  # type: ignore[arg-type]
    stream = WeightedStream(list(range(ROWS)), Frozen())
    stream.store.update(np.arange(ROWS), loss=np.ones(ROWS), weight=np.ones(ROWS))
    heeded = seen = 0
    for number, (_, weight) in enumerate(stream.loader(batch_size=BATCH, shuffle=True)):
        if number == 1:
            stream.store.update(np.arange(ROWS), weight=np.arange(ROWS) % 2)
        if number:
            heeded += int((weight.resolve(torch.ones(BATCH)).bool() == (weight.ids % 2).bool()).sum())
            seen += BATCH
    with WeightStore() as store:
        ids = np.arange(2**24 - 2, 2**24 + 2)
        store.update(ids, loss=ids % 7)
        ours_big = "works" if (store.get(ids)["loss"] == ids % 7).all() else "mixes ids up"
    return {
        "samples that an epoch of equal weights leaves out": {
            SAMPLER: f"{unseen:.0%}",
            OURS: f"{1 - len(stream.store) / ROWS:.0%}",
        },
        "share of an epoch's rest that follows a change of weights within it": {
            SAMPLER: f"{(after == 7).float().mean():.0%}",
            OURS: f"{heeded / seen:.0%}",
        },
        "more than 16.8 million samples": {SAMPLER: "works" if big.startswith("taken") else big, OURS: ours_big},
    }


def patches() -> dict[str, Findings]:
    """What happens to other loaders of the process."""
    found = {OURS: "as it was"}
    if info_batch() is not None:
        with patched():
            from torch.utils.data.dataloader import _BaseDataLoaderIter

            changed = _BaseDataLoaderIter.__next__.__module__.startswith("infobatch")
        found[INFOBATCH] = "replaced by its own" if changed else "as it was"
    return {"torch's DataLoader iterator, for everything in the process": found}


CHECKS = (
    micro_batches,
    anchors,
    options,
    attribution,
    precision,
    epoch_ends,
    pickles,
    goes_on,
    sampling,
    patches,
)


def findings() -> dict[str, Findings]:
    """All of them: by what is looked at, what each library does."""
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    return {what: found for check in CHECKS for what, found in check().items()}
