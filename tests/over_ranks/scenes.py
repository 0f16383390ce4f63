"""What can happen among ranks: each function is one rank's part; results go to a file each."""

from __future__ import annotations

import os
import shutil
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from global_batches import Batches, data
from torch import nn
from torch.distributed.algorithms import Join
from torch.nn.parallel import DistributedDataParallel

from weighted_stream import (
    Adapt,
    AdaptBM25,
    InfoBatch,
    LinUpper,
    OnlineDataMixing,
    ParquetDataset,
    RanksError,
    Similarity,
    StoreError,
    WeightedStream,
    WeightStore,
)
from weighted_stream.ranks.group import timeout

SAMPLES = 40


def numbers() -> list[float]:
    return [float(n % 11) + 0.5 for n in range(SAMPLES)]


def keep(folder: str, rank: int, **values: Any) -> None:
    torch.save(values, Path(folder) / f"{rank}.pt")


def records_of(stream: WeightedStream) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(v) for name, v in stream.store.get(np.arange(SAMPLES)).items()}


def train_with_join(rank: int, folder: str) -> None:
    """Ranks of which one has fewer batches train one model with DistributedDataParallel, under torch's Join."""
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    stream = WeightedStream(numbers(), LinUpper(window="running", memory=64), store=f"{folder}/store")
    mine = [[4 * n + 2 * rank, 4 * n + 2 * rank + 1] for n in range(6 - 3 * rank)]
    for _ in range(2):
        with Join([model]):
            for batch, weight in stream.loader(batch_sampler=Batches(mine)):
                losses = (model(batch.float()[:, None]).squeeze(1) - 1.0).square()
                optimizer.zero_grad()
                (losses * weight).mean().backward()
                optimizer.step()
    keep(folder, rank, records=records_of(stream), step=stream.stats()["step"], learned=stream.strategy.state_dict())
    stream.close()


def weigh_in_parts(rank: int, folder: str, window: str) -> None:
    """Micro-batches, more of them on one rank; one rank runs a batch again."""
    stream = WeightedStream(numbers(), LinUpper(window=window, memory=64))
    mine = [list(range(20 * rank + 5 * n, 20 * rank + 5 * n + 5)) for n in range(4)]
    weights = []
    for epoch in range(2):
        for n, (batch, weight) in enumerate(stream.loader(batch_sampler=Batches(mine))):
            losses = batch.float() / (epoch + 1)
            if window == "batch":
                weight.resolve(losses)
            parts = weight.split(2) if rank == 0 else (weight,)
            sizes = [len(part) for part in parts]
            found = [part.resolve(own) for part, own in zip(parts, losses.split(sizes), strict=True)]
            if rank == 1 and n % 2:
                again = weight.resolve(losses)  # out of memory, say
                torch.testing.assert_close(again, torch.cat(found), rtol=0, atol=0)
            weights.append(torch.cat(found))
    keep(folder, rank, weights=weights, records=records_of(stream), learned=stream.strategy.state_dict())


def leave_early(rank: int, folder: str) -> None:
    """One rank leaves its loop early and begins the next epoch: it listens to the others first."""
    stream = WeightedStream(numbers(), LinUpper())
    mine = [list(range(20 * rank + 5 * n, 20 * rank + 5 * n + 5)) for n in range(4)]
    for epoch in range(2):
        for n, (batch, weight) in enumerate(stream.loader(batch_sampler=Batches(mine))):
            weight.resolve(batch.float())
            if rank == 1 and epoch == 0 and n == 1:
                break
    keep(folder, rank, records=records_of(stream), step=stream.stats()["step"])


def lose_one(rank: int, folder: str) -> None:
    """One rank is killed; the other one hears of it at once, says so, and keeps what it has heard."""
    stream = WeightedStream(numbers(), LinUpper())
    mine = [list(range(20 * rank + 5 * n, 20 * rank + 5 * n + 5)) for n in range(4)]
    ends = WeightedStream(numbers(), LinUpper(), store=f"{folder}/store")
    items = iter(ends.loader(batch_sampler=Batches(mine[: 2 + rank])))
    for _ in range(2):
        batch, weight = next(items)
        weight.resolve(batch.float())
    if rank == 0:
        assert next(items, None) is None  # listens to the other from now on
    try:
        for n, (batch, weight) in enumerate(stream.loader(batch_sampler=Batches(mine))):
            if rank == 1 and n == 2:
                os._exit(0)
            weight.resolve(batch.float())
    except RanksError as error:
        try:
            ends.close()
        except RanksError as second:
            records = WeightStore(f"{folder}/store", mode="r").get(np.arange(SAMPLES))
            keep(folder, rank, errors=[str(error), str(second)], visits=torch.from_numpy(records["visits"]))
        os._exit(0)


