"""Pinned memory where there is no accelerator: torch's own loader, thread and walk over the batch, told there is one.

Only the last step is another: a tensor is copied to ordinary memory instead of page-locked one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils.data import dataloader


class _Told:
    """A module, some of whose names are others."""

    def __init__(self, module: Any, **names: Any) -> None:
        self._module = module
        vars(self).update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@contextmanager
def pinning() -> Iterator[list[torch.Tensor]]:
    """Loaders with ``pin_memory=True`` pin within it; what they pinned."""
    pinned: list[torch.Tensor] = []

    def pin(self: torch.Tensor, device: Any = None) -> torch.Tensor:
        pinned.append(self.clone())
        return pinned[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "pin_memory", pin)
        patch.setattr(torch.accelerator, "is_available", lambda *_: True)
        patch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: None)
        patch.setattr(torch.accelerator, "current_device_index", lambda: 0)
        patch.setattr(torch.accelerator, "set_device_index", lambda _: None)
        patch.setattr(torch.cuda, "current_device", lambda: 0)  # torchdata asks for it by this name
        if torch.__version__ < "2.7":  # there the loader asks CUDA itself; nobody else shall think it is here
            patch.setattr(dataloader, "torch", _Told(torch, cuda=_Told(torch.cuda, is_available=lambda: True)))
            patch.setattr(torch.cuda, "set_device", lambda _: None)
        yield pinned
