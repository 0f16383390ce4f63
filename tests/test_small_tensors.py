"""Small tensors come out of workers by value, as they were; large, shared and special ones as torch sends them."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils.collate import collate_tensor_fn, default_collate_fn_map

from weighted_stream import Uniform, WeightedStream, small_tensors
from weighted_stream.small_tensors import BY_VALUE, Sent, reduced, stacked

pytestmark = pytest.mark.timeout(120)

DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.float8_e4m3fn,
]


class Pickler(ForkingPickler):
    """As in a worker; it counts what goes in torch's way."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.dispatch_table[Tensor] = self.reduce
        self.torchs = 0

    def reduce(self, tensor: Tensor) -> Any:
        way = reduced(tensor)
        self.torchs += way[0].__module__.startswith("torch")
        return way


def pickled(value: Any) -> tuple[bytes, int]:
    """As a worker pickles it, and how many tensors went in torch's way."""
    file = io.BytesIO()
    pickler = Pickler(file)
    pickler.dump(value)
    return file.getvalue(), pickler.torchs


@given(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=4), st.integers(0, 2**31))
def test_a_small_tensor_arrives_as_it_was(dtype: torch.dtype, shape: list[int], seed: int) -> None:
    size = int(np.prod(shape)) * torch.empty((), dtype=dtype).element_size()
    values = 2 if dtype is torch.bool else 256
    content = torch.from_numpy(np.random.default_rng(seed).integers(0, values, size, np.uint8))
    sent = content.view(dtype).view(shape) if size else torch.empty(shape, dtype=dtype)
    text, torchs = pickled(Sent([sent, "beside it"]))
    received, beside = pickle.loads(text)
    assert (torchs, beside) == (0, "beside it")
    assert (received.dtype, received.shape, received.is_contiguous()) == (dtype, sent.shape, True)
    assert torch.equal(received.reshape(-1).view(torch.uint8), sent.reshape(-1).view(torch.uint8))
    received.zero_()  # its own memory


class Wrapped(Tensor):
    """A subclass."""


def emptied() -> Tensor:
    tensor = torch.zeros(3)
    tensor.untyped_storage().resize_(0)
    return tensor


