"""Running a model on the side: its mode, its gradients and all random states are afterwards as they were."""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weighted_stream.errors import StrategyError

Forward = Callable[[nn.Module, Any], Any]
"""Runs a model on one of its batches; what it returns is not looked at."""

_on_the_side = ContextVar("_on_the_side", default=False)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `torch.compile`, DistributedDataParallel and DataParallel.

    Raises:
        StrategyError: if this is no model.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> unwrapped(torch.compile(nn.DataParallel(model))) is model
        True
    """
    if not isinstance(model, nn.Module):
        raise StrategyError(
            "Hidden states come from a model.",
            found=type(model).__name__,
            expected="the torch.nn.Module in training",
            do="pass the model itself",
        )
    while True:
        inner = model._modules.get("_orig_mod")
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if inner is None:
            return model
        model = inner


def run(model: nn.Module, batch: Any) -> Any:
    """The model on a batch as it takes it: a mapping as keywords, a tuple or list by position, else as it is.

    Example:
        >>> run(nn.Bilinear(2, 2, 1), (torch.zeros(3, 2), torch.zeros(3, 2))).shape
        torch.Size([3, 1])
    """
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, (tuple, list)) else model(batch)


def on_device(batch: Any, model: nn.Module) -> Any:
    """The batch with its tensors, also those in mappings, tuples and lists, where the model's first parameter is."""
    device = next((p.device for p in model.parameters() if p.device.type != "meta"), None)
    return batch if device is None else _moved(batch, device)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        # To a GPU only: what comes from there would be read before it has arrived.
        return value.to(device, non_blocking=device.type == "cuda")
    if isinstance(value, Mapping):
        parts = {key: _moved(part, device) for key, part in value.items()}
        if type(value) is dict or not isinstance(value, MutableMapping):
            return parts
        same = copy(value)  # a BatchEncoding is read by attributes
        same.update(parts)
        return same
    if isinstance(value, (tuple, list)):
        moved = [_moved(part, device) for part in value]
        return type(value)(*moved) if hasattr(value, "_fields") else tuple(moved) if isinstance(value, tuple) else moved
    return value


@contextmanager
def aside(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside; all as before outside.

    Restored: the training flag of every submodule by itself (some may be frozen in evaluation mode; a ``train`` of its
    own is called: layers that merge adapters for evaluation take them apart there), and the random states of torch
    on the host and on the model's GPUs, of numpy and of Python (a loader draws seeds from them). What watches training
    forwards knows by `is_aside` that these are none.

    Example:
        >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
        >>> with aside(model):
        ...     print(model.training, torch.is_grad_enabled())
        False False
        >>> [part.training for part in model]
        [True, False]
    """
    flags = [(module, module.training) for module in model.modules()]
    gpus = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    python, legacy = random.getstate(), np.random.get_state()
    token = _on_the_side.set(True)
    try:
        with torch.random.fork_rng(sorted(gpus)), torch.no_grad():
            model.eval()
            yield
    finally:
        torch.clear_autocast_cache()  # see `forwards_only`
        _on_the_side.reset(token)
        for module, training in flags:
            if type(module).train is not nn.Module.train:
                module.train(training)
        for module, training in flags:
            module.training = training
        random.setstate(python)
        np.random.set_state(legacy)


@contextmanager
def forwards_only() -> Iterator[None]:
    """Forwards in the midst of training that it must not notice: no gradients, and torch's random states as they were.

    Nor casts: autocast keeps those of parameters until its outermost block ends, and made without a graph here, they
    would be used in the training forward, too, and leave the parameters without gradients.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     with forwards_only():
        ...         _ = layer(torch.ones(1, 2))
        ...     layer(torch.ones(1, 2)).sum().backward()
        >>> layer.weight.grad
        tensor([[1., 1.],
                [1., 1.]])
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices):
            yield
    finally:
        torch.clear_autocast_cache()


def is_aside() -> bool:
    """Whether this is inside `aside`, of any model.

    Example:
        >>> with aside(nn.Linear(2, 2)):
        ...     is_aside()
        True
    """
    return _on_the_side.get()


def eager() -> AbstractContextManager[Any]:
    """Inside, what was compiled (`Module.compile`, compiled parts) runs as written, so that hooks see it."""
    # Not asked of torch.compiler where nothing was compiled: that would take seconds to load the compiler.
    if "torch._dynamo.eval_frame" not in sys.modules:
        return nullcontext()
    if sys.version_info < (3, 12):
        # Each use in torch 2.7 gives back three references to None that it never took, and with the last one Python
        # ends. From 3.12 on None is not counted; one too many harms nobody.
        for _ in range(3):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(None))
    stance: Any = torch.compiler.set_stance
    as_written: AbstractContextManager[Any] = stance("force_eager")
    return as_written
