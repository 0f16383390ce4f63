"""A run that stops after any step and goes on in a fresh stream: every source, 0 and 2 workers, other layouts."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from resuming import assert_same_store, check_resuming, contents, saved, train
from shards import write_mds, write_tars
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, get_worker_info

from weighted_stream import (
    InfoBatch,
    LinUpper,
    ParquetDataset,
    Shuffled,
    StateError,
    StoreError,
    Strategy,
    Uniform,
    WeightedStream,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:A weight of .* passes the 2:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:streaming"),
    # webdataset leaves closing its files to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*num_workers.*:UserWarning:webdataset"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # torchdata asks torch 2.15 for it
]

SIZE = 44


class Rows(Dataset[dict[str, int]]):
    """Map-style."""

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> dict[str, int]:
        return {"marker": index}


class Lines(IterableDataset[dict[str, int]]):
    """Iterable; splits itself over workers, shuffles by epoch."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Any:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        order = np.random.default_rng(self.epoch).permutation(SIZE)[worker::workers]
        return ({"marker": int(row)} for row in order)


def parquet(folder: Path) -> Callable[[], Any]:
    for part in range(4):
        rows = list(range(part * 11, part * 11 + 11))
        pq.write_table(pa.table({"marker": rows}), folder / f"{part}.parquet", row_group_size=4)
    return lambda: ParquetDataset(folder)


def shuffled_parquet(folder: Path) -> Callable[[], Any]:
    parquet(folder)
    return lambda: ParquetDataset(folder, shuffle=True, seed=5, buffer_size=9)


def mds(folder: Path) -> Callable[[], Any]:
    streaming = pytest.importorskip("streaming")
    write_mds(folder, range(SIZE))
    return lambda: streaming.StreamingDataset(local=str(folder), batch_size=8, shuffle=True)


def webdataset(folder: Path) -> Callable[[], Any]:
    wds = pytest.importorskip("webdataset")
    urls = write_tars(folder, range(SIZE))
    return lambda: (
        wds.WebDataset(urls, shardshuffle=False, detshuffle=True, seed=4)
        .compose(wds.detshuffle(20, seed=3))
        .decode()
        .map(lambda sample: {"marker": sample["cls"]})
    )


def hugging_face(folder: Path) -> Callable[[], Any]:
    datasets = pytest.importorskip("datasets")
    return lambda: datasets.Dataset.from_dict({"marker": list(range(SIZE))}).shuffle(seed=3)


def hugging_face_iterable(folder: Path) -> Callable[[], Any]:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"marker": list(range(SIZE))})
    return lambda: table.to_iterable_dataset(num_shards=2).shuffle(seed=3, buffer_size=10)


SOURCES: dict[str, tuple[Callable[[Path], Callable[[], Any]], Any, dict[str, Any]]] = {
    "map": (lambda _: Rows, None, {}),
    "map, shuffled": (lambda _: Rows, None, {"shuffle": True, "seed": 3}),
    "iterable": (lambda _: Lines, "marker", {}),
    "parquet": (parquet, None, {}),
    "parquet, shuffled": (shuffled_parquet, None, {}),
    "mds": (mds, None, {}),
    "webdataset": (webdataset, None, {}),
    "hugging face": (hugging_face, None, {"shuffle": True}),
    "hugging face iterable": (hugging_face_iterable, "marker", {}),
}


def streams(
    name: str, folder: Path, strategy: Callable[[], Strategy], store: bool = True
) -> Callable[[], WeightedStream]:
    """Fresh streams of a source, all with one store on disk."""
    write, id_fn, _ = SOURCES[name]
    shards = folder / "shards"
    shards.mkdir(exist_ok=True)
    make = write(shards)
    return lambda: WeightedStream(make(), strategy(), store=folder / "store" if store else None, id_fn=id_fn)


@pytest.mark.parametrize("name", SOURCES)
def test_after_every_step(name: str, tmp_path: Path) -> None:
    make = streams(name, tmp_path, lambda: LinUpper(window="running"), store=False)
    assert check_resuming(make, batch_size=8, **SOURCES[name][2]) >= 11


@pytest.mark.parametrize("name", SOURCES)
def test_with_workers(name: str, tmp_path: Path) -> None:
    make = streams(name, tmp_path, lambda: LinUpper(), store=False)
    arguments = SOURCES[name][2] | {"num_workers": 2}
    assert check_resuming(make, after=[1, 3, 5, 6, 9], batch_size=8, **arguments) >= 11


