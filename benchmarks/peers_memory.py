"""More of `benchmarks.peers_checks`: whose losses are whose, where they are remembered, what ends and what goes on."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, WeightedRandomSampler
from torch.utils.data.dataloader import _BaseDataLoaderIter

from benchmarks.peers_checks import BATCH, DATAFLEX, INFOBATCH, OURS, ROWS, SAMPLER, Findings, outcome_of
from benchmarks.peers_found import data_flex, info_batch, patched
from weighted_stream import Frozen, LinUpper, Uniform, WeightedStream, WeightStore


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
        outcome = outcome_of(lambda: pickle.loads(pickle.dumps(data)))
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
    big = outcome_of(lambda: next(iter(WeightedRandomSampler(torch.ones(2**24 + 1), 1))))  # type: ignore[arg-type]
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
            changed = _BaseDataLoaderIter.__next__.__module__.startswith("infobatch")
        found[INFOBATCH] = "replaced by its own" if changed else "as it was"
    return {"torch's DataLoader iterator, for everything in the process": found}


CHECKS = (attribution, precision, epoch_ends, pickles, goes_on, sampling, patches)
