"""WeightedStream over map-style data: exact weights for any loader, and any loader rebuilt as it was."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    WeightedRandomSampler,
)
from torch.utils.data._utils.collate import default_collate

from weighted_stream import (
    LinUpper,
    SampleIdError,
    SourceError,
    StoreError,
    StoreMismatchError,
    StrategyError,
    UnboundError,
    Uniform,
    Weight,
    WeightedStream,
    WeightStore,
)
from weighted_stream.strategies.lin_upper import lin_upper

pytestmark = [
    pytest.mark.filterwarnings("ignore:A weight of .* passes the 2:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker:UserWarning"),
]


class Numbers(Dataset[dict[str, Any]]):
    """Samples that carry their own index, to hold ids against."""

    def __init__(self, size: int = 103) -> None:
        self.size = size
        self.losses = torch.rand(size, generator=torch.Generator().manual_seed(0)) * 3

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"marker": index, "loss": self.losses[index]}


def check_epoch(pairs: Any, data: Numbers, r: float = 0.4) -> list[list[int]]:
    """Every batch of one epoch gets the formula's weights of *its* losses; the markers, batch by batch."""
    seen = []
    for batch, weight in pairs:
        assert weight.ids.tolist() == batch["marker"].tolist()
        weights = weight.resolve(batch["loss"])
        torch.testing.assert_close(weights, lin_upper(data.losses[batch["marker"]], r), rtol=0, atol=1e-6)
        seen.append(batch["marker"].tolist())
    return seen


@pytest.mark.parametrize(("num_workers", "prefetch_factor"), [(0, None), (1, 1), (1, 4), (2, 2), (4, 4)])
@pytest.mark.parametrize("drop_last", [False, True])
def test_exact_for_any_workers_and_prefetch(num_workers: int, prefetch_factor: int | None, drop_last: bool) -> None:
    data = Numbers()
    stream = WeightedStream(data, LinUpper(r=0.4))
    loader = stream.loader(
        batch_size=16, shuffle=True, num_workers=num_workers, prefetch_factor=prefetch_factor, drop_last=drop_last
    )
    sizes = [16] * 6 + ([] if drop_last else [7])
    epochs = [check_epoch(loader, data) for _ in range(2)]
    for seen in epochs:
        assert [len(batch) for batch in seen] == sizes
        assert len({marker for batch in seen for marker in batch}) == sum(sizes)
    assert epochs[0] != epochs[1]
    assert len(loader) == len(sizes)
    visits = stream.store.get(np.arange(103))["visits"]
    assert visits.sum() == 2 * sum(sizes)


@pytest.mark.parametrize("batch_size", [1, 2, 103, 500])
def test_exact_for_any_batch_size(batch_size: int) -> None:
    data = Numbers()
    check_epoch(WeightedStream(data, LinUpper(r=0.4)).loader(batch_size=batch_size), data)


def looking_ahead(pairs: Iterator[Any]) -> Iterator[Any]:
    """As accelerate does: fetch the next batch before the current one is used."""
    yield from (first for first, _ in pairwise([*pairs, None]))


def test_exact_under_look_ahead() -> None:
    data = Numbers()
    stream = WeightedStream(data, LinUpper(r=0.4))
    check_epoch(looking_ahead(iter(stream.loader(batch_size=8, shuffle=True, num_workers=2))), data)
    np.testing.assert_array_equal(stream.store.get(np.arange(103))["last_loss"], data.losses.numpy())


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
def test_start_methods(context: str) -> None:
    data = Numbers(40)
    stream = WeightedStream(data, LinUpper(r=0.4))
    check_epoch(stream.loader(batch_size=8, num_workers=2, multiprocessing_context=context), data)
    own = DataLoader(stream, batch_size=8, num_workers=2, multiprocessing_context=context)
    check_epoch(own, data)
    assert stream.store.get(np.arange(40))["visits"].tolist() == [2] * 40


