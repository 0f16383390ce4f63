"""Small tensors of a batch leave a worker by value.

Torch puts each tensor into shared memory and hands over a file for it, with some talk through a socket: that takes as
long as hundreds of kilobytes take through the pipe that the rest of the batch goes through anyway. Nor does a batch by
value need room in ``/dev/shm``, open files, or a socket in the temporary folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing.reduction import ForkingPickler
from threading import local
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data._utils.collate import collate_tensor_fn, default_collate_fn_map

BY_VALUE = 1 << 18
"""Bytes of a tensor up to which it is sent by value."""


def send_small_tensors_by_value() -> None:
    """From now on this process, a worker, sends what is `Sent` by value, and its `default_collate` makes it for that.

    A reducer or a collating of tensors of the user's own stays.
    """
    reducers: Any = ForkingPickler
    if reducers._extra_reducers.get(Tensor) is reduce_tensor:
        reducers.register(Tensor, reduced)
    if default_collate_fn_map.get(Tensor) is collate_tensor_fn:
        default_collate_fn_map[Tensor] = stacked


class Sent:
    """A batch on its way out of a worker: it arrives as itself.

    Tensors that a worker sends elsewhere go as torch has it: who gets them may write to the same memory.
    """

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __reduce__(self) -> tuple[Any, ...]:
        _here.by_value = True  # until END, which is pickled after the batch, in the same thread
        return _itself, (self._batch, END)


class _End:
    def __reduce__(self) -> str:
        _here.by_value = False
        return "END"


class _Here(local):
    by_value = False


_here, END = _Here(), _End()


def _itself(batch: Any, end: _End) -> Any:
    return batch


def reduced(tensor: Tensor) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
    """How a tensor is pickled for another process: a small one of a batch by value, any other as torch has it."""
    if not _here.by_value or not _small(tensor, 1) or not _plain(tensor):
        sent: tuple[Callable[..., Tensor], tuple[Any, ...]] = reduce_tensor(tensor)  # type: ignore[no-untyped-call]
        return sent
    content = bytearray(tensor.view(-1).view(torch.uint8).numpy())
    return arrived, (content, tensor.dtype, tuple(tensor.shape))


def arrived(content: bytearray, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The tensor, in the memory that it came in.

    Example:
        >>> arrived(bytearray([1, 0, 2, 0]), torch.int16, (2, 1))
        tensor([[1],
                [2]], dtype=torch.int16)
    """
    if not content:
        return torch.empty(shape, dtype=dtype, device="cpu")
    return torch.frombuffer(content, dtype=dtype).view(shape)


def stacked(batch: Sequence[Tensor], *, collate_fn_map: Any = None) -> Tensor:
    """`default_collate` of tensors: torch's own makes the batch in shared memory, which a small one has no use for."""
    first = batch[0]
    if not _small(first, len(batch)):
        large: Tensor = collate_tensor_fn(batch, collate_fn_map=collate_fn_map)
        return large
    # Into a tensor like torch's: of the first one's dtype, and contiguous.
    return torch.stack(list(batch), 0, out=first.new_empty((len(batch), *first.shape)))


def _small(tensor: Tensor, times: int) -> bool:
    """Whether so many of these are plain memory, little of it."""
    return (
        type(tensor) is Tensor
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not (tensor.is_nested or tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
        and tensor.nbytes * times <= BY_VALUE
    )


def _plain(tensor: Tensor) -> bool:
    """Whether a tensor is its bytes, in their order, and nobody shares them."""
    shared: bool = tensor.is_shared()  # type: ignore[no-untyped-call]
    there = tensor.nbytes <= tensor.untyped_storage().nbytes()
    return there and not shared and not tensor.requires_grad and tensor.is_contiguous()
