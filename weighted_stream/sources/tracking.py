"""Ids through the stages of a WebDataset pipeline: which sample did a stage make this one of?

The user's stages see bare samples, as always. What they yield gets its id by one of four rules:

- a stage of webdataset's own that works sample by sample (``map``, ``decode``, ``select`` …): the one it took
  last;
- one that only reorders, picks or repeats (``shuffle``, ``slice`` …): it moves ``(id, sample)`` pairs about;
- ``batched`` gathers the ids of a batch, ``unbatched`` and ``unlisted`` give them out again;
- any other stage is watched: see `_watch`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from itertools import groupby
from typing import Any, TypeAlias

from weighted_stream.errors import SourceError

Tagged: TypeAlias = Iterator[tuple[Any, Any]]
"""``(id, sample)`` pairs; ``([id, ...], batch)`` behind ``batched``."""
Invoke: TypeAlias = Callable[..., Any]
"""How a pipeline runs one stage: ``invoke(stage, iterator)``."""
OwnId: TypeAlias = Callable[[Any], "int | None"]
"""The id that a sample says it has itself, by its key and url; None if it does not."""

# Stages by module and name, so that webdataset need not be imported to look at them.
_SAMPLE_BY_SAMPLE = {
    f"webdataset.filters._{name}"
    for name in (
        *("associate", "decode", "extract_keys", "info", "log_keys", "map", "map_dict", "map_tuple"),
        *("rename", "rename_keys", "select", "to_tuple", "xdecode"),
    )
} | {"weighted_stream.sources.webdataset_pickles.RefusePickles"}
_MOVES = {
    *("webdataset.filters._shuffle", "webdataset.filters.detshuffle", "webdataset.filters._rsample"),
    *("webdataset.filters.Cached", "webdataset.compat.check_empty", "itertools.islice"),
    *(f"webdataset.shardlists.{name}" for name in ("resampled_", "non_empty", "single_node_only")),
    *(f"webdataset.shardlists.{name}" for name in ("split_by_node", "split_by_worker")),
}
_BATCHES = {"webdataset.filters._batched"}
UNBATCHES = {"webdataset.filters._unbatched", "webdataset.filters._unlisted"}
"""The stages that give out the samples of batches, by name."""

_LOOK_AHEAD = 64
"""How many samples that a watched stage has taken are kept to be recognised; a filter may drop any number."""


def stage_name(stage: Any) -> str:
    """Module and name of a stage's function (that ``pipelinefilter`` wrapped), or of its class.

    Example:
        >>> from itertools import islice
        >>> stage_name(islice)
        'itertools.islice'
    """
    wrapped = type(stage).__module__ == "webdataset.filters" and hasattr(stage, "f")
    function = stage.f if wrapped else stage
    named = function if hasattr(function, "__qualname__") else type(stage)
    return f"{named.__module__}.{named.__qualname__}"


def is_batched(stage: Any) -> bool:
    """Whether a stage is webdataset's ``batched``."""
    return stage_name(stage) in _BATCHES


def follow(tagged: Tagged, stages: Sequence[Any], invoke: Invoke, own_id: OwnId | None = None) -> Tagged:
    """Run stages on samples whose ids are known.

    Args:
        tagged: pairs of id and sample, or of ids and batch.
        stages: of a webdataset pipeline.
        invoke: the pipeline's ``invoke``.
        own_id: the id that a sample carries in itself, for stages that are watched.

    Raises:
        SourceError: while iterating, if a stage yields what cannot be traced to a sample.
    """
    for name, group in groupby(stages, key=lambda stage: stage_name(stage) in _SAMPLE_BY_SAMPLE):
        if name:
            tagged = _sample_by_sample(tagged, list(group), invoke)
            continue
        for stage in group:
            if stage_name(stage) in _MOVES:
                tagged = iter(invoke(stage, tagged))
            elif stage_name(stage) in _BATCHES:
                tagged = _batch(tagged, stage)
            elif stage_name(stage) in UNBATCHES:
                tagged = _unbatch(tagged, stage, invoke)
            else:
                tagged = _watch(tagged, stage, invoke, own_id)
    return tagged


def _sample_by_sample(tagged: Tagged, stages: list[Any], invoke: Invoke) -> Tagged:
    """Stages that yield at most one sample for each they take, before they take the next."""
    current: Any = None

    def samples() -> Iterator[Any]:
        nonlocal current
        for pair in tagged:
            current = pair[0]
            yield pair[1]

    stream: Any = samples()
    for stage in stages:
        stream = invoke(stage, stream)
    for sample in stream:
        yield current, sample