def test_persistent_workers_and_two_loaders_at_once() -> None:
    data = Numbers(40)
    stream = WeightedStream(data, LinUpper(r=0.4))
    loader = stream.loader(batch_size=8, shuffle=True, num_workers=2, persistent_workers=True)
    assert check_epoch(loader, data) != check_epoch(loader, data)
    for (one, w1), (two, w2) in zip(stream.loader(batch_size=8), stream.loader(batch_size=8, seed=9), strict=True):
        torch.testing.assert_close(w2.resolve(two["loss"]), lin_upper(two["loss"], 0.4))
        torch.testing.assert_close(w1.resolve(one["loss"]), lin_upper(one["loss"], 0.4))


def train(weighted: bool, steps: int = 50) -> tuple[list[float], list[Tensor]]:
    """The same loop twice: with the stream, and written by hand with the formula."""
    torch.manual_seed(3)
    inputs, targets = torch.randn(200, 10), torch.randint(0, 4, (200,))
    data = torch.utils.data.TensorDataset(inputs, targets)
    model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    curve = []
    if weighted:
        stream = WeightedStream(data, LinUpper(r=0.4))
        batches = stream.loader(batch_size=30, shuffle=True, num_workers=2, seed=5)
    else:
        same = WeightedStream(data, Uniform())
        batches = same.loader(batch_size=30, shuffle=True, seed=5)
    while len(curve) < steps:
        for (x, y), weight in batches:
            losses = nn.functional.cross_entropy(model(x), y, reduction="none")
            w = weight if weighted else lin_upper(losses.detach(), 0.4)
            loss = (losses * w).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
    return curve, [p.grad for p in model.parameters()] + [p.detach() for p in model.parameters()]


def test_training_equals_a_hand_written_weighted_loop() -> None:
    curve, tensors = train(weighted=True)
    expected_curve, expected_tensors = train(weighted=False)
    assert curve == expected_curve
    for tensor, expected in zip(tensors, expected_tensors, strict=True):
        torch.testing.assert_close(tensor, expected, rtol=0, atol=0)


def test_order_is_a_function_of_seed_and_epoch() -> None:
    data = Numbers(50)

    def order(seed: int, workers: int = 0) -> list[list[list[int]]]:
        loader = WeightedStream(data, Uniform()).loader(batch_size=7, shuffle=True, seed=seed, num_workers=workers)
        return [[batch["marker"].tolist() for batch, _ in loader] for _ in range(2)]

    assert order(1) == order(1) == order(1, workers=2)
    assert order(1) != order(2)
    assert order(1)[0] != order(1)[1]
    stream = WeightedStream(data, Uniform())
    torch.manual_seed(0)
    before = torch.rand(1)
    torch.manual_seed(0)
    list(stream.loader(batch_size=7, shuffle=True))
    assert torch.rand(1) == before  # torch's global generator is the user's


def test_epochs_are_counted() -> None:
    stream = WeightedStream(Numbers(10), Uniform())
    loader = stream.loader(batch_size=4)
    assert stream.epoch == 0
    for expected in range(3):
        for _ in loader:
            assert stream.epoch == expected
    for _ in stream.loader(batch_size=4):
        break
    assert stream.epoch == 3
    assert stream.stats()["epoch"] == 3


def test_plain_sequences_and_tensor_datasets() -> None:
    for data in ([5.0, 6.0, 7.0], (5.0, 6.0, 7.0), np.array([5.0, 6.0, 7.0]), torch.tensor([5.0, 6.0, 7.0])):
        ((batch, weight),) = WeightedStream(data, Uniform()).loader(batch_size=3)
        assert batch.tolist() == [5, 6, 7]
        assert weight.ids.tolist() == [0, 1, 2]


def test_a_dataloader_of_ones_own() -> None:
    data = Numbers(20)
    stream = WeightedStream(data, LinUpper(r=0.4))
    sample, weight = stream[7]
    assert sample["marker"] == 7
    assert weight.ids.tolist() == [7]
    assert len(stream) == 20
    check_epoch(DataLoader(stream, batch_size=6, shuffle=True), data)

    def collate(pairs: list[Any]) -> Any:
        samples, weights = zip(*pairs, strict=True)
        return default_collate(samples), Weight.collate(weights)

    check_epoch(DataLoader(stream, batch_size=6, collate_fn=collate), data)