@pytest.mark.parametrize("name", ["map, shuffled", "parquet, shuffled", "mds", "webdataset", "iterable"])
def test_a_store_on_disk(name: str, tmp_path: Path) -> None:
    make = streams(name, tmp_path, lambda: LinUpper())
    whole = make()
    steps, states = [], []
    for step, stream in train(whole, 2, batch_size=8, **SOURCES[name][2]):
        steps.append(step)
        states.append(saved(stream.state_dict()))
    end = contents(whole)
    whole.close()
    for stop in range(len(steps) - 1, 0, -3):
        with make() as again:
            again.load_state_dict(states[stop - 1])
            assert [step for step, _ in train(again, 2, batch_size=8, **SOURCES[name][2])] == steps[stop:]
            for field, values in contents(again).items():
                np.testing.assert_array_equal(values, end[field], err_msg=field)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(
    ("before", "after"),
    [({"num_workers": 2}, {"num_workers": 0}), ({"batch_size": 4}, {"batch_size": 7, "num_workers": 1})],
    ids=["workers", "batch size"],
)
def test_another_layout_finishes_the_epoch_with_the_same_samples(
    name: str, before: dict[str, Any], after: dict[str, Any], tmp_path: Path
) -> None:
    make = streams(name, tmp_path, lambda: Uniform(), store=False)
    first, second = make(), make()
    options = {"batch_size": 5, **SOURCES[name][2]}
    if name == "mds":  # its samples come in another order, but each once, only if the epoch needs no padding
        options["batch_size"] = before.get("batch_size", 4)
    seen: Counter[int] = Counter()
    for number, (step, stream) in enumerate(train(first, 1, **options | before), 1):
        seen.update(step.markers)
        if number == 4:
            second.load_state_dict(saved(stream.state_dict()))
            break
    for step, _ in train(second, 1, **options | after):
        assert step.epoch == 0
        seen.update(step.markers)
    assert seen == Counter(range(SIZE))
    visits = contents(second)["visits"]
    assert list(visits) == [1] * SIZE


def test_another_layout_and_back_again(tmp_path: Path) -> None:
    make = streams("parquet, shuffled", tmp_path, lambda: LinUpper(), store=False)
    first, second = make(), make()
    trained = iter(train(first, 1, batch_size=4, num_workers=2))
    seen = [next(trained)[0] for _ in range(3)]
    second.load_state_dict(saved(first.state_dict()))
    changed = list(train(second, 1, batch_size=3))
    third = make()
    for stop in range(1, len(changed)):
        again, third = make(), make()
        again.load_state_dict(saved(first.state_dict()))
        part = iter(train(again, 1, batch_size=3))
        for _ in range(stop):
            next(part)
        third.load_state_dict(saved(again.state_dict()))
        rest = [step for step, _ in train(third, 1, batch_size=3)]
        assert rest == [step for step, _ in changed[stop:]]
    assert sorted(m for step in [*seen, *(s for s, _ in changed)] for m in step.markers) == list(range(SIZE))


