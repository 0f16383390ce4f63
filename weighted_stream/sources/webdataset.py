"""WebDataset: a sample is identified by its shard and its key."""

from __future__ import annotations

import os
from collections.abc import Iterator
from copy import copy
from multiprocessing.reduction import ForkingPickler
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from weighted_stream.errors import SourceError
from weighted_stream.sources.bad_shards import Policy, warn_of_repeats
from weighted_stream.sources.base import Fingerprint, Recurs, Source
from weighted_stream.sources.keys import IdFn, by
from weighted_stream.sources.parts import Part
from weighted_stream.sources.shard_names import depth_needed, is_local, location, shard_name
from weighted_stream.sources.tagging import TaggedStages, refuse_one_location
from weighted_stream.sources.tracking import stage_name
from weighted_stream.sources.webdataset_checks import check_tars, goes_on
from weighted_stream.sources.webdataset_epochs import of_webdataset, recurs, samples_of_epoch
from weighted_stream.sources.webdataset_parts import node, only_reading, webdataset_parts
from weighted_stream.sources.webdataset_pickles import is_mix, is_pipeline
from weighted_stream.sources.webdataset_prepared import prepared

_COUNT_EPOCHS = {"webdataset.filters.detshuffle", "webdataset.shardlists.ResampledShards"}