SPECIAL: dict[str, Any] = {
    "large": lambda: torch.zeros(BY_VALUE + 1, dtype=torch.uint8),
    "shared": lambda: torch.zeros(3).share_memory_(),
    "with strides": lambda: torch.arange(6).view(2, 3).t(),
    "that wants a gradient": lambda: torch.zeros(3, requires_grad=True),
    "conjugated": lambda: torch.zeros(3, dtype=torch.complex64).conj(),
    "negated": lambda: torch.zeros(3, dtype=torch.complex64).conj().imag,
    "sparse": lambda: torch.eye(3).to_sparse(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
    "of a subclass": lambda: torch.zeros(3).as_subclass(Wrapped),
    "whose memory was given back": emptied,
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")  # newer torch: deprecated
@pytest.mark.parametrize("kind", SPECIAL)
def test_any_other_is_sent_as_torch_sends_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    way = object()
    monkeypatch.setattr(small_tensors, "reduce_tensor", lambda tensor: way)
    monkeypatch.setattr(small_tensors._here, "by_value", True)
    assert reduced(torch.zeros(BY_VALUE, dtype=torch.uint8)) is not way  # the largest by value
    assert reduced(SPECIAL[kind]()) is way


def test_what_torch_refuses_is_refused() -> None:
    with pytest.raises(RuntimeError, match="non-leaf"):
        pickled(Sent(torch.zeros(3, requires_grad=True) * 2))
    assert pickled(Sent([torch.zeros(3)]))[1] == 0  # the next one goes its way


def test_only_what_is_sent_goes_by_value() -> None:
    """Before it, after it, and beside it in the same message."""
    one = [torch.zeros(3) for _ in range(4)]
    assert pickled(one[0])[1] == 1
    assert pickled((Sent(one[1]), one[2]))[1] == 1
    assert pickled(one[3])[1] == 1


class Samples(Dataset[Any]):
    """Dicts of a small tensor, an array, a number and a text, and a tensor that makes a large batch."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> dict[str, Any]:
        large = torch.full((BY_VALUE // 8,), index, dtype=torch.uint8)
        small = {"tokens": torch.arange(index, index + 5), "array": np.full(3, index, np.float32)}
        return {**small, "number": index, "text": str(index), "large": large}


def twice(samples: list[Any]) -> dict[str, Any]:
    """A collate function of a language model's: labels are the tokens themselves."""
    tokens = torch.stack([sample["tokens"] for sample in samples])
    return {"input_ids": tokens, "labels": tokens, "none": torch.empty(0), "nested": [{"x": tokens[0].clone()}]}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_batches_out_of_workers_are_those_of_torch(method: str) -> None:
    options: dict[str, Any] = {"batch_size": 16, "num_workers": 2, "multiprocessing_context": method}
    ours = [batch for batch, _ in WeightedStream(Samples(), Uniform()).loader(**options)]
    for batch, bare in zip(ours, DataLoader(Samples(), **options), strict=True):
        assert batch.keys() == bare.keys()
        assert batch["text"] == bare["text"]
        for name in ("tokens", "array", "number", "large"):
            assert batch[name].dtype == bare[name].dtype
            assert torch.equal(batch[name], bare[name])
        shared = {name for name, value in batch.items() if isinstance(value, Tensor) and value.is_shared()}
        assert shared == {"large"}
        batch["tokens"] += 1  # as any batch, it can be written to


class Own(DataLoader[Any]):
    """A loader whose iterator is its own."""

    def __iter__(self) -> Any:
        yield from super().__iter__()


@pytest.mark.parametrize("kind", [DataLoader, Own])
def test_only_where_the_iterator_is_watched(kind: Any) -> None:
    """Elsewhere nobody would end the wait for what a dead worker has sent half."""
    for batch, _ in WeightedStream(kind(Samples(), batch_size=8, num_workers=1), Uniform()).loader():
        assert batch["number"].is_shared() == (kind is Own)


def test_a_tensor_that_is_there_twice_stays_one() -> None:
    for batch, _ in WeightedStream(Samples(), Uniform()).loader(batch_size=8, num_workers=1, collate_fn=twice):
        assert batch["input_ids"] is batch["labels"]
        assert not batch["input_ids"].is_shared()
        assert not batch["nested"][0]["x"].is_shared()
        assert batch["none"].shape == (0,)


class Within(Dataset[Tensor]):
    """A dataset that reads through a stream of its own."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        loader = WeightedStream([torch.full((2,), index)] * 4, Uniform()).loader(batch_size=4)
        return torch.stack([batch.sum() * weight.tensor().sum() for batch, weight in loader])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_within_a_worker_has_its_batches_as_they_are(workers: int) -> None:
    loader = WeightedStream(Within(), Uniform()).loader(batch_size=4, num_workers=workers)
    assert [batch.flatten().tolist() for batch, _ in loader] == [[0.0, 32.0, 64.0, 96.0]]


def test_the_trainers_process_stays_as_it_was() -> None:
    list(WeightedStream(Samples(), Uniform()).loader(batch_size=8, num_workers=1))
    assert ForkingPickler._extra_reducers[Tensor] is reduce_tensor
    assert default_collate_fn_map[Tensor] is collate_tensor_fn


def all_ones(batch: list[Tensor], *, collate_fn_map: Any = None) -> Tensor:
    return torch.ones(1)


def sets_its_own(worker: int) -> None:
    default_collate_fn_map[Tensor] = all_ones


def test_the_users_own_collating_of_tensors_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set in the trainer before workers fork, or by a worker_init_fn."""
    stream = WeightedStream(Samples(), Uniform())
    batch, _ = next(iter(stream.loader(batch_size=8, num_workers=1, worker_init_fn=sets_its_own)))
    assert batch["tokens"].tolist() == [1.0]
    monkeypatch.setitem(default_collate_fn_map, Tensor, all_ones)
    batch, _ = next(iter(stream.loader(batch_size=8, num_workers=1, multiprocessing_context="fork")))
    assert batch["tokens"].tolist() == [1.0]


def sends(tensor: Tensor) -> Any:
    return 1 / 0


def test_the_users_own_sending_of_tensors_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ForkingPickler, "_extra_reducers", {**ForkingPickler._extra_reducers, Tensor: sends})
    small_tensors.send_small_tensors_by_value()
    try:
        assert ForkingPickler._extra_reducers[Tensor] is sends
    finally:
        default_collate_fn_map[Tensor] = collate_tensor_fn


class Filled(Dataset[Tensor]):
    """Another process writes the samples into memory that it is told of."""

    def __init__(self, asks: Any, answers: Any) -> None:
        self.asks, self.answers = asks, answers

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        memory = torch.full((3,), -1.0)
        self.asks.put((index, memory))
        assert self.answers.get(timeout=60) == index
        return memory


def fill(asks: Any, answers: Any) -> None:
    for _ in range(4):
        index, memory = asks.get(timeout=60)
        memory.fill_(index)
        answers.put(index)


def test_memory_that_a_worker_shares_with_others_is_shared() -> None:
    context = multiprocessing.get_context("fork")
    asks, answers = torch.multiprocessing.get_context("fork").Queue(), context.Queue()
    process = context.Process(target=fill, args=(asks, answers), daemon=True)
    process.start()
    loader = WeightedStream(Filled(asks, answers), Uniform()).loader(batch_size=2, num_workers=1)
    assert [batch[:, 0].tolist() for batch, _ in loader] == [[0.0, 1.0], [2.0, 3.0]]
    process.join(20)


@pytest.mark.parametrize(
    "samples",
    [
        [torch.rand(8, 8, 3).permute(2, 0, 1) for _ in range(4)],
        [torch.rand(2, 8, 8, 3).permute(0, 3, 1, 2) for _ in range(4)],
        [torch.ones(3), torch.ones(3, dtype=torch.float64)] * 2,
        [torch.ones(3, dtype=torch.int32), torch.ones(3, dtype=torch.int64)] * 2,
        [np.ones(3, np.float32), np.ones(3)] * 2,
        [torch.ones(()), torch.ones(())] * 2,
        [torch.ones(0), torch.ones(0)] * 2,
    ],
)
def test_collated_tensors_are_laid_out_as_torch_lays_them_out(samples: list[Any]) -> None:
    """Whether they are small or not: so the last, smaller batch is like the others."""
    options: dict[str, Any] = {"batch_size": 4, "num_workers": 1}
    (ours,) = [batch for batch, _ in WeightedStream(samples, Uniform()).loader(**options)]
    (bare,) = DataLoader(samples, **options)
    assert (ours.dtype, ours.shape, ours.stride()) == (bare.dtype, bare.shape, bare.stride())
    assert torch.equal(ours, bare)


def test_tensors_that_do_not_stack_are_refused_as_by_torch() -> None:
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size"):
        stacked([torch.zeros(2), torch.zeros(3)])
    with pytest.raises(RuntimeError, match="sparse tensors are not currently supported"):
        stacked([torch.eye(2).to_sparse()] * 2)


def test_a_gradient_does_not_leave_a_worker() -> None:
    """Torch says so where the batch is made; it is no batch that is lost on its way."""
    loader = WeightedStream([torch.zeros(2, requires_grad=True)] * 4, Uniform()).loader(batch_size=2, num_workers=1)
    with pytest.raises(RuntimeError, match="don't support automatic differentiation"):
        next(iter(loader))


LONG_FOLDER = """
import torch
from weighted_stream import Uniform, WeightedStream
batches = WeightedStream([torch.ones(4)] * 8, Uniform()).loader(batch_size=4, num_workers=1, timeout=30)
print(sum(float(batch.sum()) for batch, _ in batches))
"""


def test_they_need_no_socket_in_the_temporary_folder(tmp_path: Path) -> None:
    """The path of one has 107 characters at most; beyond that torch's own way loses the batch, and waits for it."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LONG_FOLDER],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout == "32.0\n", done.stderr[-2000:]
