"""Epochs that have samples more than once, or no end, finished in another order: nothing spins, no repeat is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from resuming import check_resuming, saved, train
from shards import write_mds, write_tars
from torch.utils.data import BatchSampler, Dataset, IterableDataset, RandomSampler, WeightedRandomSampler

from weighted_stream import Uniform, WeightedStream

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:streaming"),
    # webdataset leaves closing its files to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*num_workers.*:UserWarning:webdataset"),
    pytest.mark.filterwarnings("ignore:Shards are listed more than once:RuntimeWarning"),
    pytest.mark.timeout(60),
]

SIZE = 44


def marked(sample: dict[str, Any]) -> dict[str, Any]:
    return {"marker": sample["cls"]}


def tars(folder: Path, **options: Any) -> Any:
    wds = pytest.importorskip("webdataset")
    if not list(folder.glob("*.tar")):
        write_tars(folder, range(SIZE))
    urls = sorted(map(str, folder.glob("*.tar")))
    return wds.WebDataset(options.pop("urls", urls), **{"shardshuffle": False, **options}).decode().map(marked)


def begun(make: Callable[[], WeightedStream], steps: int, **arguments: Any) -> tuple[list[int], WeightedStream]:
    """The markers of the first steps of an epoch, and a fresh stream that stands behind them."""
    first, second = make(), make()
    seen: list[int] = []
    for step, _ in islice(train(first, 1, **arguments), steps):
        seen += step.markers
    second.load_state_dict(saved(first.state_dict()))
    return seen, second


def rest(stream: WeightedStream, most: int | None = None, **arguments: Any) -> list[int]:
    return [marker for step, _ in islice(train(stream, 1, **arguments), most) for marker in step.markers]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("resampled", [False, True])
def test_a_webdataset_without_an_end(resampled: bool, workers: int, tmp_path: Path) -> None:
    def make() -> WeightedStream:
        data = tars(tmp_path, resampled=True) if resampled else tars(tmp_path).repeat()
        return WeightedStream(data, Uniform())

    seen, second = begun(make, 20, batch_size=5)
    assert resampled or set(seen) == set(range(SIZE))  # all of it was weighed
    with pytest.warns(RuntimeWarning, match="more than once in an epoch"):
        found = rest(second, 30, batch_size=7, num_workers=workers)
    assert len(found) > 150
    assert resampled or set(found) == set(range(SIZE))


class Endless(IterableDataset[dict[str, int]]):
    """A user's own."""

    def __iter__(self) -> Any:
        while True:
            yield from ({"marker": row} for row in range(SIZE))


def test_a_dataset_of_the_users_without_an_end() -> None:
    seen, second = begun(lambda: WeightedStream(Endless(), Uniform(), id_fn="marker"), 20, batch_size=5)
    assert set(seen) == set(range(SIZE))
    with pytest.warns(RuntimeWarning, match="more than once"):
        assert set(rest(second, 20, batch_size=7)) == set(range(SIZE))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("resampled", [False, True])
def test_with_epoch_says_how_much_is_left(resampled: bool, workers: int, tmp_path: Path) -> None:
    def make() -> WeightedStream:
        data = tars(tmp_path, resampled=resampled, empty_check=False).shuffle(10)  # without a seed
        return WeightedStream(data.with_epoch(60), Uniform())

    options = {"batch_size": 5, "num_workers": workers}
    seen, second = begun(make, 9, **options)
    with pytest.warns(RuntimeWarning, match="do not come again in the order"):
        found = rest(second, **options)
    assert 0 <= len(seen + found) - 60 * max(1, workers) < 5  # to within a batch
    assert not resampled or len(seen + found) == 60 * max(1, workers)


def test_with_epoch_and_another_size_of_batches(tmp_path: Path) -> None:
    seen, second = begun(lambda: WeightedStream(tars(tmp_path).with_epoch(60), Uniform()), 9, batch_size=5)
    with pytest.warns(RuntimeWarning, match="goes on in another order"):
        found = rest(second, batch_size=4)
    assert len(seen + found) == 61  # to within a batch
    seen, second = begun(lambda: WeightedStream(tars(tmp_path).with_epoch(60), Uniform()), 9, batch_size=5)
    with pytest.warns(RuntimeWarning, match="goes on in another order"):
        seen += rest(second, 1, batch_size=4)
    third = WeightedStream(tars(tmp_path).with_epoch(60), Uniform())
    third.load_state_dict(saved(second.state_dict()))
    with pytest.warns(RuntimeWarning, match="goes on in another order"):
        assert len(seen + rest(third, batch_size=4)) == 61


def test_with_epoch_of_a_pipelines_own_batches(tmp_path: Path) -> None:
    def make() -> WeightedStream:
        return WeightedStream(tars(tmp_path, resampled=True).batched(5).with_epoch(12), Uniform())

    seen, second = begun(make, 9, batch_size=None)
    with pytest.warns(RuntimeWarning, match="may come again"):
        assert len(rest(second, batch_size=None)) == 60 - len(seen)