class Lines(IterableDataset[dict[str, Any]]):
    def __init__(self, data: Numbers) -> None:
        self.data = data

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = torch.utils.data.get_worker_info()
        start, step = (0, 1) if info is None else (info.id, info.num_workers)
        return (self.data[i] for i in range(start, len(self.data), step))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_iterable_data_with_an_id_column(num_workers: int) -> None:
    data = Numbers(31)
    stream = WeightedStream(Lines(data), LinUpper(r=0.4), id_fn="marker")
    for loader in (
        stream.loader(batch_size=8, num_workers=num_workers),
        DataLoader(stream, 8, num_workers=num_workers),
    ):
        seen = check_epoch(loader, data)
        assert sorted(marker for batch in seen for marker in batch) == list(range(31))


def test_dicts_carry_their_ids() -> None:
    data = Numbers(20)
    stream = WeightedStream(data, LinUpper(r=0.4), as_dict=True)
    for loader in (stream.loader(batch_size=6, num_workers=1), DataLoader(stream, batch_size=6)):
        for batch in loader:
            assert batch["sample_id"].dtype == torch.int64
            assert batch["sample_id"].tolist() == batch["marker"].tolist()
            weights = stream.weight(batch["sample_id"]).resolve(batch["loss"])
            torch.testing.assert_close(weights, lin_upper(batch["loss"], 0.4))
    assert "sample_id" not in data[0]
    with pytest.raises(SourceError, match="sample_id"):
        list(WeightedStream([1.0], Uniform(), as_dict=True).loader())
    with pytest.raises(SourceError, match="sample_id"):
        list(WeightedStream([{"sample_id": 3}], Uniform(), as_dict=True).loader())
    for wrong in ([-1, 2], [[1, 2]], [0.5]):
        with pytest.raises(SampleIdError):
            stream.weight(wrong)


class Shouting(DataLoader[Any]):
    """A user's loader with an argument of its own."""

    def __init__(self, *args: Any, volume: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.volume = volume

    def __iter__(self) -> Any:
        yield from super().__iter__()

    def shout(self) -> str:
        return "!" * self.volume


class Forgetful(DataLoader[Any]):
    def __init__(self, dataset: Any, secret: int = 1, **kwargs: Any) -> None:
        super().__init__(dataset, **kwargs)


def doubled(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    batch: dict[str, Tensor] = default_collate(samples)
    return {**batch, "doubled": batch["marker"] * 2}


def test_a_dataloader_is_rebuilt_with_its_class_and_arguments() -> None:
    data = Numbers(23)
    given = Shouting(data, batch_size=4, volume=3, num_workers=1, collate_fn=doubled, drop_last=True, timeout=20)
    stream = WeightedStream(given, LinUpper(r=0.4))
    loader = stream.loader()
    assert type(loader._loader) is Shouting
    assert loader.shout() == "!!!"
    assert (loader.batch_size, loader.num_workers, loader.timeout, loader.drop_last) == (4, 1, 20, True)
    seen = check_epoch(loader, data)
    assert [len(batch) for batch in seen] == [4] * 5
    for batch, weight in stream:
        weight.resolve(batch["marker"].float())
        assert batch["doubled"].tolist() == [2 * marker for marker in batch["marker"].tolist()]
    assert len(stream) == 5
    assert len(check_epoch(stream.loader(batch_size=10, num_workers=0, drop_last=False), data)) == 3
    with pytest.raises(SourceError, match="secret"):
        WeightedStream(Forgetful(data), Uniform()).loader()


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 5, "sampler": lambda d: DistributedSampler(d, 3, 1, shuffle=False)},
        {"batch_size": 5, "sampler": lambda d: WeightedRandomSampler(torch.ones(len(d)), 40)},
        {"batch_size": 5, "sampler": lambda d: RandomSampler(d, replacement=True, num_samples=50)},
        {"batch_sampler": lambda d: BatchSampler(SequentialSampler(d), 7, drop_last=True)},
        {"batch_size": 5, "shuffle": True},
    ],
)
def test_samplers_survive(arguments: dict[str, Any]) -> None:
    data = Numbers(23)

    def made() -> DataLoader[Any]:
        torch.manual_seed(1)
        given = {k: v(data) if callable(v) else v for k, v in arguments.items()}
        return DataLoader(data, **given, generator=torch.Generator().manual_seed(4))

    def bare() -> list[list[int]]:
        return [batch["marker"].tolist() for batch in made()]

    def wrapped() -> list[list[int]]:
        return check_epoch(WeightedStream(made(), LinUpper(r=0.4)).loader(), data)

    def through_loader() -> list[list[int]]:
        torch.manual_seed(1)
        given = {k: v(data) if callable(v) else v for k, v in arguments.items()}
        stream = WeightedStream(data, LinUpper(r=0.4))
        return check_epoch(stream.loader(**given, generator=torch.Generator().manual_seed(4)), data)

    torch.manual_seed(1)
    expected = bare()
    torch.manual_seed(1)
    assert wrapped() == expected
    torch.manual_seed(1)
    assert through_loader() == expected


