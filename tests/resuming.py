"""The one check of resuming: a run that stops after any step and goes on in a fresh stream equals the whole run."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

from weighted_stream import WeightedStream


class Step(NamedTuple):
    """What the trainer saw at one step."""

    epoch: int
    ids: list[int]
    markers: list[int]
    weights: list[float]


def markers_of(batch: Any) -> torch.Tensor:
    """The markers (B,) in a batch."""
    return torch.as_tensor(batch["marker"]).reshape(-1)


def train(stream: WeightedStream, epochs: int, **arguments: Any) -> Iterable[tuple[Step, WeightedStream]]:
    """The steps from where the stream is to the end of the epochs; losses are a function of step and sample."""
    loader = stream.loader(**arguments)
    while stream_epochs_left(stream, epochs):
        for batch, weight in loader:
            markers = markers_of(batch)
            losses = torch.rand(
                len(markers), generator=torch.Generator().manual_seed(int(markers.sum()) + stream.epoch)
            )
            weights = weight.resolve(losses + 0.1)
            yield Step(stream.epoch, weight.ids.tolist(), markers.tolist(), weights.tolist()), stream


def stream_epochs_left(stream: WeightedStream, epochs: int) -> bool:
    """Whether the next `for` belongs to the run."""
    return stream._next_epoch < epochs or (stream._unfinished is not None and not stream._unfinished.over)


def contents(stream: WeightedStream) -> dict[str, np.ndarray[Any, Any]]:
    """Everything in the store, by id; floats as their bits."""
    chunks = list(stream.store.chunks())
    ids = np.concatenate([ids for ids, _ in chunks]) if chunks else np.empty(0, np.int64)
    order = np.argsort(ids)
    fields = {name: np.concatenate([records[name] for _, records in chunks])[order] for name in chunks[0][1]}
    return {"ids": ids[order]} | {k: v.view(np.int32) if v.dtype == np.float32 else v for k, v in fields.items()}


def saved(state: Any) -> Any:
    """As it comes back from a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same_store(one: WeightedStream, other: WeightedStream) -> None:
    """Equal bit for bit, and equal figures over all records."""
    left, right = contents(one), contents(other)
    for name, values in left.items():
        np.testing.assert_array_equal(values, right[name], err_msg=name)
    assert one.stats() == other.stats()


def check_resuming(
    make: Callable[[], WeightedStream], after: Iterable[int] | None = None, epochs: int = 2, **arguments: Any
) -> int:
    """Stop after each of these steps (None: after every one) and go on in a fresh stream.

    Args:
        make: a fresh stream, with its dataset and store.
        after: numbers of steps.
        epochs: of the run.
        **arguments: of the loader.

    Returns:
        The number of steps of the whole run.
    """
    whole = make()
    steps, states = [], []
    for step, stream in train(whole, epochs, **arguments):
        steps.append(step)
        states.append((saved(stream.state_dict()), torch.get_rng_state()))
    for stop in range(1, len(steps) + 1) if after is None else after:
        again = make()
        state, random = states[stop - 1]
        again.load_state_dict(state)
        torch.set_rng_state(random)  # the trainer's to restore
        rest = [step for step, _ in train(again, epochs, **arguments)]
        assert rest == steps[stop:], f"after step {stop} of {len(steps)}"
        assert_same_store(whole, again)
        again.close()
    whole.close()
    return len(steps)