class WebDatasetSource(Source):
    """A WebDataset pipeline: a sample's id is made of its shard's url and its ``__key__``.

    The url counts without credentials, query and the command of a ``pipe:``; of a local path, the file name
    counts, and as many directories as are needed to tell the listed shards apart. So ids stay for every
    worker count, rank, epoch and order, when local shards move, and when shards are added. They change when
    shards are renamed or repacked, and when a dataset moves from local files to a server. A shard that needs
    another number of directories renames them all; a store made before is then refused, because no shard in
    it has its name any more.

    Ids are taken where the pipeline first yields dicts with ``__key__`` and ``__url__``, behind the reading
    of tar files, and carried through all later stages, whatever they make of a sample. Batches of ``batched``
    come with the list of their ids. Stages of the user's own (``compose``) are watched: they may pass samples
    on, make one of each, and drop or reorder those that keep ``__key__`` and ``__url__``. The user's pipeline
    is not changed.

    Args:
        data: a ``webdataset.WebDataset`` or ``DataPipeline``, a ``RandomMix`` or ``RoundRobin`` of them.
        id_fn: sample -> int or str, used instead. It sees samples as they come to the first ``batched``, or
            out
            of the pipeline; if these are batches, it returns a list.

    Attributes:
        workers: how many the loader has, for the order of `parts`, if anyone knows; 0 otherwise.

    Raises:
        SourceError: if shards cannot be told apart, for a pipeline without stages, a class with its own
            iteration, or a ``WebLoader``; while iterating, for a stage that loses track of samples.
        SampleIdError: while iterating, if a sample has no key, or two samples of a shard have the same one.

    Example:
        >>> WebDatasetSource.matches(["not a pipeline"])
        False
    """

    def __init__(self, data: Any, id_fn: IdFn | None = None) -> None:
        data = prepared(data)
        self._listed = list(_urls(data))
        self._urls = list(dict.fromkeys(self._listed))
        self._policy = Policy()
        refuse_one_location(self._urls)
        self._depth = depth_needed(where for where in map(location, self._urls) if is_local(where))
        self._id_fn = id_fn
        self._counting: list[Any] = []
        self._parent_replica: tuple[int, int] | None = None
        self._left_behind = ""
        self._lenient = goes_on(_stages(data))
        self._fingerprint: Fingerprint | None = None
        self._whole: dict[str, tuple[int, int]] = {}
        self._dataset = _with_ids(data, self._depth, id_fn, self._counting)
        self._recurs: Recurs | None = recurs(data) or ("again" if len(self._urls) < len(self._listed) else None)
        # With an id_fn a stage of the user's may make batches, of which nobody knows the size.
        self._draws = samples_of_epoch(data) if id_fn is None or all(map(of_webdataset, _stages(data))) else None

    @staticmethod
    def matches(data: Any) -> bool:
        """Whether ``data`` is a pipeline, or a mix, of webdataset's; does not import webdataset."""
        return is_pipeline(data) or is_mix(data)

    @property
    def dataset(self) -> IterableDataset[Any]:
        """The pipeline with ids: yields ``(id, sample)``, or ``([id, ...], batch)`` if it batches.

        Raises:
            SourceError: in a copy in another process, if the pipeline has stages that do not pickle.
        """
        if self._left_behind:
            raise SourceError(
                "A stage of this pipeline does not pickle, so only its shards are known in this process.",
                found=self._left_behind,
                expected="functions that pickle: no lambdas, nothing defined inside a function",
                do="define the stage's function in a module, or use workers that fork",
            )
        return self._dataset

    def fingerprint(self) -> Fingerprint:
        """The listed shards, as they were when it was first asked for; as their rows are unknown, with the bytes of a
        local one, 0 of a remote one."""
        if self._fingerprint is None:
            self._fingerprint = self._found()
        return self._fingerprint

    def _found(self) -> Fingerprint:
        if self._id_fn is not None:
            return Fingerprint("webdataset", by(self._id_fn).strip())
        shards = {}
        for url in self._urls:
            where = location(url)
            if not is_local(where) or os.path.isfile(where):
                shards[shard_name(url, self._depth)] = os.path.getsize(where) if is_local(where) else 0
        return Fingerprint("webdataset", "", shards=shards)

    def recurs(self) -> Recurs | None:
        """Drawn where shards are resampled; several times with ``repeat``, ``with_epoch`` or a shard listed twice."""
        return self._recurs

    def draws(self) -> int | None:
        """What ``with_epoch`` says; of batches as many samples as they are to hold."""
        return self._draws

    def parts(self, shuffle_seed: int | None = None) -> Iterator[Part]:
        """The listed shards, each once, whatever the pipeline resamples; see `webdataset_parts` for the order.

        Raises:
            SourceError: with ``id_fn``, which sees samples behind the stages that parts leave out; for shards that
                the pipeline does not list (a directory that is watched, a stage of the user's).
        """
        return self._parts(self._parent_replica or node())

    def corpus(self) -> Iterator[Part]:
        """All shards."""
        return self._parts((0, 1))

    def _parts(self, replica: tuple[int, int]) -> Iterator[Part]:
        if self._id_fn is not None:
            raise SourceError(
                "Nobody can tell the ids of this WebDataset ahead of the trainer.",
                found="an id_fn, which sees samples as they come out of the pipeline",
                expected="ids by shard and __key__, known where a shard is read",
                do="leave id_fn out, or score the files first (weighted-stream score): Similarity() without a target",
            )
        parts = webdataset_parts(self._dataset, self._depth, replica, self.workers)
        return super().parts() if parts is None else parts

    def __getstate__(self) -> dict[str, Any]:
        # Another process has no process group to ask for its rank.
        state = {**self.__dict__, "_parent_replica": self._parent_replica or node()}
        try:
            ForkingPickler.dumps(self._dataset)
        except Exception as error:  # pickle raises what it likes; lambdas behind the tar reader are common
            state.update(_dataset=only_reading(self._dataset), _left_behind=f"{type(error).__name__}: {error}")
        return state

    def set_epoch(self, epoch: int) -> None:
        """Let ``detshuffle`` and ``ResampledShards`` begin at this epoch, however far they have counted.

        They count passes over the data, of which an epoch may have several. Workers that stay count on by themselves:
        with several passes, they come to other orders than workers that are new in each epoch.
        """
        for stage in self._counting:
            stage.epoch = epoch - 1

    def set_policy(self, policy: Policy) -> None:
        """What readers do with a bad shard; a handler of the pipeline's own comes first."""
        self._policy = policy
        for tagged in _tagged(self._dataset):
            tagged.policy, tagged.lenient = policy, self._lenient

    def check(self) -> None:
        """Local tar files must have their end; a warning where the pipeline has a handler that goes on behind errors.

        Where bad shards are skipped, whoever comes to one finds it. Shards that are listed twice are warned of.

        Raises:
            SourceError: naming those that have none.
        """
        if not self._policy.skips:
            check_tars(self._urls, self._lenient, self._whole)
        if self._listed:
            warn_of_repeats([location(url) for url in self._listed], "this WebDataset")
            self._listed = []


