"""The ranks that train one model together, as DistributedDataParallel knows them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Group: TypeAlias = Any
"""A process group of torch.distributed."""


def data_parallel_group(model: nn.Module) -> Group | None:
    """The process group of the DistributedDataParallel around a model, inside `torch.compile` or not; else None.

    Example:
        >>> data_parallel_group(nn.Linear(2, 2)) is None
        True
    """
    while "_orig_mod" in model._modules:
        inner = model._modules["_orig_mod"]
        assert inner is not None
        model = inner
    parallel = isinstance(model, nn.parallel.DistributedDataParallel)
    return model.process_group if parallel else None


def everywhere(group: Group | None, here: bool, device: torch.device) -> bool:
    """Whether it is so on all ranks. Without a group: whether it is so here.

    Example:
        >>> everywhere(None, True, torch.device("cpu"))
        True
    """
    if group is None:
        return here
    flag = torch.tensor(float(here), device=device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MIN, group=group)
    return bool(flag)


def average(group: Group | None, tensors: Iterable[Tensor]) -> None:
    """Each tensor becomes its mean over the ranks, in place; without a group nothing happens.

    Example:
        >>> average(None, [torch.ones(2)])
    """
    if group is None:
        return
    ranks = torch.distributed.get_world_size(group)
    for values in tensors:
        whole = values.contiguous()  # NCCL takes nothing else
        torch.distributed.all_reduce(whole, group=group)
        values.copy_(whole.div_(ranks))