def test_with_epoch_of_a_webloader(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")

    def make() -> WeightedStream:
        inner = tars(tmp_path, resampled=True).batched(3)
        return WeightedStream(wds.WebLoader(inner, batch_size=None).unbatched().batched(5).with_epoch(12), Uniform())

    seen, second = begun(make, 9)
    assert len(seen) == 45
    with pytest.warns(RuntimeWarning, match="may come again"):
        assert len(rest(second)) == 15


@pytest.mark.parametrize("workers", [0, 2])
def test_with_epoch_of_a_webloader_within_one_pass(workers: int, tmp_path: Path) -> None:
    """Nothing is drawn: what was weighed does not come again before the rest has come."""
    wds = pytest.importorskip("webdataset")

    def make() -> WeightedStream:
        inner = tars(tmp_path).batched(3)
        loader = wds.WebLoader(inner, batch_size=None, num_workers=workers).unbatched().shuffle(9).batched(5)
        return WeightedStream(loader.with_epoch(SIZE // 5), Uniform())

    seen, second = begun(make, 3)
    with pytest.warns(RuntimeWarning, match="do not come again in the order"):
        found = rest(second)
    assert len(seen + found) == SIZE // 5 * 5
    assert len(set(seen + found)) == len(seen + found)


def test_with_epoch_of_a_webloader_over_several_passes(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")

    def make() -> WeightedStream:
        loader = wds.WebLoader(tars(tmp_path).batched(4), batch_size=None).unbatched().shuffle(9).batched(4)
        return WeightedStream(loader.with_epoch(SIZE // 2), Uniform())

    seen, second = begun(make, SIZE // 4)  # the first pass is over, all of it
    with pytest.warns(RuntimeWarning, match="do not come again in the order"):
        found = rest(second)
    assert len(seen + found) == SIZE // 2 * 4
    assert len(set(found)) == SIZE


def own_ids(batch: Any) -> Any:
    return [int(number) for number in batch["marker"]]


def pairs(samples: Any) -> Any:
    """A batching stage of the user's."""
    while len(two := list(islice(samples, 2))) == 2:
        yield {"marker": [sample["marker"] for sample in two]}


def test_batches_of_a_stage_of_the_users_end_no_epoch(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")

    def make(workers: int) -> WeightedStream:
        loader = wds.WebLoader(tars(tmp_path).compose(pairs), batch_size=None, num_workers=workers)
        return WeightedStream(loader.with_epoch(SIZE // 2), Uniform(), id_fn=own_ids)

    first, second = make(0), make(2)
    seen = [marker for step, _ in islice(train(first, 1), SIZE // 4) for marker in step.markers]
    second.load_state_dict(saved(first.state_dict()))
    with pytest.warns(RuntimeWarning, match="goes on in another order"):
        found = rest(second)
    assert set(seen + found) == set(range(SIZE))


def twice(folder: Path) -> Any:
    tars(folder)
    return tars(folder, urls=sorted(map(str, folder.glob("*.tar"))) * 2)


@pytest.mark.parametrize("data", [lambda folder: tars(folder).repeat(2), twice], ids=["repeat", "listed twice"])
def test_a_webdataset_keeps_its_repeats(data: Callable[[Path], Any], tmp_path: Path) -> None:
    seen, second = begun(lambda: WeightedStream(data(tmp_path), Uniform()), 5, batch_size=5)
    with pytest.warns(RuntimeWarning, match="more than once in an epoch"):
        seen += rest(second, batch_size=7)
    assert Counter(seen) == Counter([*range(SIZE), *range(SIZE)])


@pytest.mark.mosaicml
def test_an_up_sampled_stream_keeps_its_repeats(tmp_path: Path) -> None:
    streaming = pytest.importorskip("streaming")
    root = write_mds(tmp_path / "c4", range(20))

    def make() -> WeightedStream:
        streams = [streaming.Stream(local=str(root), repeat=3)]
        return WeightedStream(streaming.StreamingDataset(streams=streams, batch_size=4, shuffle=True), Uniform())

    seen, second = begun(make, 5, batch_size=4)
    with pytest.warns(RuntimeWarning, match="more than once in an epoch"):
        found = rest(second, batch_size=5)
    assert len(found) == 60 - len(set(seen))


class Rows(Dataset[dict[str, int]]):
    """Map-style."""

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> dict[str, int]:
        return {"marker": index}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


SAMPLERS: dict[str, Callable[[], dict[str, Any]]] = {
    "weighted": lambda: {"sampler": WeightedRandomSampler([1.0] * SIZE, 60, generator=seeded()), "batch_size": 5},
    "with replacement": lambda: {"sampler": RandomSampler(Rows(), True, 60, seeded()), "batch_size": 5},
    "longer than the data": lambda: {"sampler": RandomSampler(Rows(), False, 60, seeded()), "batch_size": 5},
    "of batches": lambda: {
        "batch_sampler": BatchSampler(WeightedRandomSampler([1.0] * SIZE, 60, generator=seeded()), 5, False)
    },
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_that_draws_again_on_another_number_of_ranks(name: str) -> None:
    first, second, third = (WeightedStream(Rows(), Uniform()) for _ in range(3))
    whole = [step.markers for step, _ in train(WeightedStream(Rows(), Uniform()), 1, **SAMPLERS[name]())]
    for number, (step, _) in enumerate(train(first, 1, **SAMPLERS[name]())):
        assert step.markers == whole[number]
        if number == 3:
            break
    state = saved(first.state_dict())
    state["position"]["layout"]["ranks"] = 2  # as if another rank had drawn beside it
    second.load_state_dict(state)
    with pytest.warns(RuntimeWarning, match="may come again"):
        found = [step.markers for step, _ in islice(train(second, 1, **SAMPLERS[name]()), 3)]
    assert found == whole[4:7]
    third.load_state_dict(saved(second.state_dict()))
    assert [step.markers for step, _ in train(third, 1, **SAMPLERS[name]())] == whole[7:]


@pytest.mark.parametrize("end", [lambda data: data.repeat(2), lambda data: data.with_epoch(70)])
def test_deterministic_shuffling_of_several_passes(end: Callable[[Any], Any], tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")

    def make() -> WeightedStream:
        data = tars(tmp_path, detshuffle=True, seed=4).compose(wds.detshuffle(20, seed=3))
        return WeightedStream(end(data), Uniform())

    assert check_resuming(make, after=[3, 9, 10, 13], batch_size=8) >= 18
