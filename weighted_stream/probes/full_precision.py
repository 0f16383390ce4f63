"""float32 as it is written: for what is a difference of two nearly equal numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from weighted_stream.errors import StrategyError


@contextmanager
def full_float32() -> Iterator[None]:
    """Inside, products and convolutions of float32 are not rounded to TF32, as a GPU does with convolutions unasked.

    Example:
        >>> with full_float32():
        ...     torch.get_float32_matmul_precision()
        'highest'
    """
    backends: Any = torch.backends
    if hasattr(backends, "fp32_precision"):  # since torch 2.9, which refuses a mix of both ways
        mkldnn, cudnn = backends.mkldnn, backends.cudnn
        places = (backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn)
        before = [place.fp32_precision for place in places]
        try:
            for place in places:
                place.fp32_precision = "ieee"
            yield
        finally:
            for place, precision in zip(places, before, strict=True):
                place.fp32_precision = precision
        return
    products, convolutions = torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("highest")
        backends.cudnn.allow_tf32 = False
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        backends.cudnn.allow_tf32 = convolutions


@contextmanager
def refused_below_32_bits(model: nn.Module) -> Iterator[None]:
    """Inside, a layer of the model that gives numbers of less than 32 bits raises.

    Raises:
        StrategyError: naming it.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> with refused_below_32_bits(layer), torch.autocast("cpu", torch.bfloat16):
        ...     layer(torch.ones(1, 2))
        Traceback (most recent call last):
        weighted_stream.errors.StrategyError: A difference of two forwards drowns in the rounding of 16 bits.
        ...
    """

    def check(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and output.dtype.itemsize < 4:
            raise StrategyError(
                "A difference of two forwards drowns in the rounding of 16 bits.",
                found=f"a {type(module).__name__} that gives {output.dtype}: autocast in loss_fn, or in the model's "
                "own forward (accelerate puts it there)",
                expected="float32 or float64",
                do='derivatives="exact", or a loss_fn that does not enter autocast',
            )

    layers = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    hooks = [layer.register_forward_hook(check) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
