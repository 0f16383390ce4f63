"""Small tensors leave a worker by value.

Torch puts each tensor into shared memory and hands over a file for it, with some talk through a socket: that takes as
long as hundreds of kilobytes take through the pipe that the rest of the batch goes through anyway. Nor does a batch by
value need room in ``/dev/shm``, open files, or a socket in the temporary folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data._utils.collate import collate_tensor_fn, default_collate_fn_map

BY_VALUE = 1 << 18
"""Bytes of a tensor up to which it is sent by value."""


def send_small_tensors_by_value() -> None:
    """From now on this process, a worker, sends small tensors by value, and its `default_collate` makes them for that.

    Tensors that are in shared memory already stay there.
    """
    ForkingPickler.register(Tensor, reduced)
    if default_collate_fn_map.get(Tensor) is collate_tensor_fn:  # not where the user has another
        default_collate_fn_map[Tensor] = stacked


def reduced(tensor: Tensor) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
    """How a tensor is pickled for another process: a small one with what it holds, another as torch has it."""
    if not _small(tensor, 1) or tensor.requires_grad or not tensor.is_contiguous() or _is_shared(tensor):
        sent: tuple[Callable[..., Tensor], tuple[Any, ...]] = reduce_tensor(tensor)  # type: ignore[no-untyped-call]
        return sent
    content = bytearray(tensor.view(-1).view(torch.uint8).numpy())
    return arrived, (content, tensor.dtype, tuple(tensor.shape))


def arrived(content: bytearray, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The tensor, in the memory that it came in.

    Example:
        >>> make, what = reduced(torch.tensor([[1, 2], [3, 4]]))
        >>> make(*what)
        tensor([[1, 2],
                [3, 4]])
    """
    if not content:
        return torch.empty(shape, dtype=dtype, device="cpu")
    return torch.frombuffer(content, dtype=dtype).view(shape)


def stacked(batch: Sequence[Tensor], *, collate_fn_map: Any = None) -> Tensor:
    """`default_collate` of tensors: torch's own makes the batch in shared memory, which a small one has no use for."""
    if _small(batch[0], len(batch)):
        small = torch.stack(list(batch), 0)
        if not small.requires_grad:
            return small
    large: Tensor = collate_tensor_fn(batch, collate_fn_map=collate_fn_map)  # or what torch refuses, in its words
    return large


def _is_shared(tensor: Tensor) -> bool:
    shared: bool = tensor.is_shared()  # type: ignore[no-untyped-call]
    return shared


def _small(tensor: Tensor, times: int) -> bool:
    """Whether so many of these are plain memory, little of it."""
    return (
        type(tensor) is Tensor
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not (tensor.is_nested or tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
        and tensor.nbytes * times <= BY_VALUE
    )
