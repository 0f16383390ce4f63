"""Where the samples of a WebDataset pipeline get their ids."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from itertools import chain, islice
from typing import Any

from torch.utils.data import IterableDataset

from weighted_stream.errors import SampleIdError, SourceError
from weighted_stream.sources.bad_shards import Policy, same_name
from weighted_stream.sources.ids import key_id, named, named_id
from weighted_stream.sources.keys import IdFn, identify
from weighted_stream.sources.shard_names import is_local, location, shard_name
from weighted_stream.sources.tracking import Invoke, Tagged, follow, is_batched, stage_name
from weighted_stream.sources.webdataset_reading import READS, Fields, TarReading

_GROUP = {"webdataset.tariterators.group_by_keys", "webdataset.tariterators.tarfile_samples"}
_COMPLAINS = "webdataset.compat.check_empty"
_END = object()
_TOGETHER = 16
_name = lru_cache(maxsize=4096)(shard_name)


class TaggedStages(IterableDataset[Any]):
    """The stages of a pipeline, run with ids.

    Args:
        stages: of the pipeline.
        invoke: the pipeline's, runs one stage.
        depth: how many components of a local path name a shard.
        id_fn: makes the id of a sample, or None for shard and key.
        tagged: whether the first stage yields ids already.
    """

    def __init__(self, stages: list[Any], invoke: Invoke, depth: int, id_fn: IdFn | None, tagged: bool) -> None:
        self._stages, self._invoke, self._depth = stages, invoke, depth
        self._id_fn, self._tagged = id_fn, tagged
        self.policy, self.lenient = Policy(), False

    def __iter__(self) -> Tagged:
        if self._id_fn is not None:
            return self._by_function(self._id_fn)
        if self._tagged:
            tagged = iter(self._invoke(self._stages[0]))
            return follow(tagged, self._stages[1:], self._invoke, self._own_id)
        return self._by_key()

    def _by_function(self, id_fn: IdFn) -> Tagged:
        stages, invoke = self._stages, self._invoke
        batched = next((n for n, stage in enumerate(stages) if is_batched(stage)), len(stages))
        stream, tars = iter(invoke(stages[0])), TarReading(self.policy, self.lenient)
        for stage in stages[1:batched]:
            stream = tars.run(invoke, stage, stream) if stage_name(stage) in READS else iter(invoke(stage, stream))
        tagged = ((_ids(id_fn, sample, n), sample) for n, sample in enumerate(stream))
        return follow(tagged, stages[batched:], invoke)

    def _by_key(self) -> Tagged:
        stream: Iterator[Any] = iter(())
        tars = TarReading(self.policy, self.lenient, partial(_name, depth=self._depth))
        for place, stage in enumerate(self._stages):
            if place and stage_name(stage) in READS:
                stream = tars.run(self._invoke, stage, stream)
            else:
                stream = iter(self._invoke(stage, stream) if place else self._invoke(stage))
            later = self._stages[place + 1 :]
            first = next(stream, _END)
            if first is _END:  # a worker without shards; a later stage may want to complain
                later = [stage for stage in later if not (tars.broken and stage_name(stage) == _COMPLAINS)]
                return follow(iter(()), later, self._invoke)
            stream = chain([first], stream)
            if _has_key(first):
                tagged = self._tag(stream, stage_name(stage) in _GROUP, tars.expands)
                return follow(tagged, later, self._invoke, self._own_id)
        raise SourceError(
            "The samples of this pipeline have no id.",
            found="no stage that yields dicts with __key__ and __url__",
            expected="a pipeline that reads tar files, e.g. with tarfile_to_samples()",
            do="add __key__ and __url__ (str) to the samples, or pass id_fn=",
        )

    def _tag(self, stream: Iterator[Any], in_shard_order: bool, one_url_each: bool = True) -> Tagged:
        """Ids by shard and key; where shards are read one after the other, each key may come once.

        Args:
            stream: of samples.
            in_shard_order: whether they are.
            one_url_each: whether ``__url__`` is another object for each reading of a shard; else a shard is taken for
                read again where its first key comes again.
        """
        url, name, first, prefix = "", "", "", ""
        keys: set[str] = set()
        known: dict[str, str] = {}
        fields, expected = Fields(), None
        for samples in _together(stream):
            names: list[str] = []
            for sample in samples:
                if not _has_key(sample):
                    raise _no_key(sample)
                key = sample["__key__"]
                found = sample["__url__"]
                if found != url:
                    name = _name(found, self._depth)
                    _refuse_one_name(known.setdefault(name, found), found)
                    first, keys, prefix = key, set(), named(name)
                elif (found is not url) if one_url_each else (key == first):  # the same shard once more
                    keys = set()
                url = found
                if in_shard_order:
                    if key in keys:
                        raise _same_key(key, url)
                    keys.add(key)
                    if sample.keys() != expected:
                        expected = fields.look(sample, url)
                names.append(prefix + named(key))
            yield from zip(map(named_id, names), samples, strict=True)

    def _own_id(self, sample: Any) -> int | None:
        return key_id(_name(sample["__url__"], self._depth), sample["__key__"]) if _has_key(sample) else None


def _together(stream: Iterator[Any]) -> Iterator[list[Any]]:
    """The samples, several at a time: hashes made in a row cost a third. What came before an error is delivered."""
    failed: Exception | None = None
    while failed is None:
        samples: list[Any] = []
        try:
            samples.extend(islice(stream, _TOGETHER))
        except Exception as error:
            failed = error
        if samples:
            yield samples
        elif failed is None:
            return
    raise failed


def _has_key(sample: Any) -> bool:
    return (
        isinstance(sample, dict) and isinstance(sample.get("__key__"), str) and isinstance(sample.get("__url__"), str)
    )


def _ids(id_fn: IdFn, sample: Any, position: int) -> int | list[int]:
    """What ``id_fn`` says, checked: one id, or of a batch that the user's own stage made, several."""
    try:
        value: Any = id_fn(sample)
    except KeyError:
        return identify(id_fn, sample, position)  # has words for it
    if isinstance(value, (list, tuple)) or getattr(value, "ndim", None):
        return [identify(_same, one, position) for one in value]
    return identify(_same, value, position)


def _same(value: Any) -> Any:
    return value


def refuse_one_location(urls: list[str]) -> None:
    """Refuse remote urls that differ only in what does not count.

    Raises:
        SourceError: if two do.
    """
    known: dict[str, str] = {}
    for url in urls:
        where = location(url)
        if known.setdefault(where, url) != url and not is_local(where):
            raise SourceError(
                "Two shards differ only in what does not count for an id, so their samples would share ids.",
                found=f"two urls of {where} that differ in credentials, query or command",
                expected="one url per shard",
                do="list each shard once, or pass id_fn=",
            )


def _refuse_one_name(url: str, other: str) -> None:
    """Refuse shards that no list told of, if they have one name."""
    if url == other:
        return
    refuse_one_location([url, other])
    if location(url) != location(other):
        raise same_name(location(url), location(other))


def _no_key(sample: Any) -> SampleIdError:
    return SampleIdError(
        "A sample has no __key__ or no __url__.",
        found=f"keys {sorted(map(str, sample))}" if isinstance(sample, dict) else f"a {type(sample).__name__}",
        expected="a dict with both (str)",
        do="add them, or pass id_fn=",
    )


def _same_key(key: str, url: str) -> SampleIdError:
    return SampleIdError(
        "Two samples of a shard have the same key, so they would share an id.",
        found=f"key {key!r} twice in {location(url)}",
        expected="keys that are unique within a shard, and the files of a sample next to each other",
        do="repack the shard, or pass id_fn=",
    )
