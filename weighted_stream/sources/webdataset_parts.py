"""WebDataset pipelines in parts: one shard after the other, read by the pipeline's own stages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from copy import copy
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray

from weighted_stream.errors import SourceError
from weighted_stream.sources.parts import Part
from weighted_stream.sources.shard_names import location, shard_name
from weighted_stream.sources.tagging import TaggedStages
from weighted_stream.sources.tracking import Invoke, stage_name
from weighted_stream.sources.unreadable import naming

_SPLIT_NODES = "webdataset.shardlists.split_by_node"
_SPLIT_WORKERS = "webdataset.shardlists.split_by_worker"
_IN_ORDER = "webdataset.filters.detshuffle"
_AT_RANDOM = {"webdataset.filters._shuffle", "webdataset.filters._rsample"}
_PASS = {f"webdataset.shardlists.{name}" for name in ("non_empty", "single_node_only", "resampled_")}
_OF_LISTS = {_SPLIT_NODES, _SPLIT_WORKERS, _IN_ORDER, *_AT_RANDOM, *_PASS}
READS_TAR = {"webdataset.tariterators.group_by_keys", "webdataset.tariterators.tarfile_samples"}
_END = object()


class WebDatasetPart(Part):
    """One shard of a pipeline.

    Its ids are known by reading only. Samples are what the pipeline's stages make of a tar file until they first are
    dicts with ``__key__`` and ``__url__``: the fields are bytes. Later stages (``decode``, ``map``, ``select`` …) are
    left out, so samples that those drop are read too. A damaged shard raises, unless the pipeline was built with a
    ``handler`` that passes over it: then it ends early here as it does for the trainer.

    Args:
        url: of the shard.
        reader: the stages.
        depth: how many components of a local path name a shard.
    """

    def __init__(self, url: str, reader: _Reader, depth: int) -> None:
        self._url, self._reader = url, reader
        self.name = shard_name(url, depth)

    def read(self, wanted: NDArray[np.bool_] | None = None) -> Iterator[tuple[int, Any]]:
        """``(id, sample)``; a tar file is read as a whole, so ``wanted`` has no meaning."""
        with naming(self.name, secret=self._url.startswith("pipe:")):
            yield from self._reader.read(self._url)


class _Reader:
    """The stages of a pipeline that make samples of the url of one shard."""

    def __init__(self, tagged: TaggedStages, stages: list[Any], invoke: Invoke) -> None:
        self._tagged, self._stages, self._invoke = tagged, stages, invoke

    def read(self, url: str) -> Iterator[tuple[int, Any]]:
        stream: Iterator[Any] = iter([{"url": url}])
        for stage in self._stages:
            stream = iter(self._invoke(stage, stream))
            first = next(stream, _END)
            if first is _END:
                return
            stream = chain([first], stream)
            if has_key(first):
                yield from self._tagged._tag(stream, in_shard_order=True)
                return
        raise SourceError(
            "The samples of this pipeline have no id.",
            found="no stage that yields dicts with __key__ and __url__",
            expected="a pipeline that reads tar files, e.g. with tarfile_to_samples()",
            do="add __key__ and __url__ (str) to the samples",
        )


def has_key(sample: Any) -> bool:
    """Whether a sample says which one it is."""
    return isinstance(sample, dict) and all(isinstance(sample.get(name), str) for name in ("__key__", "__url__"))


def node() -> tuple[int, int]:
    """(rank, world size), where webdataset looks for it."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def webdataset_parts(dataset: Any, depth: int, replica: tuple[int, int], workers: int) -> Iterator[Part] | None:
    """The shards of a pipeline with ids, each once; None if some are not listed ahead.

    In the listed order, mixes in turns. A rank's share by ``split_by_node`` and the order by ``detshuffle`` (where
    ``workers`` is right) are followed. ``shuffle`` and resampling are drawn at run time, which nobody can follow: then
    the list stands as it is, and whole, if ranks share it out only afterwards.

    Args:
        dataset: of a `WebDatasetSource`.
        depth: how many components of a local path name a shard.
        replica: (rank, world size) that ``split_by_node`` splits for.
        workers: how many the loader has; 0 or 1: one reader.
    """
    listed = _listed(dataset, replica, max(workers, 1))
    return None if listed is None else _once(listed, depth)