WRAPPED: dict[str, Callable[[], Any]] = {
    "global random state": lambda: DataLoader(Rows(), batch_size=8, shuffle=True),
    "its own generator": lambda: DataLoader(
        Rows(), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(9)
    ),
    "a sampler with a generator": lambda: DataLoader(
        Rows(), batch_size=8, sampler=RandomSampler(Rows(), generator=torch.Generator().manual_seed(4))
    ),
    "a batch sampler": lambda: DataLoader(
        Rows(), batch_sampler=torch.utils.data.BatchSampler(RandomSampler(Rows()), 8, drop_last=True)
    ),
    "no batches": lambda: DataLoader(Rows(), batch_size=None),
    "workers of an iterable": lambda: DataLoader(Lines(), batch_size=8, num_workers=2),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_loader(name: str) -> None:
    def make() -> WeightedStream:
        torch.manual_seed(0)
        given = WRAPPED[name]()
        torch.manual_seed(len(streams_made))  # the trainer restores the random state; here it is any
        streams_made.append(name)
        return WeightedStream(given, Uniform(), id_fn="marker")

    streams_made: list[str] = []
    torch.manual_seed(1)
    assert check_resuming(make, after=[1, 4, 5, 7]) >= 10


def test_the_random_state_of_the_trainer_does_not_move() -> None:
    stream, again = (WeightedStream(DataLoader(Lines(), batch_size=8), Uniform(), id_fn="marker") for _ in range(2))
    for number, _ in enumerate(stream, 1):
        if number == 3:
            again.load_state_dict(stream.state_dict())
            break
    torch.manual_seed(5)
    state = torch.get_rng_state()
    next(iter(again))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("data", [Rows, Lines])
def test_a_stateful_dataloader_inside(data: Any, workers: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def make() -> WeightedStream:
        given = stateful.StatefulDataLoader(data(), batch_size=8, num_workers=workers)
        return WeightedStream(given, LinUpper(), id_fn="marker")

    assert check_resuming(make, after=[2, 5, 6, 8]) >= 11


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("data", [Rows, Lines])
def test_a_stateful_dataloader_around(data: Any, workers: int) -> None:
    """The position is the loader's; the rest is the stream's."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def make() -> tuple[WeightedStream, Any]:
        stream = WeightedStream(data(), LinUpper(), id_fn="marker")
        return stream, stateful.StatefulDataLoader(stream, batch_size=8, num_workers=workers)

    def steps(stream: WeightedStream, loader: Any) -> Any:
        for batch, weight in loader:
            yield batch["marker"].tolist(), weight.resolve(batch["marker"] / 10 + 0.1).tolist()

    stream, loader = make()
    seen = []
    for number, step in enumerate(steps(stream, loader), 1):
        seen.append(step)
        if number == 3:
            states = saved(stream.state_dict()), saved(loader.state_dict())
    again, loader = make()
    loader.load_state_dict(states[1])
    again.load_state_dict(states[0])
    assert list(steps(again, loader)) == seen[3:]
    assert_same_store(stream, again)


def test_a_webloader() -> None:
    wds = pytest.importorskip("webdataset")

    def make() -> WeightedStream:
        given = wds.WebLoader(Lines(), batch_size=None, num_workers=2).batched(6)
        return WeightedStream(given, Uniform(), id_fn="marker")

    assert check_resuming(make, after=[1, 4, 9]) >= 12


@pytest.mark.parametrize("strategy", [lambda: InfoBatch(prune=True), lambda: InfoBatch(), lambda: Shuffled(LinUpper())])
def test_strategies_that_look_at_epochs_and_steps(strategy: Callable[[], Strategy], tmp_path: Path) -> None:
    make = streams("map, shuffled", tmp_path, strategy, store=False)
    assert check_resuming(make, epochs=3, batch_size=8, shuffle=True) == 18


def test_the_end_of_an_epoch_is_an_empty_rest() -> None:
    stream, again = (WeightedStream(Rows(), Uniform()) for _ in range(2))
    loader = stream.loader(batch_size=11)
    for number, _ in enumerate(loader, 1):
        if number == 4:
            inside = stream.state_dict()
    after = stream.state_dict()
    assert after["position"]["over"]
    again.load_state_dict(inside)
    assert again.epoch == 0
    loader = again.loader(batch_size=11)
    assert list(loader) == []
    assert again.epoch == 0
    assert len(list(loader)) == 4
    assert again.epoch == 1
    again.load_state_dict(after)
    assert again.epoch == 1
    assert len(list(loader)) == 4
    assert again.epoch == 1


def test_a_state_before_anything() -> None:
    stream, again = (WeightedStream(Rows(), Uniform()) for _ in range(2))
    again.load_state_dict(saved(stream.state_dict()))
    assert len(list(again.loader(batch_size=11))) == 4
    assert again.epoch == 0


@pytest.mark.mosaicml
def test_back_to_an_earlier_step_in_the_same_process(tmp_path: Path) -> None:
    for name in ("map, shuffled", "parquet, shuffled", "mds", "webdataset", "hugging face iterable"):
        folder = tmp_path / name
        folder.mkdir()
        stream = streams(name, folder, lambda: LinUpper(window="running"))()
        steps = []
        for step, _ in train(stream, 2, batch_size=8, **SOURCES[name][2]):
            steps.append(step)
            if len(steps) == 3:
                state = stream.state_dict()
        stream.load_state_dict(state)
        assert [step for step, _ in train(stream, 2, batch_size=8, **SOURCES[name][2])] == steps[3:], name
        stream.close()


def mid_epoch(strategy: Strategy | None = None, **arguments: Any) -> dict[str, Any]:
    stream = WeightedStream(Rows(), strategy or LinUpper())
    for number, (batch, weight) in enumerate(stream.loader(**{"batch_size": 8, **arguments}), 1):
        weight.resolve(batch["marker"].float())
        if number == 2:
            return stream.state_dict()
    raise AssertionError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state | {"version": 99}, "version 99"),
        (lambda state: {k: v for k, v in state.items() if k != "step"}, "no 'step'"),
        (lambda state: state | {"more": 1}, "'more' besides"),
        (lambda state: [], "list"),
        (lambda state: state | {"dataset": state["dataset"] | {"size": 9}}, "size 44 instead of 9"),
        (lambda state: state | {"strategy": state["strategy"] | {"name": "Dro"}}, "of another strategy"),
        (lambda state: state | {"strategy": state["strategy"] | {"learned": {}}}, "LinUpper's state"),
        (lambda state: state | {"position": {"epoch": 1}}, "a position"),
    ],
)
def test_what_cannot_be_loaded(change: Callable[[Any], Any], message: str) -> None:
    stream = WeightedStream(Rows(), LinUpper())
    before = saved(stream.state_dict())
    with pytest.raises(StateError, match=message):
        stream.load_state_dict(change(mid_epoch()))
    assert str(saved(stream.state_dict())) == str(before)


@pytest.mark.parametrize(
    ("saved_with", "read_with"),
    [
        ({"shuffle": True, "seed": 1}, {"shuffle": True, "seed": 2}),
        ({"shuffle": True}, {}),
        ({}, {"batch_sampler": [[1, 2], [3, 4]], "batch_size": 1}),
    ],
)
def test_a_loader_in_another_order_is_refused(saved_with: dict[str, Any], read_with: dict[str, Any]) -> None:
    stream = WeightedStream(Rows(), LinUpper())
    stream.load_state_dict(mid_epoch(**saved_with))
    with pytest.raises(StateError, match="expected"):
        next(iter(stream.loader(**{"batch_size": 8, **read_with})))


def test_other_options_of_the_strategy_are_said() -> None:
    with pytest.warns(RuntimeWarning, match=r"saved with LinUpper\(r=0.4.*goes on with LinUpper\(r=1.0"):
        WeightedStream(Rows(), LinUpper(r=1.0)).load_state_dict(mid_epoch(LinUpper(r=0.4)))


def test_samples_read_but_not_weighed_come_again_in_another_layout() -> None:
    stream, again = (WeightedStream(Lines(), Uniform(), id_fn="marker") for _ in range(2))
    for number, (batch, weight) in enumerate(stream.loader(batch_size=8), 1):
        if number < 3:
            weight.resolve(batch["marker"].float())
        else:
            break
    again.load_state_dict(stream.state_dict())
    with pytest.warns(RuntimeWarning, match="8 samples of epoch 0 were read but not weighed"):
        rest = [marker for batch, _ in again.loader(batch_size=4) for marker in batch["marker"].tolist()]
    assert len(rest) == SIZE - 16


def test_set_epoch_before_the_rest_of_that_epoch() -> None:
    """As loops do that say the epoch each time."""
    make = [WeightedStream(Rows(), InfoBatch()) for _ in range(2)]
    steps = [step for step, _ in train(make[0], 2, batch_size=11, shuffle=True)]
    first = WeightedStream(Rows(), InfoBatch())
    for number, _ in enumerate(train(first, 2, batch_size=11, shuffle=True), 1):
        if number == 6:
            make[1].load_state_dict(first.state_dict())
            break
    make[1].set_epoch(1)
    assert [step for step, _ in train(make[1], 2, batch_size=11, shuffle=True)] == steps[6:]
    make[1].set_epoch(0)
    assert len(list(make[1].loader(batch_size=11))) == 4


def rest_of(make: Callable[[], Any], batches: int = 3, again: Callable[[], Any] | None = None, **options: Any) -> Any:
    """What comes before a state is taken, and after it in a fresh stream: markers."""
    arguments = {"batch_size": 5, **options}
    first, second = (WeightedStream(one(), Uniform(), id_fn="marker") for one in (make, again or make))
    seen: list[int] = []
    for number, (step, stream) in enumerate(train(first, 1, **arguments), 1):
        seen += step.markers
        if number == batches:
            second.load_state_dict(saved(stream.state_dict()))
            break
    return seen, (marker for step, _ in train(second, 1, **arguments) for marker in step.markers)


class Anyhow(Lines):
    """In an order that nobody can repeat."""

    def __iter__(self) -> Any:
        return ({"marker": int(row)} for row in np.random.default_rng().permutation(SIZE))


def test_an_order_that_does_not_come_again_is_said_and_loses_nothing() -> None:
    seen, rest = rest_of(Anyhow)
    with pytest.warns(RuntimeWarning, match="do not come again in the order"):
        assert sorted(seen + list(rest)) == list(range(SIZE))


def test_webdataset_shuffled_without_a_seed(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    urls = write_tars(tmp_path, range(SIZE))

    def data() -> Any:
        return wds.WebDataset(urls, shardshuffle=False).shuffle(20).decode().map(lambda s: {"marker": s["cls"]})

    seen, rest = rest_of(data)
    with pytest.warns(RuntimeWarning, match="do not come again in the order"):
        assert sorted(seen + list(rest)) == list(range(SIZE))


def test_shards_that_are_added_within_an_epoch(tmp_path: Path) -> None:
    make = shuffled_parquet(tmp_path)
    first = WeightedStream(make(), Uniform())
    steps = iter(train(first, 1, batch_size=5))
    seen = [marker for _ in range(3) for marker in next(steps)[0].markers]
    pq.write_table(pa.table({"marker": [100, 101]}), tmp_path / "new.parquet")
    second = WeightedStream(make(), Uniform())
    second.load_state_dict(saved(first.state_dict()))
    with pytest.warns(RuntimeWarning, match="the dataset has changed"):
        seen += [marker for step, _ in train(second, 1, batch_size=5) for marker in step.markers]
    assert sorted(seen) == [*range(SIZE), 100, 101]


def test_batches_of_the_pipelines_own_of_another_size() -> None:
    wds = pytest.importorskip("webdataset")
    streams_ = [
        WeightedStream(wds.DataPipeline(Lines(), wds.batched(size)), Uniform(), id_fn="marker") for size in (4, 7)
    ]
    seen = []
    for number, (batch, weight) in enumerate(streams_[0].loader(batch_size=None), 1):
        weight.resolve(torch.as_tensor(batch["marker"]).float())
        seen += batch["marker"].tolist()
        if number == 3:
            break
    streams_[1].load_state_dict(streams_[0].state_dict())
    with pytest.warns(RuntimeWarning, match="do not come again"):
        seen += [marker for batch, _ in streams_[1].loader(batch_size=None) for marker in batch["marker"].tolist()]
    assert sorted(seen) == list(range(SIZE))


@pytest.mark.parametrize("make", [lambda: np.random.default_rng().permutation(SIZE).tolist()])
def test_a_sampler_that_does_not_draw_the_same_again_is_refused(make: Callable[[], list[int]]) -> None:
    first, second = (WeightedStream(Rows(), Uniform()) for _ in range(2))
    steps = iter(train(first, 1, batch_size=5, sampler=make()))
    next(steps)
    second.load_state_dict(first.state_dict())
    for _ in range(2):  # and nothing is forgotten by that
        with pytest.raises(StateError, match="does not draw again"):
            next(iter(second.loader(batch_size=5, sampler=make())))
    with pytest.raises(StateError, match="seed=9"):
        next(iter(second.loader(batch_size=5, shuffle=True, seed=9)))
    second.set_epoch(1)
    assert len(list(second.loader(batch_size=5, sampler=make()))) == 9


@pytest.mark.parametrize("size", [3, 8, 11])
def test_a_batch_sampler_of_another_size(size: int) -> None:
    def batches(of: int) -> Any:
        return torch.utils.data.BatchSampler(torch.utils.data.SequentialSampler(range(SIZE)), of, False)

    first, second = (WeightedStream(Rows(), Uniform()) for _ in range(2))
    steps = iter(train(first, 1, batch_sampler=batches(4)))
    seen = [marker for _ in range(3) for marker in next(steps)[0].markers]
    second.load_state_dict(first.state_dict())
    seen += [marker for step, _ in train(second, 1, batch_sampler=batches(size)) for marker in step.markers]
    assert seen == list(range(SIZE))


def keep_some(samples: list[dict[str, int]]) -> dict[str, Any]:
    return torch.utils.data.default_collate([sample for sample in samples if sample["marker"] % 3])


@pytest.mark.parametrize("data", [Rows, Lines])
def test_a_collate_function_that_leaves_samples_out(data: Any) -> None:
    first, second = (WeightedStream(data(), Uniform(), id_fn="marker", as_dict=True) for _ in range(2))
    seen: list[int] = []
    for number, batch in enumerate(first.loader(batch_size=6, collate_fn=keep_some), 1):
        seen += batch["marker"].tolist()
        if number == 3:
            break
    second.load_state_dict(first.state_dict())
    for batch in second.loader(batch_size=6, collate_fn=keep_some):
        seen += batch["marker"].tolist()
    assert sorted(seen) == [marker for marker in range(SIZE) if marker % 3]


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_between_epochs_a_generator_of_ones_own_goes_on(wrapped: bool, told: bool) -> None:
    def made() -> Any:
        generator = torch.Generator().manual_seed(1)
        if wrapped:
            return WeightedStream(DataLoader(Rows(), batch_size=8, shuffle=True, generator=generator), Uniform()), {}
        return WeightedStream(Rows(), Uniform()), {"batch_size": 8, "shuffle": True, "generator": generator}

    first, options = made()
    steps = [step for step, _ in train(first, 1, **options)]
    state = saved(first.state_dict())
    steps = [step for step, _ in train(first, 3, **options)]
    second, options = made()
    second.load_state_dict(state)
    if told:
        second.set_epoch(1)
    assert [step for step, _ in train(second, 3, **options)] == steps
    assert len(steps) == 12


class Augmented(Rows):
    """Each sample has noise of torch's random state."""

    def __getitem__(self, index: int) -> Any:
        return {"marker": index, "noise": torch.rand(())}


class AugmentedLines(Lines):
    """The same, in order."""

    def __iter__(self) -> Any:
        return ({"marker": row, "noise": torch.rand(())} for row in range(SIZE))


@pytest.mark.parametrize("data", [Augmented, AugmentedLines])
@pytest.mark.parametrize("wrapped", [True, False])
def test_without_workers_random_transforms_go_on_with_the_trainers_random_state(data: Any, wrapped: bool) -> None:
    def made() -> WeightedStream:
        return WeightedStream(DataLoader(data(), batch_size=8) if wrapped else data(), Uniform(), id_fn="marker")

    def steps(stream: WeightedStream) -> Any:
        for batch, _ in stream.loader(batch_size=8):
            yield batch["noise"].tolist(), torch.rand(2).tolist()  # and the model's dropout

    torch.manual_seed(0)
    first, second = made(), made()
    whole = []
    for step in steps(first):
        whole.append(step)
        if len(whole) == 3:
            state, random = saved(first.state_dict()), torch.get_rng_state()
    second.load_state_dict(state)
    torch.set_rng_state(random)
    assert list(steps(second)) == whole[3:]


def test_a_state_that_the_store_refuses_changes_nothing(tmp_path: Path) -> None:
    first, second = (WeightedStream(Rows(), LinUpper(window="running"), store=tmp_path / name) for name in "ab")
    next(iter(train(first, 1, batch_size=8)))
    before = saved(second.strategy.state_dict())
    with pytest.raises(StoreError):
        second.load_state_dict(first.state_dict())
    assert str(second.strategy.state_dict()) == str(before)


def test_a_state_goes_through_pickle() -> None:
    """As between processes."""
    stream, again = (WeightedStream(Rows(), LinUpper(window="running")) for _ in range(2))
    next(iter(train(stream, 1, batch_size=8)))
    again.load_state_dict(pickle.loads(pickle.dumps(stream.state_dict())))
    assert_same_store(stream, again)


class Fails(Dataset[dict[str, int]]):
    """It cannot be read at times."""

    broken = False

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> dict[str, int]:
        if self.broken:
            raise OSError("not yet")
        return {"marker": index}


def test_an_epoch_that_has_given_nothing_comes_whole() -> None:
    data = Fails()
    stream = WeightedStream(data, Uniform())
    loader = stream.loader(batch_size=11)
    assert len(list(loader)) == 4
    data.broken = True
    with pytest.raises(OSError, match="not yet"):
        next(iter(loader))
    state = saved(stream.state_dict())
    assert (state["position"], state["next_epoch"]) == (None, 1)
    again = WeightedStream(Fails(), Uniform())
    again.load_state_dict(state)
    assert len(list(again.loader(batch_size=11))) == 4
    assert again.epoch == 1