def _with_ids(data: Any, depth: int, id_fn: IdFn | None, counting: list[Any]) -> IterableDataset[Any]:
    """A copy of a pipeline (or mix) that yields ids; ``counting`` receives its stages that count epochs."""
    result: Any
    if is_mix(data) and id_fn is None:
        result = copy(data)
        result.datasets = [_with_ids(part, depth, None, counting) for part in data.datasets]
    elif is_pipeline(data):
        _refuse(data)
        first, *later = data.pipeline
        nested = id_fn is None and (is_pipeline(first) or is_mix(first))
        stages = [_with_ids(first, depth, None, counting) if nested else _own(first), *map(_own, later)]
        counting += [stage for stage in stages if stage_name(stage) in _COUNT_EPOCHS]
        runner, result = copy(data), copy(data)
        runner.pipeline = []
        result.pipeline = [TaggedStages(stages, runner.invoke, depth, id_fn, nested)]
    else:
        result = TaggedStages([data], iter, depth, id_fn, tagged=False)
    return result  # type: ignore[no-any-return]


def _tagged(dataset: Any) -> Iterator[TaggedStages]:
    """Where a pipeline with ids, or a mix, reads its stages."""
    if isinstance(dataset, TaggedStages):
        yield dataset
        yield from (inner for stage in dataset._stages for inner in _tagged(stage))
    for part in [*getattr(dataset, "datasets", []), *getattr(dataset, "pipeline", [])]:
        yield from _tagged(part)


def _own(stage: Any) -> Any:
    """A copy of a stage of webdataset's, as they count epochs and cache samples; a user's stage as it is."""
    if type(stage).__module__.partition(".")[0] != "webdataset":
        return stage
    stage = copy(stage)
    if stage_name(stage) == "webdataset.filters.Cached":
        stage.cached = None  # samples without ids, if the user has read the pipeline
    return stage


def _stages(data: Any) -> Iterator[Any]:
    """All stages of a pipeline or a mix, with those of what is inside."""
    for part in data.pipeline if is_pipeline(data) else data.datasets if is_mix(data) else []:
        yield part
        yield from _stages(part)


def _urls(data: Any) -> Iterator[str]:
    """The urls of all shards that the pipeline lists."""
    for stage in _stages(data):
        if type(stage).__module__ == "webdataset.shardlists":
            for source in getattr(stage, "sources", [stage]):
                yield from getattr(source, "urls", [])


def _refuse(data: Any) -> None:
    """Refuse pipelines whose iteration is not that of `DataPipeline` over stages."""
    kind = type(data).__name__
    for name in ("__iter__", "iterator", "iterator1"):
        if getattr(type(data), name).__module__ != "webdataset.pipeline":
            raise SourceError(
                f"{kind} iterates in its own way, so samples cannot be followed through it.",
                found=f"{kind}.{name}",
                expected="a pipeline of stages",
                do="make it a stage: pipeline.compose(stage)",
            )
    if not data.pipeline:
        raise SourceError(
            f"This {kind} has no stages.",
            found="an empty pipeline",
            expected="a shard list and stages",
            do="add them",
        )
    if isinstance(data.pipeline[0], DataLoader):
        raise SourceError(
            f"This {kind} is a loader, not a dataset.",
            found=f"a pipeline that begins with a {type(data.pipeline[0]).__name__}",
            expected="a pipeline that begins with a shard list",
            do="wrap the dataset of that loader",
        )