def _batch(tagged: Tagged, stage: Any) -> Tagged:
    arguments = signature(stage.f).bind(tagged, *stage.args, **stage.kw)
    arguments.apply_defaults()
    collate = arguments.arguments["collation_fn"]
    arguments.arguments["collation_fn"] = None
    for pairs in stage.f(*arguments.args, **arguments.kwargs):
        ids = [as_list(i) for i, _ in pairs]
        if any(len(i) != 1 for i in ids):
            raise _untraceable(stage, "batches batches", "a stage that batches samples", "unbatch in between")
        samples = [sample for _, sample in pairs]
        yield [i for (i,) in ids], samples if collate is None else collate(samples)


def _unbatch(tagged: Tagged, stage: Any, invoke: Invoke) -> Tagged:
    ids: list[int] = []
    given = 0

    def full() -> SourceError:
        return _untraceable(
            stage,
            f"made {given} or more samples of a batch of {len(ids)}",
            "as many samples of a batch as went into it",
            "batch with .batched(), with a collation_fn that keeps the samples apart, or pass id_fn=",
        )

    def batches() -> Iterator[Any]:
        nonlocal ids, given
        for these, batch in tagged:
            if given != len(ids):
                raise full()
            ids, given = as_list(these), 0
            yield batch
        if given != len(ids):
            raise full()

    for sample in invoke(stage, batches()):
        if given == len(ids):
            raise full()
        given += 1
        yield ids[given - 1], sample


def as_list(ids: Any) -> list[int]:
    """The ids of a batch, which may be an array; of a sample that is no batch, just its own."""
    if hasattr(ids, "tolist"):
        ids = ids.tolist()
    return list(ids) if isinstance(ids, (list, tuple)) else [ids]


def _watch(tagged: Tagged, stage: Any, invoke: Invoke, own_id: OwnId | None) -> Tagged:
    """A stage that could do anything: each sample it yields must say which one it was made of.

    In this order: it carries ``__key__`` and ``__url__``; it is the very object of a sample taken; it has the
    ``__key__`` of one; or the stage has so far yielded one sample for each it took. The last cannot be wrong
    unless the stage drops as many samples as it repeats.
    """
    taken: deque[tuple[Any, Any]] = deque()
    count = 0
    skipped = False  # has it passed over a sample? It may hold it back, and counting proves nothing any more

    def samples() -> Iterator[Any]:
        nonlocal count, skipped
        for pair in tagged:
            taken.append(pair)
            count += 1
            if len(taken) > _LOOK_AHEAD:
                taken.popleft()
                skipped = True
            yield pair[1]

    for sample in invoke(stage, samples()):
        number: Any = own_id(sample) if own_id else None
        place = _find(sample, taken)
        if number is not None:
            skipped |= place is None
            place = len(taken) - 1 if place is None else place
        elif place is not None:
            number = taken[place][0]
        elif len(taken) == 1 and not skipped and _may_be_of(sample, taken[0][1]):
            number, place = taken[0][0], 0
        else:
            raise _untraceable(
                stage,
                f"took {count} samples, then yielded a {type(sample).__name__} that need not be of the last",
                "samples passed on, dicts that keep __key__ and __url__, or one new sample for each taken",
                "use .map (None drops a sample), .select, .shuffle or .batched for it, keep __key__ and "
                "__url__ in what it yields, or pass id_fn=",
            )
        for _ in range(place + 1):
            taken.popleft()
        skipped |= place > 0
        yield number, sample


def _find(sample: Any, taken: deque[tuple[Any, Any]]) -> int | None:
    """Which of the samples taken this one is, or has the key of; None unless it is exactly one."""
    if not isinstance(sample, (dict, list, tuple)):  # ints and strs may be one object by chance
        return None
    places = [place for place, (_, other) in enumerate(taken) if other is sample]
    if not places and _key(sample) is not None:
        places = [place for place, (_, other) in enumerate(taken) if _key(other) == _key(sample)]
    return places[0] if len(places) == 1 else None


def _may_be_of(sample: Any, other: Any) -> bool:
    """Whether the keys of two samples do not contradict that one was made of the other."""
    return _key(sample) is None or _key(other) is None or _key(sample) == _key(other)


def _key(sample: Any) -> str | None:
    key = sample.get("__key__") if isinstance(sample, dict) else None
    return key if isinstance(key, str) else None


def _untraceable(stage: Any, found: str, expected: str, do: str) -> SourceError:
    return SourceError(
        f"The ids of samples get lost in the pipeline's stage {stage_name(getattr(stage, 'func', stage))}.",
        found=f"a stage that {found}",
        expected=expected,
        do=do,
    )