def only_reading(dataset: Any) -> Any:
    """A pipeline with ids without the stages behind the reading of tar files, which parts do without."""
    result = copy(dataset)
    if hasattr(dataset, "datasets"):
        result.datasets = [only_reading(part) for part in dataset.datasets]
        return result
    tagged = dataset.pipeline[0] if hasattr(dataset, "pipeline") else dataset
    first, *later = tagged._stages
    reads = next((n for n, stage in enumerate(later, 1) if stage_name(stage) in READS_TAR), len(later))
    stages = [only_reading(first)] if tagged._tagged else [first, *later[:reads]]
    kept = TaggedStages(stages, tagged._invoke, tagged._depth, None, tagged._tagged)
    if tagged is dataset:
        return kept
    result.pipeline = [kept]
    return result


def _once(listed: list[tuple[str, _Reader]], depth: int) -> Iterator[Part]:
    known: set[str] = set()
    for url, reader in listed:
        if location(url) not in known:
            known.add(location(url))
            yield WebDatasetPart(url, reader, depth)


def _listed(dataset: Any, replica: tuple[int, int], workers: int) -> list[tuple[str, _Reader]] | None:
    """Each url with the stages that read it."""
    if hasattr(dataset, "datasets"):
        lists = [_listed(part, replica, workers) for part in dataset.datasets]
        return None if any(one is None for one in lists) else _in_turns([one for one in lists if one is not None])
    tagged = dataset.pipeline[0] if hasattr(dataset, "pipeline") else dataset
    first, *later = tagged._stages
    if tagged._tagged:
        return _listed(first, replica, workers)
    if type(first).__module__ != "webdataset.shardlists":
        return None
    urls = [url for source in getattr(first, "sources", [first]) for url in getattr(source, "urls", [])]
    of_lists = next((n for n, stage in enumerate(later) if stage_name(stage) not in _OF_LISTS), len(later))
    reader = _Reader(tagged, later[of_lists:], tagged._invoke)
    fixed = stage_name(first) != "webdataset.shardlists.ResampledShards"
    lines = _lines(urls, later[:of_lists], replica, workers, fixed)
    return [(url, reader) for url in _in_turns(lines)] if urls else None


def _lines(urls: list[str], stages: list[Any], replica: tuple[int, int], workers: int, fixed: bool) -> list[list[str]]:
    """What each worker reads, as far as it can be told: where the order is drawn at run time, as if it were not.

    Args:
        urls: the list.
        stages: those that work on lists of shards.
        replica: (rank, world size).
        workers: how many.
        fixed: whether the list is the same for all ranks.
    """
    lines = [urls]
    for stage in stages:
        name = stage_name(stage)
        if name == _SPLIT_NODES and fixed:
            lines = [line[replica[0] :: replica[1]] for line in lines]
        elif name == _SPLIT_WORKERS and len(lines) == 1:
            lines = [lines[0][worker::workers] for worker in range(workers)]
        elif name == _IN_ORDER:
            lines = [list(copy(stage).run(iter(line))) for line in lines]  # a copy, as it counts its runs
        elif name in _AT_RANDOM:
            fixed = False
    return lines


def _in_turns(lists: list[list[Any]]) -> list[Any]:
    """One of each list, and so on.

    Example:
        >>> _in_turns([[1, 2, 3], ["a"]])
        [1, 'a', 2, 3]
    """
    return [item for row in zip_longest(*lists, fillvalue=_END) for item in row if item is not _END]
