"""WeightedLoader: a DataLoader whose batches come with their weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import ceil
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from weighted_stream.batch import Batch
from weighted_stream.chooser import Chooser, in_proportion
from weighted_stream.collate import ids_of
from weighted_stream.drawn import Drawn
from weighted_stream.errors import StrategyError
from weighted_stream.feedback import Feedback
from weighted_stream.handed_over import HandedOver, shallow
from weighted_stream.lengths import length_of
from weighted_stream.position import Position
from weighted_stream.strategies.base import Strategy
from weighted_stream.strategies.options import check_integer
from weighted_stream.weight import Weight


class Draws(NamedTuple):
    """How a loader chooses.

    Attributes:
        chooser: asks the strategy.
        size: how many samples a whole batch is cut to: the user's ``batch_size``.
        candidates: how many the loader inside draws for it.
    """

    chooser: Chooser
    size: int
    candidates: int


def draws_for(chooser: Chooser, strategy: Strategy, arguments: dict[str, Any], webloader: Any = None) -> Draws:
    """Let a loader draw more than a batch, for a selecting strategy to choose from.

    Args:
        chooser: asks the strategy.
        strategy: selects.
        arguments: of a `DataLoader`; its ``batch_size`` becomes the number of candidates.
        webloader: the WebLoader around it, if there is one.

    Raises:
        StrategyError: for a loader that does not make its batches by ``batch_size``.
    """
    size, budget = arguments.get("batch_size", 1), strategy.budget
    own = "batch_sampler" if arguments.get("batch_sampler") is not None else "webdataset.WebLoader"
    if size is None or budget is None or arguments.get("batch_sampler") is not None or webloader is not None:
        raise StrategyError(
            f"{strategy!r} chooses among more samples than a batch holds; this loader cannot draw them.",
            found="batch_size=None" if size is None else own,
            expected="a loader that makes its batches by batch_size",
            do="stream.loader(batch_size=...), with sampler or shuffle; wrap the dataset, not a loader around it",
        )
    size = check_integer("loader", "batch_size", size, least=1)
    candidates = ceil(size / budget - 1e-9)  # 0.1 is a little more than a tenth
    arguments["batch_size"] = candidates
    return Draws(chooser, size, candidates)


class Arrivals:
    """A loader whose samples' groups go to the store at once, and with nobody else: stages after it would lose them.

    Args:
        loader: yields ``(ids, batch, groups)``.
        feedback: has the store.
    """

    def __init__(self, loader: Any, feedback: Feedback) -> None:
        self._loader, self._feedback = loader, feedback

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for ids, batch, groups in self._loader:
            self._feedback.learn_groups(groups)
            yield ids, batch


class Late:
    """Counts a batch when the next one is handed over.

    Example:
        >>> counted = []
        >>> late = Late(counted.append)
        >>> late([3])
        >>> late([5])
        >>> counted
        [[3]]
        >>> late.end()
        >>> counted
        [[3], [5]]
    """

    def __init__(self, add: Callable[[NDArray[np.int64]], None]) -> None:
        self._add = add
        self._held: NDArray[np.int64] | None = None

    def __call__(self, ids: NDArray[np.int64]) -> None:
        """A batch of these samples is handed over."""
        self.end()
        self._held = ids

    def end(self) -> None:
        """No more batches come."""
        if self._held is not None:
            self._add(self._held)
            self._held = None


class Saved(Protocol):
    """What has a state."""

    def state_dict(self) -> dict[str, Any]:
        """All it takes to go on."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""


class WeightedLoader:
    """Yields ``(batch, weight)``; made by `WeightedStream.loader`. One ``for`` over it is one epoch of the stream.

    Attributes of the loader inside (``dataset``, ``sampler``, ``batch_size``, ``state_dict`` …) are reached through it.

    Args:
        loader: yields ``(ids, batch)``, and with them the samples' groups, if they are asked for.
        feedback: what the weights are bound to.
        begin_epoch: called when a ``for`` begins: a position, which this keeps up to date, and the batches with ids.
        end_epoch: called when a ``for`` has come to the end of it.
        saved: whose state it is: the stream.
        as_dict: yield dict batches with the ids inside instead.
        batching: ``batch_size`` and ``drop_last``, where the dataset inside does the loader's batching.
        draws: how to choose among what the loader draws; None: all of it is handed over.
        handed_over: remembers the batches for a strategy that looks at them, where no `Weight` goes with them.
    """

    def __init__(
        self,
        loader: Any,
        feedback: Feedback,
        begin_epoch: Callable[[], tuple[Position, Iterable[Any]]],
        end_epoch: Callable[[Position], None],
        saved: Saved,
        as_dict: bool = False,
        batching: Mapping[str, Any] | None = None,
        draws: Draws | None = None,
        handed_over: HandedOver | None = None,
    ) -> None:
        self._loader, self._feedback, self._as_dict = loader, feedback, as_dict
        self._begin_epoch, self._end_epoch = begin_epoch, end_epoch
        self._saved = saved
        self._batching = batching or {}
        self._draws, self._handed_over = draws, handed_over

    def __iter__(self) -> Iterator[Any]:
        """``(batch, weight)`` pairs, or dict batches with ``sample_id``."""
        position, items = self._begin_epoch()
        feedback, draws, as_dict = self._feedback, self._draws, self._as_dict
        add = Late(position.add) if feedback.reads_ahead and length_of(self) is None else position.add
        ahead, keeps_samples = feedback.ahead, feedback.strategy.keeps_samples
        try:
            for item in items:
                ids, batch = ids_of(item), item[1]
                if len(item) == 3:
                    feedback.learn_groups(item[2])
                if ahead is not None:
                    ahead.check()
                samples, batch = (Batch(ids), batch) if draws is None else self._chosen(draws, ids, batch)
                if keeps_samples:
                    samples.samples = shallow(batch)
                    if self._handed_over is not None:
                        self._handed_over.add(samples.ids, samples.samples)
                add(ids)
                yield batch if as_dict else (batch, Weight(samples, feedback))
        except GeneratorExit:
            feedback.settle()  # the loop was left: nobody may come again
            raise
        if isinstance(add, Late):
            add.end()
        self._end_epoch(position)

    def _chosen(self, draws: Draws, ids: NDArray[np.int64], batch: Any) -> tuple[Batch, Any]:
        chooser, size, candidates = draws
        return chooser.choose(ids, batch, in_proportion(len(ids), size, candidates))

    def state_dict(self) -> dict[str, Any]:
        """The stream's: see `WeightedStream.state_dict`."""
        return self._saved.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The stream's: see `WeightedStream.load_state_dict`."""
        self._saved.load_state_dict(state)

    def __len__(self) -> int:
        """Number of batches, where the loader knows it."""
        # Not asked of the loader: it would take the number of batches for one of samples, and warn of more.
        return len(self._loader.dataset if self._batching else self._loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_loader" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if name == "batch_size" and self._draws is not None:
            return self._draws.size
        value = self._batching[name] if name in self._batching else getattr(self._loader, name)
        return value.bare() if isinstance(value, Drawn) else value
