"""What every source offers: a dataset whose items are ``(id, sample)``, and a fingerprint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from torch.utils.data import Dataset, IterableDataset

from weighted_stream.errors import SourceError
from weighted_stream.sources.bad_shards import Policy
from weighted_stream.sources.parts import Part

Recurs: TypeAlias = Literal["never", "again", "drawn"]
"""How often a sample may come in an epoch: once; as often as the dataset repeats it; as often as it is drawn."""


@dataclass(frozen=True)
class Fingerprint:
    """What a store remembers of the dataset its ids belong to.

    Attributes:
        kind: the source, e.g. ``"torch-map"`` or ``"mds"``.
        name: what distinguishes datasets of one kind (class name, column names, …), as far as it is stable.
        size: number of samples of a dataset that cannot grow without new ids changing meaning; None if unknown.
        shards: size per shard (rows, or bytes where only those are known). A dataset may gain and lose shards, but
            those it shares with the store must have the same size.
    """

    kind: str
    name: str
    size: int | None = None
    shards: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Fingerprint:
        """The inverse of `to_json`."""
        return cls(value["kind"], value["name"], value["size"], dict(value["shards"]))

    def conflict(self, other: Fingerprint) -> str | None:
        """Why ``other`` cannot share a store with this one, or None if it can."""
        for what in ("kind", "name", "size"):
            if getattr(self, what) != getattr(other, what):
                return f"{what} {getattr(other, what)!r} instead of {getattr(self, what)!r}"
        for shard in self.shards.keys() & other.shards.keys():
            if self.shards[shard] != other.shards[shard]:
                return f"shard {shard!r} has size {other.shards[shard]} instead of {self.shards[shard]}"
        if self.shards and other.shards and not self.shards.keys() & other.shards.keys():
            return f"no shard in common (for one, {min(other.shards)!r})"
        return None

    def merged(self, other: Fingerprint) -> Fingerprint:
        """This fingerprint with the shards of ``other`` added."""
        return Fingerprint(self.kind, self.name, self.size, {**self.shards, **other.shards})


class Source(ABC):
    """Gives each sample of one dataset its id.

    An id is a non-negative int64, the same for the same sample over epochs, ranks, worker counts, restarts, shard
    order and added shards; each subclass says in its docstring how it gets that.

    Attributes:
        workers: how many the loader has, for the order of `parts`; 0 if nobody has said.
    """

    workers: int = 0

    @property
    @abstractmethod
    def dataset(self) -> Dataset[Any]:
        """What a `DataLoader` reads in place of the user's dataset. It must pickle (spawn) and fork.

        Map-style: ``dataset[i]`` is ``(id, sample)``, and ``dataset.__getitems__(indices)`` is
        ``(ids, [sample, ...])``, ids a list or an int64 array. Iterable: items are ``(id, sample)``, or
        ``([id, ...], batch)`` for a pipeline that makes its batches itself (a loader with ``batch_size=None``).
        """

    @abstractmethod
    def fingerprint(self) -> Fingerprint:
        """What tells this dataset from another one."""

    @property
    def iterable(self) -> bool:
        """Whether the dataset is read in order rather than by index."""
        return isinstance(self.dataset, IterableDataset)

    def batches(self, size: int, drop_last: bool) -> IterableDataset[Any] | None:
        """The dataset in the batches that a loader would make, ``(ids, samples)``, where that is quicker.

        Args:
            size: samples per batch.
            drop_last: leave a smaller last batch out.

        Returns:
            A dataset for a loader without batching, of as many items as there are batches; None: there is none.
        """
        return None

    def parts(self, shuffle_seed: int | None = None) -> Iterator[Part]:
        """The dataset in parts, as nearly as can be told in the order in which a trainer comes to need them.

        Called in a process of its own, after `set_epoch`. Reading a part takes nothing from the trainer's own reading.

        Args:
            shuffle_seed: of the loader's generator for this epoch, if the loader shuffles a map-style dataset.

        Raises:
            SourceError: if the dataset cannot be read apart from the trainer.
        """
        raise SourceError(
            f"Nobody can read this {type(self.dataset).__name__} ahead of the trainer.",
            found="an iterable dataset of unknown parts",
            expected="MosaicML shards, a WebDataset, Parquet files or a map-style dataset",
            do="score the files first (weighted-stream score) and use the stored scores: Similarity() without a target",
        )

    def corpus(self) -> Iterator[Part]:
        """All parts of the dataset, also those that other ranks read; in no particular order. Default: `parts`.

        Raises:
            SourceError: as `parts`.
        """
        return self.parts()

    def set_epoch(self, epoch: int) -> None:
        """Tell the dataset which epoch begins; workers must see it too. Default: nothing to tell."""

    def set_policy(self, policy: Policy) -> None:
        """What its readers do with a bad shard. Default: there are no shards that could be left out.

        Raises:
            SourceError: if they cannot do it.
        """
        if policy.skips:
            raise SourceError(
                f"Nobody can leave a bad shard of this {type(self.dataset).__name__} out.",
                found="on_bad_shard that skips, and a dataset that reads its files itself",
                expected="MosaicML shards, a WebDataset or a ParquetDataset",
                do='on_bad_shard="raise"; or pass over bad samples in the dataset',
            )

    def left_out(self) -> dict[str, str]:
        """Shards that the dataset is without since it was made, and why."""
        return {}

    def check(self) -> None:
        """Look, before an epoch begins, whether what it will read is there, as far as that is cheap. Default: nothing.

        Raises:
            SourceError: if it is not.
        """

    def least(self) -> int | None:
        """How many samples this rank is given in the epoch that has begun, at least; None if nobody knows."""
        return None

    def recurs(self) -> Recurs | None:
        """Whether a sample may come more than once in an epoch. Default: None, nobody knows."""
        return None

    def draws(self) -> int | None:
        """How many samples each reader gives in an epoch, where a number ends it; None, the default: the data does."""
        return None

    def rewind(self, epoch: int) -> None:
        """Begin at this epoch's order, though the dataset may have been past it. Default: `set_epoch`."""
        self.set_epoch(epoch)

    def set_shuffle(self, seed: int) -> None:
        """Shuffle from ``seed`` (and the epoch). Default: an iterable dataset that cannot.

        Raises:
            SourceError: if the dataset does its own shuffling or none.
        """
        raise SourceError(
            f"loader(shuffle=True) cannot reorder this {type(self.dataset).__name__}.",
            found="an iterable dataset",
            expected="a map-style dataset or our ParquetDataset",
            do="switch shuffling on in the dataset itself (StreamingDataset(shuffle=True), .shuffle(1000), …)",
        )
