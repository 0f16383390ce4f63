"""What an epoch of a WebDataset is: the data once, or several times, or as much of it as is drawn; and how long."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import signature
from typing import Any

from torch.utils.data import DataLoader

from weighted_stream.sources.base import Recurs
from weighted_stream.sources.tracking import UNBATCHES, is_batched, stage_name
from weighted_stream.sources.webdataset_pickles import is_pipeline

_DRAWS = {"webdataset.shardlists.ResampledShards", "webdataset.shardlists.resampled_"}
_WATCHES = "webdataset.shardlists.DirectoryShardList"
_MAY_DRAW = "webdataset.shardlists.MultiShardSample"


def recurs(data: Any) -> Recurs | None:
    """Whether a sample may come more than once in an epoch of a pipeline, mix or WebLoader; None: no stage says so.

    Example:
        >>> recurs(["not a pipeline"]) is None
        True
    """
    parts = list(_inside(data))
    if any(map(_draws, parts)):
        return "drawn"
    return "again" if any(map(repeats, parts)) else None


def samples_of_epoch(data: Any) -> int | None:
    """How many samples a ``with_epoch`` lets through, of batches as many as they are to hold; None: there is none."""
    if not is_pipeline(data):
        return None
    if not repeats(data):  # webdataset looks at the number only where it repeats
        return samples_of_epoch(data.pipeline[0])
    return int(data.nsamples) * _per_item(data) if data.nsamples > 0 else None


def repeats(data: Any) -> bool:
    """Whether a pipeline, a WebLoader for example, goes through its first stage more than once by itself."""
    return is_pipeline(data) and data.repetitions != 1


def sizes_known(data: Any) -> bool:
    """Whether all stages are webdataset's or ours, in front of a DataLoader and behind it, so that batches have the
    sizes they say."""
    if isinstance(data, DataLoader):
        return sizes_known(data.dataset)
    inner = getattr(data, "_loader", None)
    if inner is not None and not sizes_known(inner):
        return False
    names = ("pipeline", "_stages", "datasets")
    stages = next((found for name in names if (found := getattr(data, name, None))), None)
    return of_webdataset(data) if stages is None else all(map(sizes_known, stages))


def of_webdataset(stage: Any) -> bool:
    """Whether a stage is webdataset's or ours, rather than a user's, which may make batches."""
    return stage_name(stage).partition(".")[0] in ("webdataset", "weighted_stream", "itertools")


def _inside(data: Any) -> Iterator[Any]:
    """A pipeline or mix, and all that is in it."""
    yield data
    for name in ("pipeline", "datasets"):
        parts = getattr(data, name, None)
        for part in parts if isinstance(parts, (list, tuple)) else ():
            yield from _inside(part)


def _draws(stage: Any) -> bool:
    """Whether a stage draws shards with replacement."""
    name = stage_name(stage)
    if name == _WATCHES:
        return bool(stage.mode == "resample")
    return name in _DRAWS or (name == _MAY_DRAW and any(source.resample > 0 for source in stage.sources))


def _per_item(data: Any) -> int:
    """How many samples one item of a pipeline, a mix or a loader holds, as nearly as its stages say."""
    if isinstance(data, DataLoader):
        return data.batch_size or _per_item(data.dataset)
    if hasattr(data, "datasets"):
        return max(map(_per_item, data.datasets), default=1)
    inner = getattr(data, "_loader", None)  # of a WebLoader with ids
    size = 1 if inner is None else _per_item(inner)
    stages: Any = getattr(data, "pipeline", None) or getattr(data, "_stages", ())
    for stage in stages:
        if is_batched(stage):
            bound = signature(stage.f).bind(None, *stage.args, **stage.kw)
            bound.apply_defaults()
            size = int(bound.arguments["batchsize"])
        elif stage_name(stage) in UNBATCHES:
            size = 1
        elif any(hasattr(stage, name) for name in ("pipeline", "datasets", "_stages")) or isinstance(stage, DataLoader):
            size = _per_item(stage)
    return size