def test_a_sampler_that_gives_whole_batches() -> None:
    data = torch.arange(20.0)
    loader = DataLoader(data, sampler=BatchSampler(SequentialSampler(data), 6, False), batch_size=None)
    stream = WeightedStream(loader, LinUpper(r=0.4))
    for batch, weight in stream:
        assert weight.ids.tolist() == batch.int().tolist()
        weight.resolve(batch)
    assert stream.stats()["visits"] == 20


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata 0.11 under the newest torch
def test_stateful_dataloader_keeps_its_state() -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    data = Numbers(24)

    def loader() -> Any:
        given = stateful.StatefulDataLoader(data, batch_size=4, num_workers=1, snapshot_every_n_steps=2)
        return WeightedStream(given, Uniform()).loader()

    first = loader()
    assert type(first._loader) is stateful.StatefulDataLoader
    assert first.snapshot_every_n_steps == 2
    batches = iter(first)
    for _ in range(3):
        next(batches)
    state = first.state_dict()
    rest = [weight.ids.tolist() for _, weight in batches]
    second = loader()
    second.load_state_dict(state)
    assert [weight.ids.tolist() for _, weight in second] == rest
    assert len(rest) == 3


def test_shuffling_overrides_a_wrapped_loader() -> None:
    data = Numbers(50)
    stream = WeightedStream(DataLoader(data, batch_size=10), LinUpper(r=0.4))
    torch.manual_seed(0)
    seen = check_epoch(stream.loader(shuffle=True), data)
    assert seen != check_epoch(stream.loader(), data)
    assert sorted(marker for batch in seen for marker in batch) == list(range(50))


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        ([], SourceError, "empty"),
        (DataLoader(Numbers(0)), SourceError, "empty"),
        (Lines(Numbers(3)), SampleIdError, "id_fn"),
        ("texts", SourceError, "str"),
        (3, SourceError, "int"),
        ({"a": 1}, SourceError, "dict"),
        ((i for i in range(3)), SourceError, "generator"),
    ],
)
def test_what_cannot_be_wrapped(data: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        WeightedStream(data, Uniform())


def test_other_mistakes_at_construction() -> None:
    stream = WeightedStream([1.0], Uniform())
    with pytest.raises(SourceError, match="already"):
        WeightedStream(stream, Uniform())
    with pytest.raises(SourceError, match="already"):
        WeightedStream(stream.loader(), Uniform())
    for wrong in ("linupper", LinUpper, None):
        with pytest.raises(StrategyError, match="make_strategy"):
            WeightedStream([1.0], wrong)  # type: ignore[arg-type]
    with pytest.raises(SampleIdError, match="id_fn"):
        WeightedStream([1.0], Uniform(), id_fn=3)  # type: ignore[arg-type]
    for arguments in ({"batchsize": 3}, {"dataset": [1]}):
        with pytest.raises(SourceError, match=next(iter(arguments))):
            stream.loader(**arguments)
    with pytest.raises(StrategyError, match="seed"):
        stream.loader(seed=-1)
    with pytest.raises(ValueError, match="mutually exclusive"):
        stream.loader(shuffle=True, sampler=SequentialSampler([1.0]))
    with pytest.raises(SourceError, match="cannot reorder"):
        WeightedStream(Lines(Numbers(3)), Uniform(), id_fn="marker").loader(shuffle=True)


@pytest.mark.parametrize("bad", [-1, 1.5, None, True, 2**63])
def test_impossible_ids_name_the_sample(bad: Any) -> None:
    data = [{"uid": 3}, {"uid": bad}]
    with pytest.raises(SampleIdError, match="sample 1"):
        list(WeightedStream(data, Uniform(), id_fn="uid").loader(batch_size=2))


def test_two_samples_with_one_id_and_a_missing_column() -> None:
    with pytest.raises(SampleIdError, match="same id"):
        list(WeightedStream([{"uid": 3}, {"uid": 3}], Uniform(), id_fn="uid").loader(batch_size=2))
    with pytest.raises(SampleIdError, match="uid"):
        list(WeightedStream([{"id": 3}], Uniform(), id_fn="uid").loader())
    sampler = [0, 1, 0, 0]  # drawn twice on purpose: legal, counted each time
    stream = WeightedStream([{"uid": 3, "x": 1.0}, {"uid": 4, "x": 2.0}], Uniform(), id_fn="uid")
    for batch, weight in stream.loader(batch_size=4, sampler=sampler):
        weight.resolve(batch["x"])
    assert stream.store.get([3, 4])["visits"].tolist() == [3, 1]


class Rows(IterableDataset[dict[str, Any]]):
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


def test_two_samples_of_an_iterable_with_one_id() -> None:
    with pytest.raises(SampleIdError, match="id 3"):
        list(
            WeightedStream(Rows([{"uid": 3, "x": 1}, {"uid": 3, "x": 2}]), Uniform(), id_fn="uid").loader(batch_size=2)
        )
    stream = WeightedStream(Rows([{"uid": 3, "x": 1.0}] * 2), Uniform(), id_fn="uid")  # one sample, repeated: legal
    for batch, weight in stream.loader(batch_size=2):
        weight.resolve(batch["x"].float())
    assert stream.store.get([3])["visits"].tolist() == [2]


def test_streams_do_not_mix_in_a_batch() -> None:
    one, two = WeightedStream([1.0], Uniform()), WeightedStream([2.0], Uniform())
    with pytest.raises(UnboundError, match="wrap them once"):
        default_collate([one[0], two[0]])


def test_a_store_remembers_its_dataset(tmp_path: Any) -> None:
    with WeightedStream(Numbers(20), LinUpper(), store=tmp_path / "run") as stream:
        for batch, weight in stream.loader(batch_size=10):
            weight.resolve(batch["loss"])
    with WeightedStream(Numbers(20), LinUpper(), store=tmp_path / "run") as stream:
        assert stream.store.get([0])["visits"].tolist() == [1]
    for other in (Numbers(21), list(range(20))):
        with pytest.raises(StoreMismatchError, match="20"):
            WeightedStream(other, LinUpper(), store=tmp_path / "run")
    with WeightStore(tmp_path / "run") as store:
        assert WeightedStream(Numbers(20), LinUpper(), store=store).store is store
        with pytest.raises(StoreMismatchError):
            WeightedStream(Numbers(21), LinUpper(), store=store)


def test_two_trainers_cannot_share_a_store(tmp_path: Any) -> None:
    with WeightedStream(Numbers(20), LinUpper(), store=tmp_path / "run"), pytest.raises(OSError, match="to do"):
        WeightedStream(Numbers(20), LinUpper(), store=tmp_path / "run")


class Weighing(Dataset[Any]):
    """A dataset that does in a worker what belongs into the training loop."""

    def __init__(self, weight: Weight) -> None:
        self.weight = weight

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Tensor:
        return self.weight.resolve(torch.ones(1))


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_weight_in_a_worker_says_where_it_belongs(context: str) -> None:
    stream = WeightedStream([1.0], Uniform())
    ((_, weight),) = stream.loader()
    with pytest.raises(UnboundError, match="training loop"):
        list(DataLoader(Weighing(weight), num_workers=1, multiprocessing_context=context))


def test_a_pickled_stream_reads_samples_only() -> None:
    stream = WeightedStream(Numbers(5), LinUpper())
    copy = pickle.loads(pickle.dumps(stream))
    sample, weight = copy[3]
    assert sample["marker"] == 3
    assert weight.resolve(torch.ones(1)).tolist() == [1.0]  # here the stream itself lives
    for ask in (lambda: copy.store, lambda: copy.loader(), lambda: copy.stats()):
        with pytest.raises(UnboundError, match="main process"):
            ask()


def test_stats_and_repr() -> None:
    stream = WeightedStream(Numbers(64), LinUpper(r=1.0))
    for batch, weight in stream.loader(batch_size=32):
        batch["loss"] * weight
    stats = stream.stats()
    assert stats["step"] == 2
    assert stats["visits"] == 64
    assert stats["weight_mean"] == pytest.approx(1, abs=1e-5)
    assert 0.5 < stats["ess"] < 1
    assert stats["weight_cv"] > 0.1
    assert "LinUpper" in repr(stream)
    assert all(isinstance(value, float) for value in stats.values())


def longest_first(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A collate function that reorders, as those that pad do."""
    batch: dict[str, Tensor] = default_collate(sorted(samples, key=lambda s: -float(s["loss"])))
    return batch


def test_dict_batches_may_be_reordered_by_their_collate_fn() -> None:
    data = Numbers(20)
    stream = WeightedStream(data, Uniform(), as_dict=True)
    for loader in (
        stream.loader(batch_size=6, collate_fn=longest_first),
        DataLoader(stream, 6, collate_fn=longest_first),
    ):
        for batch in loader:
            assert batch["sample_id"].tolist() == batch["marker"].tolist()
    with pytest.raises(SourceError, match="sample_id"):
        list(stream.loader(batch_size=2, collate_fn=lambda samples: {"loss": torch.ones(len(samples))}))


def test_samples_are_not_written_to() -> None:
    rows = [{"x": i} for i in range(4)]
    stream = WeightedStream(rows, Uniform(), as_dict=True)
    for _ in range(2):
        assert [batch["sample_id"].tolist() for batch in stream.loader(batch_size=4)] == [[0, 1, 2, 3]]
        assert [batch["sample_id"].tolist() for batch in stream.loader(batch_size=None)] == [[0], [1], [2], [3]]
        assert stream[2]["sample_id"] == 2
    assert rows == [{"x": i} for i in range(4)]


def test_a_wrapped_batch_sampler_is_not_lost_half() -> None:
    data = Numbers(20)
    given = DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 5, False))
    stream = WeightedStream(given, Uniform())
    for half in ({"drop_last": True}, {"shuffle": True}, {"batch_size": 6}):
        with pytest.raises(SourceError, match="batch_sampler"):
            stream.loader(**half)
    assert [len(weight) for _, weight in stream.loader(batch_size=6, shuffle=True)] == [6, 6, 6, 2]
    again = stream.loader(batch_sampler=BatchSampler(SequentialSampler(data), 7, False))
    assert [len(weight) for _, weight in again] == [7, 7, 6]
    for loader in (stream, WeightedStream(DataLoader(data, 5), Uniform())):
        with pytest.raises(ValueError, match="mutually exclusive"):
            loader.loader(shuffle=True, sampler=[1, 2, 3], batch_size=2)
    with pytest.raises(ValueError, match="mutually exclusive"):
        WeightedStream(data, Uniform()).loader(shuffle=True, sampler=[1], generator=torch.Generator())


def test_set_epoch_names_the_next_epoch() -> None:
    data = Numbers(30)
    plain, resumed = WeightedStream(data, Uniform()), WeightedStream(data, Uniform())
    orders = [[w.ids.tolist() for _, w in plain.loader(batch_size=10, shuffle=True)] for _ in range(1)]
    loader = plain.loader(batch_size=10, shuffle=True)
    orders += [[w.ids.tolist() for _, w in loader] for _ in range(2)]
    resumed.set_epoch(2)
    assert resumed.epoch == 2
    assert [w.ids.tolist() for _, w in resumed.loader(batch_size=10, shuffle=True)] == orders[2]
    for epoch in range(3):
        resumed.set_epoch(epoch)
        assert [w.ids.tolist() for _, w in resumed.loader(batch_size=10, shuffle=True)] == orders[epoch]
        assert resumed.epoch == epoch


def test_nested_streams_and_subclasses_are_refused() -> None:
    stream = WeightedStream(Numbers(5), Uniform())
    for nested in (DataLoader(stream), Subset(stream, [1, 2])):
        with pytest.raises(SourceError, match="already"):
            WeightedStream(nested, Uniform())
    with pytest.raises(TypeError, match="wrap the dataset"):
        type("Mine", (WeightedStream,), {})


def test_a_store_for_reading_is_refused(tmp_path: Any) -> None:
    WeightStore(tmp_path / "store").close()
    with WeightStore(tmp_path / "store", mode="r") as store, pytest.raises(StoreError, match="reading only"):
        WeightedStream(Numbers(5), Uniform(), store=store)


def test_a_loader_in_a_loader_says_what_to_do() -> None:
    stream = WeightedStream(DataLoader(Numbers(5)), Uniform())
    with pytest.raises(SourceError, match="wrap the dataset instead"):
        next(iter(DataLoader(stream)))


def test_a_wrapped_loader_keeps_its_workers() -> None:
    given = DataLoader(Numbers(8), batch_size=4, num_workers=1, persistent_workers=True)
    stream = WeightedStream(given, Uniform())
    workers = []
    for _ in range(2):
        list(stream)
        workers.append(stream._default._iterator._workers[0].pid)
    assert workers[0] == workers[1]


class Several(Dataset[Tensor]):
    """Fetches many at once, and may leave some out."""

    def __init__(self, missing: int) -> None:
        self.missing = missing

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: Any) -> Tensor:
        return torch.arange(6.0)[index]

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        return [torch.tensor(float(i)) for i in indices][self.missing :]


def test_samples_left_out_by_getitems() -> None:
    assert len(list(WeightedStream(Several(0), Uniform()).loader(batch_size=3))) == 2
    with pytest.raises(SourceError, match="left samples out"):
        list(WeightedStream(Several(1), Uniform()).loader(batch_size=3))


@pytest.mark.parametrize("indices", [np.array([4, 2]), torch.tensor([4, 2]), [4, 2]])
def test_many_indices_in_one(indices: Any) -> None:
    stream = WeightedStream(Several(0), Uniform())
    ((batch, weight),) = stream.loader(sampler=[indices], batch_size=None)
    assert batch.tolist() == [4, 2]
    assert weight.ids.tolist() == [4, 2]
    sample, weight = stream[2:4]
    assert (sample.tolist(), weight.ids.tolist()) == ([2, 3], [2, 3])


def test_the_order_is_a_function_of_seed_and_epoch_however_workers_are_kept() -> None:
    def epochs(**options: Any) -> list[list[int]]:
        loader = WeightedStream(list(range(50)), Uniform()).loader(batch_size=8, shuffle=True, seed=3, **options)
        return [[number for _, weight in loader for number in weight.ids.tolist()] for _ in range(3)]

    orders = epochs()
    assert orders[0] != orders[1] != orders[2]
    assert epochs(num_workers=2) == orders
    assert epochs(num_workers=2, persistent_workers=True) == orders
