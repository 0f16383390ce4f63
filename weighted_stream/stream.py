"""WeightedStream: a dataset or DataLoader in, (sample, weight) out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from os import PathLike
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, get_worker_info
from torch.utils.data._utils.collate import default_collate, default_convert

from weighted_stream import stream_state
from weighted_stream.batch import Batch, as_ids
from weighted_stream.chooser import Chooser
from weighted_stream.collate import TagCollate, with_sample_id
from weighted_stream.errors import SourceError, StoreError, StrategyError, UnboundError
from weighted_stream.feedback import Feedback
from weighted_stream.groups import as_group_fn, groups_of
from weighted_stream.handed_over import HandedOver
from weighted_stream.loader import Arrivals, WeightedLoader, draws_for
from weighted_stream.memory import Memory
from weighted_stream.order import set_order
from weighted_stream.position import Position, layout_of
from weighted_stream.ranks.feedback import RankedFeedback
from weighted_stream.ranks.group import ranks_of
from weighted_stream.ranks.opening import open_on_ranks
from weighted_stream.reading import Reading
from weighted_stream.rebuild import merged_arguments
from weighted_stream.rest import Counted
from weighted_stream.scoring.ahead import ScoringAhead
from weighted_stream.scoring.base import ScoringPlan
from weighted_stream.sources import source_for
from weighted_stream.sources.bad_shards import BadShards, OnBadShard, Policy
from weighted_stream.sources.base import Fingerprint
from weighted_stream.sources.webloader import follow_webloader, torch_loader_of
from weighted_stream.store import WeightStore
from weighted_stream.strategies.base import Strategy
from weighted_stream.strategies.options import check_integer
from weighted_stream.strategies.selecting import not_chosen
from weighted_stream.watching import Watch
from weighted_stream.weight import Weight


class WeightedStream:
    """Wraps a dataset or DataLoader so that each batch comes with the weight of its samples.

    The model and the loss stay as they are, but for one product::

        stream = WeightedStream(dataset, LinUpper(), store="run/weights")
        for batch, weight in stream.loader(batch_size=32, shuffle=True, num_workers=4):
            losses = per_sample_loss(model(batch), batch)    # (32,), unreduced
            (losses * weight).mean().backward()              # the product is the feedback

    Args:
        data: a torch map-style or iterable dataset, a list or array, a MosaicML ``StreamingDataset``, a WebDataset
            pipeline, our `ParquetDataset`, a Hugging Face ``Dataset`` or ``IterableDataset``, or a ``DataLoader`` over
            any of them (of any class; it is built again with its own arguments).
        strategy: turns signals into weights.
        store: where losses and weights are remembered: a directory, an open `WeightStore`, or None for a temporary
            place that is gone when the stream is.
        id_fn: who a sample is, where the dataset does not say: the name of a column, or a function sample -> int or
            str, e.g. `content_id`. By default each source has its own way (index; shard and row).
        group_fn: of which group a sample is (its domain, language, source …): the name of a column, or a function
            sample -> str or int, called where samples are read; of a batch that a pipeline made itself it returns one
            per sample. The store knows a sample's group once it was handed over, by a number: ``store.groups`` has the
            names, strategies see both. Not with ``as_dict`` and a DataLoader of your own. None: groups are those that
            the store has (`WeightStore.set_groups`), if any.
        as_dict: put the ids into dict samples and batches under ``"sample_id"`` (int64), and yield those alone, for
            frameworks that take dicts; `weight` makes the `Weight` of such a batch.
        on_bad_shard: of a shard (MosaicML shard, tar file, Parquet file) that is missing, cut or damaged: ``"raise"``
            an error that names it; ``"skip"`` what cannot be read of it, name it in a warning, count it in `stats`, and
            deliver all the rest; or how many are skipped at most, before an error names them all. It is the stream's,
            not a loader's: what an epoch consists of must not change with the loader that finishes it.
        process_group: the ranks whose feedback belongs together, see "Ranks". None: all of `torch.distributed`, if it
            is initialised when the stream is made. A process group: those (the data-parallel ones, where others share
            their samples). False: this process alone.

    Ranks: made on each of several ranks, after ``init_process_group``, a stream is one stream over all of them. Losses
    go to every rank, a weight is relative to the global batch (but for strategies that look at the model, which weigh
    within their rank), and every rank's store has everything: ranks of one machine that give the same directory share
    it. Each rank weighs as many batches as the others until its loader ends; a rank whose loader ends early listens
    until the others' end. Making a stream, a ``for`` over it and `load_state_dict` wait for all ranks.

    Raises:
        SourceError: for something that cannot be wrapped, or is empty.
        SampleIdError: if the samples have no id and ``id_fn`` is missing.
        StrategyError: if ``strategy`` is none.
        StoreError, StoreMismatchError: for a store that cannot be written, or belongs to another dataset.
        RanksError: if another rank cannot make the stream.

    Example:
        >>> from weighted_stream import LinUpper, WeightedStream
        >>> stream = WeightedStream([1.0, 2.0, 3.0, 5.0], LinUpper(r=0.4))
        >>> for losses, weight in stream.loader(batch_size=4):
        ...     print(weight.resolve(losses))
        tensor([0.1386, 0.4838, 1.6888, 1.6888])
        >>> stream.store.get([3])["last_loss"]
        array([5.], dtype=float32)
    """

    def __init__(
        self,
        data: Any,
        strategy: Strategy,
        *,
        store: WeightStore | str | PathLike[str] | None = None,
        id_fn: str | Callable[[Any], int | str] | None = None,
        group_fn: str | Callable[[Any], int | str] | None = None,
        as_dict: bool = False,
        on_bad_shard: OnBadShard = "raise",
        process_group: Any = None,
    ) -> None:
        if not isinstance(strategy, Strategy):
            raise StrategyError(
                "WeightedStream needs a strategy.",
                found=repr(strategy),
                expected="a Strategy object such as LinUpper()",
                do="WeightedStream(data, LinUpper()), or make_strategy('linupper') for a name",
            )
        if isinstance(_innermost(data), (WeightedStream, WeightedLoader)):
            raise SourceError(
                "This is a WeightedStream already.",
                found=type(data).__name__,
                expected="a dataset or DataLoader without ids",
                do="wrap the dataset itself",
            )
        loader = data if isinstance(data, DataLoader) else torch_loader_of(data)
        self._wrapped_loader = loader
        self._webloader = None if loader is None or loader is data else data
        self._source = source_for(data if loader is None else loader.dataset, id_fn)
        self._bad = BadShards(Policy(on_bad_shard), self._source.left_out())
        self._source.set_policy(self._bad.policy)
        self._as_dict, self._own_ids = as_dict, id_fn is not None
        self._group_fn = as_group_fn(group_fn)
        plan = strategy.scoring
        ranks = ranks_of(process_group)
        self._feedback: Feedback | None
        if ranks is None:
            self._store = _opened(store, self._source.fingerprint())
            self._ahead = None if plan is None else self._scored_ahead(plan, self._store, store)
            alone = process_group is False
            self._feedback = Feedback(strategy, self._store, self._ahead, may_be_alone=alone)
        else:
            shared = open_on_ranks(ranks, store, self._source.fingerprint())
            self._store = shared.inner
            self._ahead = None if plan is None else self._scored_ahead(plan, shared, store)
            self._feedback = RankedFeedback(strategy, shared, ranks, self._ahead)
        self._token = self._feedback.token
        self._chooser = None if strategy.budget is None else Chooser(self._feedback)
        self._selects = None if strategy.budget is None else repr(strategy)
        self._handed_over = HandedOver() if as_dict and strategy.keeps_samples else None
        self._epoch = self._next_epoch = 0
        self._position: Position | None = None  # of the latest `for`
        self._had = 0  # samples of its epoch that were handed over before it
        self._handed: int | None = None  # the epoch that was handed over last, to its end
        self._idle = 0  # epochs in a row of which no weight was used
        self._unfinished: Position | None = None  # what the next `for` finishes
        # A DataLoader asks by class whether to read by index or in order.
        self.__class__ = (
            _LoaderStream if loader is not None else _IterableStream if self._source.iterable else _MapStream
        )

    @property
    def strategy(self) -> Strategy:
        """What makes the weights."""
        return self._live().strategy

    @property
    def store(self) -> WeightStore:
        """What is remembered per sample. Under several ranks, of the batches that all of them have weighed."""
        self._live().settle()
        return self._store

    @property
    def epoch(self) -> int:
        """The epoch that the latest ``for`` over a loader is in, from 0; after loading a state, that of the next."""
        return self._epoch

    def loader(self, *, seed: int = 0, **arguments: Any) -> WeightedLoader:
        """A loader of ``(batch, weight)`` pairs.

        Evaluate on a DataLoader of the dataset itself: every product with a weight is feedback, and every ``for`` over
        a loader of the stream is an epoch of it.

        Args:
            seed: of the order with ``shuffle=True``, which is a function of seed and epoch, and of the workers' random
                state; a wrapped DataLoader, or a ``generator`` of yours, keeps its own.
            **arguments: those of `torch.utils.data.DataLoader`. If a DataLoader was wrapped, its own are the default.
                A ``collate_fn`` must keep the order and the number of the samples (with ``as_dict`` it need not: the
                ids go through it, inside the samples). ``timeout``: seconds without a batch after which a `WorkerError`
                shows where each worker is stuck; without workers it is a warning, as nobody can end a call that hangs.
                0, the default: a warning after five minutes, again after ten …, and the loader waits.
                With workers, tensors of up to 256 kilobytes come by value, not in shared memory: faster, and without
                open files; a tensor that is in shared memory stays there.

        Raises:
            SourceError: for an unknown argument, or shuffling of a dataset that cannot be reordered from outside.
        """
        check_integer("loader", "seed", seed, least=0)
        arguments = merged_arguments(self._wrapped_loader, arguments)
        shuffle = bool(arguments.get("shuffle"))
        order = set_order(self._source, arguments, seed, ours=self._wrapped_loader is None)
        batched = arguments.get("batch_size", 1) is not None or arguments.get("batch_sampler") is not None
        collate_fn = arguments.get("collate_fn") or (default_collate if batched else default_convert)
        draws = None if self._chooser is None else draws_for(self._chooser, self.strategy, arguments, self._webloader)
        check_ids = self._source.iterable and self._own_ids
        kind = DataLoader if self._wrapped_loader is None else type(self._wrapped_loader)
        watched = self._webloader is None and _iterates_like(kind, "torch", "torchdata")
        watched = watched and bool(arguments.get("num_workers"))
        tags = TagCollate(collate_fn, self._as_dict, check_ids, self._group_fn, not batched, watched)
        arguments["collate_fn"] = tags
        layout = layout_of(kind, arguments, shuffle, seed)
        # A class of the user's may end its epochs as it likes; a WebLoader's stages may, too.
        counts = self._webloader is None and _iterates_like(kind, "torch", "torchdata", "streaming")
        watch = Watch(arguments, self._bad)
        reading = Reading(self._source, kind, arguments, order, layout, self._around, counts, self._as_dict, watch)
        begin_epoch = partial(self._begin_epoch, reading, layout.workers)
        return WeightedLoader(
            reading.loader,
            self._live(),
            begin_epoch,
            partial(self._end_epoch, reading),
            self,
            as_dict=self._as_dict,
            batching=reading.batching,
            draws=draws,
            handed_over=self._handed_over,
        )

    def _scored_ahead(self, plan: ScoringPlan, store: Any, given: object) -> ScoringAhead:
        """The scorer; a store that was opened here is closed if it is refused."""
        try:
            return ScoringAhead(self._source, plan, store)
        except BaseException:
            if not isinstance(given, WeightStore):
                self._store.close()
            raise

    def _around(self, loader: Any) -> Any:
        """The user's WebLoader around a loader, if there is one."""
        if self._webloader is None:
            return loader
        return follow_webloader(self._webloader, loader if self._group_fn is None else Arrivals(loader, self._live()))

    def _begin_epoch(self, reading: Reading, workers: int) -> tuple[Position, Iterable[Any]]:
        """The next epoch, or the rest of one that a state was taken in."""
        loaded = self._unfinished
        goes_on = loaded is not None and not loaded.over
        epoch = loaded.epoch if loaded is not None and goes_on else self._next_epoch
        self._source.workers = workers
        self._bad.begin_epoch()
        self._source.check()
        feedback = self._live()
        self._idle = self._idle + 1 if self._handed is not None and not feedback.used else 0
        if self._idle > 1:  # not at once: somebody may read ahead, or keep the batches
            self._say_if_unused()
        feedback.begin_epoch(epoch)
        step = feedback.step
        if loaded is not None and goes_on:
            self._source.rewind(epoch)
            position = replace(loaded)  # kept until this one has begun
            order_seed, items = reading.resume(position, step, self.store)
        else:
            self._source.set_epoch(epoch)
            self.strategy.begin_epoch(epoch, self.store.chunks)
            random = [] if loaded is None else loaded.random
            order_seed, position, items = reading.begin(epoch, step, random)
        if self._ahead is not None:
            self._ahead.begin(epoch, order_seed)
        self._unfinished, self._epoch, self._next_epoch = None, epoch, epoch + 1
        self._position, self._had, self._handed, feedback.used = position, position.samples, None, False
        feedback.go_through(position)
        return position, items

    def _end_epoch(self, reading: Reading, position: Position) -> None:
        feedback = self._live()
        try:
            reading.end(position, feedback.step, self.store)
        finally:
            feedback.end_epoch()
        self._handed = self._epoch_of_now()

    def _epoch_of_now(self) -> int | None:
        """The epoch of the latest `for`, if that has handed over anything to be weighed."""
        position = self._position
        new = position is not None and self._chooser is None and position.samples > self._had
        return position.epoch if position is not None and new else None

    def _say_if_unused(self, whole: bool = False) -> None:
        """An epoch was handed over (``whole``: or what a trainer wants of it), and nobody has asked for a weight."""
        epoch = self._epoch_of_now() if whole else self._handed
        if epoch is not None:
            self._live().warn_of_no_use(epoch)
        self._handed = None

    def weight(self, ids: Tensor | Sequence[int]) -> Weight:
        """The `Weight` of samples known by their ids, e.g. of a dict batch: ``stream.weight(batch["sample_id"])``.

        Each call is a batch of its own: keep the Weight if the batch may be run again, and ask for the whole batch
        where the strategy weighs it as a whole.

        Args:
            ids: (B,) int64.

        Raises:
            SampleIdError: for ids that are none.
            StrategyError: if the strategy selects, and these are not of one of the 64 batches it chose last.
        """
        known = as_ids(ids)
        if self._chooser is None:
            samples = None if self._handed_over is None else self._handed_over.find(known)
            return Weight(Batch(known, samples=samples), self._live())
        batch, positions = self._chooser.find(known)
        return Weight(batch, self._live(), positions)

    def set_epoch(self, epoch: int) -> None:
        """Tell the dataset its epoch, for DataLoaders of your own (trainers call it); `loader` counts by itself.

        Args:
            epoch: from 0; the next ``for`` over a `loader` is this epoch.
        """
        check_integer("set_epoch", "epoch", epoch, least=0)
        loaded = self._unfinished
        if loaded is not None and not loaded.over and epoch == loaded.epoch:
            return  # the next `for` finishes it
        if loaded is not None and (not loaded.over or epoch != loaded.epoch + 1):
            self._unfinished = None  # not its next epoch, which goes on with its generators
        self._epoch = self._next_epoch = epoch
        self._position = self._unfinished
        self._source.set_epoch(epoch)
        self._live().set_epoch(epoch)
        self.strategy.begin_epoch(self.epoch, self.store.chunks)
        if self._ahead is not None:
            self._ahead.set_epoch(epoch)

    def stats(self) -> dict[str, float]:
        """Figures of the store and the stream: those of `WeightStore.stats`, ``step`` and ``epoch``.

        `StepLog` has more of them, of the samples just weighed, and sends them to a file or a logger.

        Where bad shards are skipped also ``bad_shards`` and ``samples_lacking``: how many were met so far, and how many
        samples were not delivered, as far as that is known (nobody knows it of a tar file).

        With a selecting strategy the weights are those of all candidates: 0 for those passed over.

        While samples are scored ahead also those of `ScoringAhead.stats`: ``scored_ahead``, ``scorer_rate``
        (samples/s), ``scorer_parts``, ``scorer_bad_parts``, ``unscored_batches``.
        """
        return self._figures(self.store)

    def _figures(self, store: Memory) -> dict[str, float]:
        figures = {**store.stats(), "step": float(self._live().step), "epoch": float(self.epoch)}
        figures |= self._bad.figures()
        return figures if self._ahead is None else figures | self._ahead.stats()

    def state_dict(self) -> dict[str, Any]:
        """Everything a run needs to go on: position, store, what the strategy has learned. To be saved anywhere.

        It may be taken after any batch; then `load_state_dict`, in this process or another one, makes everything from
        there on equal to what came here, bit for bit: samples, ids, weights, store. (Model, optimizer and torch's
        random state are the trainer's to save.) Numbers, strings, None, tensors, lists and dicts: ``torch.save`` it,
        and ``torch.load`` it with ``weights_only=True``.

        The store writes down what it has first. Of a store on disk the state holds a place in its journal; of one
        without a journal, or without a path, everything in it.

        Example:
            >>> from weighted_stream import Uniform, WeightedStream
            >>> stream = WeightedStream([1.0, 2.0, 3.0, 5.0], Uniform())
            >>> for losses, weight in stream.loader(batch_size=2):
            ...     weight = weight.resolve(losses)
            ...     break
            >>> again = WeightedStream([1.0, 2.0, 3.0, 5.0], Uniform())
            >>> again.load_state_dict(stream.state_dict())
            >>> [batch for batch, _ in again.loader(batch_size=2)]
            [tensor([3., 5.], dtype=torch.float64)]
        """
        if get_worker_info() is not None:
            return {}  # a worker only reads; a StatefulDataLoader asks there, too
        return stream_state.take(self._live(), self._source.fingerprint(), self._next_epoch, self._position)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` gave; the next ``for`` over a `loader` finishes its epoch.

        Strategy and loaders must be made as they were; ``num_workers``, ``batch_size`` and ``drop_last`` may differ:
        then what is left of the epoch are the same samples, in batches of their own; where samples come more than once
        in an epoch, a warning says what is left. Samples that were read before are read again and dropped, but for
        map-style datasets, which start where they are.

        With a DataLoader of your own (``DataLoader(stream)``) the position is yours to restore. The position is that of
        the latest ``for`` over a loader; if that was left early (``break``), the next ``for`` finishes its epoch, too.
        Where samples do not come again in the order that they came in (an iterable dataset has changed, or shuffles
        without a seed), a warning says so, and the rest of the epoch is what was not weighed; a sampler is refused.

        Args:
            state: as it was given, or as ``torch.load`` gives it back.

        Raises:
            StateError: for a state of another version, dataset or strategy.
            StoreError: if the store cannot go back to there.
        """
        if get_worker_info() is not None:
            return
        scored = self._store.stats()["scored"] if self._ahead is not None else 0.0
        position = stream_state.load(self._live(), self._source.fingerprint(), state)
        if self._ahead is not None:
            # What one rank has scored and not told the others is in no store.
            gone = isinstance(self._feedback, RankedFeedback) or self._store.stats()["scored"] < scored
            self._ahead.begin_anew(gone)
        self._position = self._unfinished = position
        self._had, self._handed, self._idle = 0 if position is None else position.samples, None, 0
        self._next_epoch = int(state["next_epoch"])
        self._epoch = self._next_epoch if position is None or position.over else position.epoch

    def close(self) -> None:
        """Stop scoring ahead and close the store, with all feedback in it. Also at the end of a ``with`` block."""
        if self._ahead is not None:
            self._ahead.close()
        try:
            self._live().close()
        finally:
            self._store.close()
        self._say_if_unused()

    def __enter__(self) -> WeightedStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if cls.__module__ != __name__:
            raise TypeError(f"{cls.__name__} cannot subclass WeightedStream: wrap the dataset, or write a Strategy")

    def __deepcopy__(self, memo: dict[int, Any]) -> WeightedStream:
        return self  # a handle: a copy would have neither strategy nor store

    def __getstate__(self) -> dict[str, Any]:
        # For a worker: it reads samples and knows whose they are; strategy and store stay in the main process.
        lives_here = ("_feedback", "_store", "_ahead", "_chooser", "_handed_over", "_position", "_unfinished")
        return {**self.__dict__, **dict.fromkeys((*lives_here, "_wrapped_loader", "_webloader"))}

    def __repr__(self) -> str:
        return f"WeightedStream({self._source.fingerprint().name}, {self.strategy!r})"

    def _live(self) -> Feedback:
        if self._feedback is None:
            raise UnboundError(
                "This is a worker's copy of a WeightedStream.",
                found="a copy that only reads samples",
                expected="the stream of the main process",
                do="ask for store, stats and loaders in the process that made the stream",
            )
        return self._feedback

    def _pair(self, item: tuple[Any, Any]) -> Any:
        """``(sample, weight)`` of ``(id, sample)``, for DataLoaders that the user makes."""
        if self._selects is not None:
            raise not_chosen(self._selects)
        ids, sample = item
        if self._as_dict:
            if self._group_fn is not None:
                raise _groups_get_lost()
            return with_sample_id(sample, ids)
        batch = Batch(np.array([ids] if isinstance(ids, int) else ids, np.int64))
        if self._group_fn is not None:
            batch.groups = groups_of(self._group_fn, ids, sample, not isinstance(ids, int)).names
        return sample, Weight(batch, self._token if self._feedback is None else self._feedback)


class _MapStream(WeightedStream, Dataset[Any]):
    """A stream that is read by index."""

    def __len__(self) -> int:
        return len(self._source.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: Any) -> Any:
        return self._pair(self._source.dataset[index])

    def __getitems__(self, indices: list[Any]) -> list[Any]:
        ids, samples = self._source.dataset.__getitems__(indices)  # type: ignore[attr-defined]
        return [self._pair((int(number), sample)) for number, sample in zip(ids, samples, strict=True)]


class _IterableStream(WeightedStream, IterableDataset[Any]):
    """A stream that is read in order."""

    def __iter__(self) -> Iterator[Any]:
        return Counted(map(self._pair, self._source.dataset))  # type: ignore[call-overload]

    def __len__(self) -> int:
        return len(self._source.dataset)  # type: ignore[arg-type]


class _LoaderStream(WeightedStream):
    """A stream around a DataLoader: a ``for`` over it is a ``for`` over `loader()`."""

    @cached_property
    def _default(self) -> WeightedLoader:
        return self.loader()  # one, as it may keep its workers

    def __iter__(self) -> Iterator[Any]:
        return iter(self._default)

    def __len__(self) -> int:
        return len(self._default)

    def __getitem__(self, index: Any) -> Any:
        raise SourceError(
            "A stream around a DataLoader is no dataset.",
            found="an index, probably from another DataLoader around it",
            expected="a for loop over the stream, or over stream.loader(...)",
            do="wrap the dataset instead to use DataLoader(stream)",
        )


def _opened(store: WeightStore | str | PathLike[str] | None, fingerprint: Fingerprint) -> WeightStore:
    if not isinstance(store, WeightStore):
        return WeightStore(store, fingerprint=fingerprint)
    store.bind(fingerprint)
    if not store.writable:
        raise StoreError(
            "The losses of this stream have nowhere to go.",
            found="a store opened for reading only",
            expected='a store opened with mode="a"',
            do="WeightStore(path), or give the path itself",
        )
    return store


def _groups_get_lost() -> SourceError:
    return SourceError(
        "Groups do not travel in the dicts that a DataLoader of your own makes.",
        found="group_fn with as_dict=True, and a DataLoader around the stream",
        expected="stream.loader(...), which tells the store, or groups that the store has already",
        do="let stream.loader(...) make the loader; or store.set_groups(ids, names) before, and leave group_fn out",
    )


def _iterates_like(kind: type, *packages: str) -> bool:
    """Whether the loaders of a class make their iterators as those of these packages do."""
    owner = next(one for one in kind.__mro__ if "__iter__" in vars(one))
    return owner.__module__.partition(".")[0] in packages


def _innermost(data: Any) -> Any:
    """What is under loaders and `Subset`."""
    while isinstance(data, (DataLoader, Subset)):
        data = data.dataset
    return data
