"""The target set as the model sees it: the mean vector of its samples, with the model's present parameters."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weighted_stream.errors import StrategyError
from weighted_stream.probes.hidden_states import HiddenStateProbe
from weighted_stream.probes.running import Forward, aside, on_device, run

SEED = 0


def target_batches(target: Any) -> Iterable[Any]:
    """A target that can be gone through again and again; what a one-shot iterator gives is kept in a list.

    Raises:
        StrategyError: if it is no iterable of batches, or empty.
    """
    found = ""
    if isinstance(target, (Tensor, Mapping, str)):
        found = f"a {type(target).__name__}, which is one batch or none"
    elif not hasattr(target, "__iter__") and not hasattr(target, "__getitem__"):
        found = f"a {type(target).__name__}"
    if isinstance(target, Iterator):
        target = list(target)
    if isinstance(target, Sized) and not found and len(target) == 0:
        found = "nothing in it"
    if found:
        raise _no_target(found)
    batches: Iterable[Any] = target
    return batches


class KeptTarget:
    """The batches of a target, read once, when first needed, and kept in memory.

    They are read under a fixed seed: a loader that shuffles gives whoever goes on from a state the same order.

    Args:
        target: batches as the model takes them, or a `KeptTarget`, whose batches are shared.
        model: whose random states reading leaves alone.

    Raises:
        StrategyError: if it is no iterable of batches, or empty.

    Example:
        >>> len(KeptTarget(iter([torch.zeros(2), torch.ones(2)]), nn.Linear(2, 2)).batches)
        2
    """

    def __init__(self, target: Any, model: nn.Module) -> None:
        self._model = model
        self._target: Any = target if isinstance(target, KeptTarget) else target_batches(target)
        self._kept: list[Any] | None = None

    @property
    def batches(self) -> list[Any]:
        """All of them, in order."""
        if isinstance(self._target, KeptTarget):
            return self._target.batches
        if self._kept is None:
            with aside(self._model):  # a loader draws random numbers
                torch.default_generator.manual_seed(SEED)
                random.seed(SEED)
                np.random.seed(SEED)
                self._kept = list(self._target)
            target_batches(self._kept)
        return self._kept


def centroid(probe: HiddenStateProbe, target: Iterable[Any], forward: Forward | None = None) -> Tensor:
    """``c = mean_v phi(v)`` over the samples of the target, not renormalised; arXiv 2605.05227.

    One pass, in evaluation mode, without gradients, under the autocast of the latest training forward; modes and
    random states are afterwards as they were (`aside`).

    Args:
        probe: of the model.
        target: batches as the model takes them; tensors are moved to the model's device.
        forward: runs the model on such a batch; None: `run`.

    Returns:
        (H,) float32.

    Raises:
        StrategyError: if there is no batch, the hidden states cannot be seen, or they are not finite.
    """
    forward = forward or run
    total, count = torch.zeros(()), 0
    with as_in_training(probe):
        for batch in target:
            vectors = _vectors(probe, forward, batch)
            total, count = vectors.sum(0) + total.to(vectors.device), count + len(vectors)
    if not count:
        raise _no_target("no batch in this pass")
    _check_finite(probe, total)
    return total / count


def target_vectors(probe: HiddenStateProbe, target: Iterable[Any], forward: Forward | None, count: int) -> Tensor:
    """The vectors of the first ``count`` samples of the target, with the present parameters; run as in `centroid`.

    Returns:
        (count, H) float32; fewer if the target has not got so many.

    Raises:
        StrategyError: if there is no batch, the hidden states cannot be seen, or they are not finite.
    """
    parts: list[Tensor] = []
    with as_in_training(probe):
        for batch in target:
            parts.append(_vectors(probe, forward or run, batch))
            if sum(map(len, parts)) >= count:
                break
    if not parts:
        raise _no_target("no batch in this pass")
    vectors = torch.cat(parts)[:count]
    _check_finite(probe, vectors)
    return vectors


@contextmanager
def as_in_training(probe: HiddenStateProbe) -> Iterator[None]:
    """`aside`, under the autocast of the latest training forward that the probe has seen."""
    autocast: Any = nullcontext()
    if probe.autocast is not None:
        device, dtype, enabled = probe.autocast
        # Without its cache: what is cast without gradients must not be found by the next training forward.
        autocast = torch.autocast(device, dtype, enabled, cache_enabled=False)
    with aside(probe.model), autocast:
        yield


def _vectors(probe: HiddenStateProbe, forward: Forward, batch: Any) -> Tensor:
    try:
        return probe.read(lambda: forward(probe.model, on_device(batch, probe.model)))
    except StrategyError:
        raise
    except Exception as error:  # the model's own, whatever it is
        error.add_note(
            f"{type(probe.model).__name__} ran on a batch of the target. A dict goes in as keywords, a tuple or list "
            "by position, anything else as it is: leave out what the model does not take, or pass forward=."
        )
        raise


def _check_finite(probe: HiddenStateProbe, vectors: Tensor) -> None:
    if not vectors.isfinite().all():
        raise StrategyError(
            f"{type(probe.model).__name__} gives hidden states of the target that are not finite.",
            found="NaN or infinity",
            expected="finite hidden states",
            do="look at the target's batches (empty sequences?), and whether training has diverged",
        )


def _no_target(found: str) -> StrategyError:
    return StrategyError(
        "This is no target.",
        found=found,
        expected="an iterable of batches as the model takes them: a list of them, or a DataLoader",
        do="for a single batch, [batch]; for samples, DataLoader(samples, batch_size=…)",
    )