def differ(rank: int, folder: str) -> None:
    """Faults that one rank has, and that all of them hear of."""
    said = []
    Path(folder, "store").mkdir(exist_ok=True)
    Path(folder, "foreign").mkdir(exist_ok=True)
    if rank == 0:
        Path(folder, "foreign", "notes.txt").write_text("mine")
    torch.distributed.barrier()
    try:
        WeightedStream(numbers(), LinUpper(), store=f"{folder}/foreign")
    except (RanksError, StoreError) as error:
        said.append(f"{type(error).__name__}: {error}")
    stream = WeightedStream(numbers(), LinUpper(), store=f"{folder}/store")
    state = stream.state_dict()
    try:
        if rank == 0:
            stream.load_state_dict(state)
        else:
            for batch, weight in stream.loader(batch_size=4):
                weight.resolve(batch.float())
    except RanksError as error:
        said.append(f"{type(error).__name__}: {error}")
    alone = WeightedStream(numbers(), LinUpper(), process_group=False)
    if rank == 0:
        for batch, weight in alone.loader(batch_size=20):
            weight.resolve(batch.float())
        said.append(str(alone.stats()["step"]))
    keep(folder, rank, said=said)


def look_at_the_model(rank: int, folder: str) -> None:
    """A strategy that sees its rank's samples alone, normalised over all of them; and one that chooses."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 8), nn.Linear(8, 1))
    target = [torch.arange(4.0)[:, None]]
    strategy = Adapt(model, target, normalize="mean", head=model[1], tau=0.5)
    stream = WeightedStream(numbers(), strategy)
    mine = [list(range(20 * rank + 5 * n, 20 * rank + 5 * n + 5 - rank)) for n in range(4)]
    weights = []
    for batch, weight in stream.loader(batch_sampler=Batches(mine)):
        losses = model(batch.float()[:, None]).squeeze(1)
        weights.append(weight.resolve(losses))
    strategy = Adapt(model, target, normalize="mean", head=model[1], tau=0.5)
    lacking = WeightedStream(numbers(), strategy)
    for n, (batch, weight) in enumerate(lacking.loader(batch_sampler=Batches(mine))):
        losses = model(batch.float()[:, None]).squeeze(1)
        nothing = torch.full_like(losses, torch.nan)
        found = weight.resolve(nothing if (rank, n) in ((1, 1), (0, 2)) else losses)
        if n == 1:
            weight.resolve(losses)  # run again, and it has finite losses now
        weights.append(found)
    chooser = WeightedStream(data(), InfoBatch(epochs=4, prune=True))
    for _ in range(2):
        for batch, weight in chooser.loader(batch_size=10, sampler=list(range(60 * rank, 60 * rank + 60))):
            weight.resolve(batch["loss"].float().nan_to_num(1.0, posinf=1.0))
    records = {name: torch.from_numpy(v) for name, v in chooser.store.get(np.arange(120)).items()}
    keep(folder, rank, weights=weights, records=records, lacking=records_of(lacking))


def name_groups(rank: int, folder: str) -> None:
    """Groups come from samples and from the user; a state is taken before the files have their names."""
    domains = [f"größe {n // 5 % 4}" for n in range(SAMPLES)]
    data = [{"loss": loss, "domain": domain} for loss, domain in zip(numbers(), domains, strict=True)]
    mine = Batches([list(range(20 * rank + 5 * n, 20 * rank + 5 * n + 5)) for n in range(4)])
    options = {"group_fn": "domain", "store": f"{folder}/store"}
    stream = WeightedStream(data, OnlineDataMixing(), **options)
    if rank == 0:
        stream.store.set_groups([3, 33], ["by hand", "largest"])
    state = {}
    for n, (batch, weight) in enumerate(stream.loader(batch_sampler=mine)):
        weight.resolve(batch["loss"].float())
        if n == 1:
            state = stream.state_dict()
            torch.distributed.barrier()
            if rank == 0:  # what a killed process leaves behind
                shutil.copytree(f"{folder}/store", f"{folder}/copy", ignore=shutil.ignore_patterns("lock"))
            torch.distributed.barrier()
    names = [stream.store.groups[n] for n in stream.store.get(np.arange(SAMPLES))["group"]]
    again = WeightedStream(data, OnlineDataMixing(), **{**options, "store": f"{folder}/copy"})
    states = [state]
    torch.distributed.broadcast_object_list(states)
    again.load_state_dict(states[0])
    for batch, weight in again.loader(batch_sampler=mine):
        weight.resolve(batch["loss"].float())
    assert names == domains
    assert stream.store.groups == again.store.groups
    keep(folder, rank, records=records_of(stream), again=records_of(again))


def score_ahead(rank: int, folder: str) -> None:
    """Each rank scores its own share ahead; the scores of all of them decide."""
    texts = [f"{'maths proof number' if n % 3 else 'cooking soup recipe'} {n}" for n in range(SAMPLES)]
    strategy = Similarity(["a proof of a theorem about a number"], wait=True)
    stream = WeightedStream([{"text": text} for text in texts], strategy, store=f"{folder}/store")
    weights = []
    mine = [list(range(20 * rank + 5 * n, 20 * rank + 5 * n + 5)) for n in range(4)]
    for batch, weight in stream.loader(batch_sampler=Batches(mine)):
        weights.append(weight.resolve(torch.ones(len(batch["text"]))))
    keep(folder, rank, weights=weights, records=records_of(stream), scored=stream.stats()["scored"])
    stream.close()


def score_by_words(rank: int, folder: str) -> None:
    """Each rank reads another file, and scores by the words of both."""
    strategy = AdaptBM25(["a proof of a theorem about a number"], wait=True)
    stream = WeightedStream(ParquetDataset(f"{folder}/shards"), strategy, id_fn="id")
    for batch, weight in stream.loader(batch_size=5):
        weight.resolve(torch.ones(len(batch["text"])))
    keep(folder, rank, records=records_of(stream))
    stream.close()


def go_back(rank: int, folder: str) -> None:
    """A state from the middle of an epoch, loaded into the streams that are past it."""
    stream = WeightedStream(numbers(), LinUpper(window="running", memory=64), store=f"{folder}/store")
    mine = [[4 * n + 2 * rank, 4 * n + 2 * rank + 1] for n in range(10)]
    loader = stream.loader(batch_sampler=Batches(mine))
    seen: list[torch.Tensor] = []
    for step, (batch, weight) in enumerate(loader):
        seen.append(weight.resolve(batch.float() + 1.0))
        if step == 7:
            state, then = stream.state_dict(), records_of(stream)
        if step == 8:
            break
    stream.load_state_dict(state)
    keep(folder, rank, then=then, now=records_of(stream))
    again = [weight.resolve(batch.float() + 1.0) for batch, weight in loader]
    assert torch.equal(again[0], seen[8])
    # The same with losses on their way, and nobody who says that the loop was left.
    pairs = iter(loader)
    for batch, weight in pairs:
        weight.resolve(batch.float() + 9.0)
        break
    stream.load_state_dict(state)
    once_more = [weight.resolve(batch.float() + 1.0) for batch, weight in stream.loader(batch_sampler=Batches(mine))]
    assert all(map(torch.equal, once_more, again))
    stream.close()


def weigh_the_same(rank: int, folder: str) -> None:
    """Nobody shares the samples out, or somebody does."""
    for shared in False, True:
        stream = WeightedStream(numbers(), LinUpper(), store=f"{folder}/store{shared}")
        more = {"sampler": torch.utils.data.DistributedSampler(numbers())} if shared else {"shuffle": True}
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for batch, weight in stream.loader(batch_size=5, **more):
                weight.resolve(batch.float())
        found = [one for one in said if "All ranks weigh the same samples" in str(one.message)]
        assert len(found) == (not shared), [str(one.message) for one in said]
        stream.close()


def wait_as_long(rank: int, folder: str) -> None:
    """As the trainer's own group does, and half an hour at least."""
    for given, expected in ((2.0, 2.0), (0.1, 0.5)):
        group = torch.distributed.new_group(timeout=timedelta(hours=given))
        assert timeout(group) == timedelta(hours=expected)
    assert timeout(None) == timedelta(minutes=30)
