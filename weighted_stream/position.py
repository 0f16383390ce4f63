"""How far into an epoch a stream is, and how its batches were made: what it takes to go on at the next one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from weighted_stream.drawn import Drawn
from weighted_stream.errors import StateError
from weighted_stream.sources.sharding import replica
from weighted_stream.state import check_keys


@dataclass(frozen=True)
class Layout:
    """What the order of the batches depends on, beside the dataset.

    Attributes:
        loader: class of the loader.
        batch_size: samples that the loader draws at a time; None if something else makes the batches.
        drop_last: whether a smaller last batch is left out.
        workers: how many the loader has.
        shuffle: whether the loader shuffles, from ``seed``.
        seed: see `WeightedStream.loader`; 0 if it does not shuffle.
        rank, ranks: which of how many processes this is.
        in_order: whether workers' batches are handed over as they were drawn.
    """

    loader: str
    batch_size: int | None
    drop_last: bool
    workers: int
    shuffle: bool
    seed: int
    rank: int
    ranks: int
    in_order: bool

    def differs(self, other: Layout) -> list[str]:
        """The names of what is different."""
        return [name for name, value in asdict(self).items() if value != getattr(other, name)]


digest_of: Callable[..., int] = crc32
"""Of an array of ids, going on from the digest of those before."""


@dataclass
class Position:
    """A place in an epoch.

    Attributes:
        epoch: from 0.
        layout: how its batches are made.
        first_step: the stream's step when the epoch began.
        random: states of generators that are not ours, when the epoch began; when it is over, when it ended.
        drawn: how many samples the loader took from sampler or dataset, give or take the last batch of an epoch.
        samples: how many it handed over: less, if its collate function leaves some out.
        batches: how many batches that was, since ``filtered``.
        digest: CRC-32 of the ids in these batches, or with ``sampler`` of the keys drawn for them: the same again?
        filtered: None; or the step at which an epoch went on in another order: everything weighed before it in this
            epoch is left out, and ``batches`` are counted from there.
        over: whether the epoch has ended.
        kept_workers: whether the workers were there before it began: then no seed was drawn for them.
        sampler: remembers what it draws; None: all that is drawn is handed over, with ids that tell what it was. Not
            part of the state.
    """

    epoch: int
    layout: Layout
    first_step: int
    random: list[Tensor] = field(default_factory=list)
    drawn: int = 0
    samples: int = 0
    batches: int = 0
    digest: int = 0
    filtered: int | None = None
    over: bool = False
    kept_workers: bool = False
    sampler: Drawn | None = field(default=None, repr=False, compare=False)

    def add(self, ids: NDArray[np.int64]) -> None:
        """A batch of these samples was handed over: runs for every batch."""
        self.batches += 1
        self.samples += len(ids)
        if self.sampler is None:
            self.digest = digest_of(ids, self.digest)
            self.drawn += self.layout.batch_size or len(ids)
        else:
            drawn, self.digest = self.sampler.hand_over(self.digest)
            self.drawn += drawn

    def filter(self, step: int) -> None:
        """From this step on, the epoch goes on in another order."""
        self.filtered, self.batches, self.digest = step, 0, 0

    def state_dict(self, places: Sequence[Sequence[int]] = ()) -> dict[str, Any] | None:
        """As plain values; None if the epoch has given nothing yet.

        Args:
            places: drawn, samples, batches, digest and over of every rank, this one among them, if there are several.
        """
        if not self.batches and self.filtered is None and not self.over and not any(place[2] for place in places):
            return None
        own = {name: getattr(self, name) for name in _SAVED} | {
            "layout": asdict(self.layout),
            "random": list(self.random),
        }
        return {**own, "places": [list(place) for place in places]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], rank: int, ranks: int) -> Position:
        """The inverse of `state_dict`, for one of several ranks.

        With as many ranks as there were it is the position of that rank, whichever saved the state; generators of the
        user's are those of the rank that did.

        Raises:
            StateError: for a state that is none.
        """
        check_keys("a position", state, [*_SAVED, "places"])
        check_keys("a loader's layout", state["layout"], Layout.__dataclass_fields__)
        state, places = dict(state), state["places"]
        del state["places"]
        position = cls(**{**state, "layout": Layout(**state["layout"])})
        if len(places) != ranks or position.layout.rank == rank:
            return position
        position.drawn, position.samples, position.batches, position.digest, over = places[rank]
        position.over = position.over and bool(over)
        position.layout = replace(position.layout, rank=rank)
        return position


_SAVED = tuple(name for name in Position.__dataclass_fields__ if name != "sampler")


def layout_of(kind: type, arguments: Mapping[str, Any], shuffle: bool, seed: int) -> Layout:
    """The layout of a loader of these arguments in this process."""
    whole = arguments.get("batch_sampler") is None
    rank, ranks = replica()
    workers = int(arguments.get("num_workers") or 0)
    return Layout(
        kind.__name__,
        arguments.get("batch_size", 1) if whole else None,
        bool(arguments.get("drop_last")),
        workers,
        shuffle,
        seed if shuffle else 0,
        rank,
        ranks,
        not workers or bool(arguments.get("in_order", True)),
    )


def refuse_other_order(found: Layout, expected: Layout, changed: list[str]) -> StateError:
    """The error for a loader whose batches cannot be those that are left."""
    return StateError(
        "This loader cannot finish the epoch that the state was taken in: its samples come in another order.",
        found=", ".join(f"{name}={getattr(found, name)!r}" for name in changed),
        expected=", ".join(f"{name}={getattr(expected, name)!r}" for name in changed),
        do="make the loader as it was; batch_size, drop_last, num_workers and the number of ranks may change",
    )


def drawn_differently(position: Position) -> StateError:
    """The error for a sampler that does not draw again what it drew."""
    return StateError(
        "The sampler does not draw again what it drew: the rest of the epoch would repeat samples, and lack others.",
        found=f"other samples among the first {position.drawn:,} of epoch {position.epoch}",
        expected="an order that is a function of the epoch, of a seed or of a torch generator; the same dataset",
        do="give the sampler a seed, or the dataset its own again (shuffle(seed=...)); or begin the next epoch: "
        f"stream.set_epoch({position.epoch + 1})",
    )


def ids_unknown() -> StateError:
    """The error for an epoch in another order, and samples whose ids only they themselves tell."""
    return StateError(
        "This epoch cannot be finished in another order: who a sample is shows only when it is read.",
        found="an id_fn around a dataset that is read by index, and another number of ranks, or in_order=False",
        expected="ids by index; or as many ranks as there were when the state was taken, and in_order=True there",
        do="begin the next epoch: stream.set_epoch(...), or go on with the same number of ranks",
    )
