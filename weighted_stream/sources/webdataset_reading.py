"""Tar files read to their end: what webdataset takes for the end of a shard may be the place where it is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from copy import copy
from inspect import signature
from typing import Any

from weighted_stream.errors import SourceError
from weighted_stream.sources.bad_shards import SAID, Policy
from weighted_stream.sources.board import reads, tell
from weighted_stream.sources.shard_names import is_local, location
from weighted_stream.sources.tracking import Invoke, stage_name
from weighted_stream.sources.unreadable import naming
from weighted_stream.sources.webdataset_tars import Handler, TarStream, members

_EXPANDS = "webdataset.tariterators.tar_file_expander"
_ALL_IN_ONE = "webdataset.tariterators.tarfile_samples"
_GROUPS = "webdataset.tariterators.group_by_keys"
_CACHES = "webdataset.cache.FileCache"
_OPENS = {"webdataset.tariterators.url_opener", "webdataset.cache.StreamingOpen", _CACHES}
READS = {_EXPANDS, _ALL_IN_ONE, _GROUPS, *_OPENS}
"""The stages that read shards, by name."""

TRIES = 3
"""So often a remote shard is fetched for webdataset's cache, which pauses longer each time, before it counts as bad."""


class TarReading:
    """The stages of a pipeline that read tar files, with a look at each shard's end.

    Args:
        policy: what to do with a bad shard.
        lenient: the user's pipeline has a handler that goes on behind errors: then what is found is only said.
        name: of a shard by its url, as it counts in ids; None: it does not.

    Attributes:
        url: of the shard that is read.
        broken: the urls of those that cannot be read to their end.
        expands: whether tar files are opened here: then the ``__url__`` of samples is one object for each reading of a
            shard, by which a shard that is read again is told from a key that comes again.
    """

    def __init__(self, policy: Policy, lenient: bool, name: Callable[[str], str] | None = None) -> None:
        self.policy, self._lenient, self._name = policy, lenient, name
        self.url = ""
        self.broken: set[str] = set()
        self.expands = False
        self._failures = 0

    def run(self, invoke: Invoke, stage: Any, stream: Iterator[Any]) -> Iterator[Any]:
        """One stage."""
        name = stage_name(stage)
        if self.policy.skips:
            stage = self._skipping(stage)
        if name == _ALL_IN_ONE:
            return self._samples(*_arguments(stage, stream))
        if name == _EXPANDS:
            source, given = _arguments(stage, stream)
            return self._files(source, **given)
        if name == _GROUPS:
            return self._whole(iter(invoke(stage, stream)))
        return self._named(iter(invoke(stage, self._urls(stream))))

    def _samples(self, source: Iterator[Any], given: dict[str, Any]) -> Iterator[Any]:
        from webdataset.tariterators import group_by_keys, url_opener

        opened = url_opener(self._urls(source), handler=given["handler"])
        files = self._files(opened, **given, eof_value={})
        return self._whole(group_by_keys(files, handler=given["handler"]))

    def _urls(self, stream: Iterator[Any]) -> Iterator[Any]:
        """What is opened next, for the error's sake."""
        for source in stream:
            url = source.get("url") if isinstance(source, dict) else source
            if isinstance(url, str):
                self.url, self._failures = url, 0
            yield source

    def _files(
        self,
        sources: Iterator[Any],
        handler: Handler,
        select_files: Callable[[str], bool] | None,
        rename_files: Callable[[str], str] | None,
        eof_value: Any,
    ) -> Iterator[Any]:
        """The members of each tar file, and the mark at its end, as webdataset's ``tar_file_expander`` has them."""
        handler, self.expands = self._telling(handler), True
        for source in self._named(sources):
            try:
                self.url, stream = str(source["url"]), TarStream(source["stream"])
                self.broken.discard(self.url)
                reads(location(self.url).encode())
                source = {**source, "url": "".join(list(self.url))}  # an object of its own
                yield from members(stream, source, handler, select_files, rename_files)
            except Exception as error:
                with self._naming():
                    if not handler(error):
                        return
            else:
                self._look_at_end(stream)
                if eof_value is not None:
                    yield eof_value

    def _telling(self, handler: Handler) -> Handler:
        """A handler of the user's is told which shard it is; what others do ends in an error that names it."""
        if _reraises(handler) or handler == self.handle:
            return handler

        def told(error: Exception) -> bool:
            where = location(self.url)
            if where not in error.args:
                error.args = (*error.args, where)
            return handler(error)

        return told

    def _look_at_end(self, stream: TarStream) -> None:
        where = location(self.url)
        if not stream.ended:
            error = SourceError(
                f"Shard {where} is broken: what is behind that place cannot be read.",
                found=f"no header of a tar file, nor its end, within the first {stream.size:,} bytes",
                expected="headers whose sums are right, up to two blocks of zeros",
                do="write or copy it again (a bit was flipped, it was cut, its writer was never closed, or it is "
                "several compressed files in one, of which the first is read); "
                'on_bad_shard="skip" leaves the rest of it out',
            )
            self._meet(error)
        self.policy.tell_end(where, stream.ends(), self._name(self.url) if self._name is not None else "")

    def _meet(self, error: SourceError) -> None:
        if self._lenient and not self.policy.skips:
            tell({"odd": f"{error.problem} Found: {error.found}"})
            return
        self.policy.meet(location(self.url), error)
        self.broken.add(self.url)

    def _whole(self, samples: Iterator[Any]) -> Iterator[Any]:
        """Without the last sample before a break: nobody knows whether it is whole."""
        if not self.policy.skips:
            return samples
        return (sample for sample in samples if sample.get("__url__") not in self.broken)

    def _named(self, items: Iterator[Any]) -> Iterator[Any]:
        """An error of a stage names the shard."""
        try:
            yield from items
        except Exception as error:
            with self._naming():
                raise error

    def _naming(self) -> AbstractContextManager[None]:
        return naming(location(self.url), secret=self.url.startswith("pipe:"))

    def _skipping(self, stage: Any) -> Any:
        """A copy of a stage of webdataset's whose handler leaves the shard out, if it has none of the user's."""
        takes = hasattr(stage, "f") and "handler" in signature(stage.f).parameters
        if takes and not stage.args and _reraises(stage.kw.get("handler")):
            stage = copy(stage)
            stage.kw = {**stage.kw, "handler": self.handle}
        elif not takes and _reraises(getattr(stage, "handler", self)):
            stage = copy(stage)
            stage.handler = self._fetch_again if stage_name(stage) == _CACHES else self.handle
        return stage

    def handle(self, error: Exception) -> bool:
        """A handler for webdataset: go on behind the shard."""
        try:
            with self._naming():
                raise error
        except SourceError as named:
            self._meet(named)
        return True

    def _fetch_again(self, error: Exception) -> bool:
        """A handler for webdataset's cache, which tries ten times, with minutes of pauses, if it may."""
        self._failures += 1
        if self._failures < TRIES and not is_local(location(self.url)):
            return True
        self.handle(error)
        return False


def _arguments(stage: Any, stream: Iterator[Any]) -> tuple[Iterator[Any], dict[str, Any]]:
    """What a stage of webdataset's would be called with: its input, and everything else by name."""
    bound = signature(stage.f).bind(stream, *stage.args, **stage.kw)
    bound.apply_defaults()
    given = dict(bound.arguments)
    return given.pop(next(iter(given))), given


def _reraises(handler: Callable[..., Any] | Any) -> bool:
    return handler is None or getattr(handler, "__name__", "") == "reraise_exception"


class Fields:
    """Which fields samples have: one that differs from those before it is told of, a few times."""

    def __init__(self) -> None:
        self._expected: Any = None
        self._told = 0

    def look(self, sample: dict[str, Any], url: str) -> Any:
        """Tell of a sample whose fields are not as expected. What is expected, as a view of keys.

        Example:
            >>> fields = Fields()
            >>> sorted(fields.look({"__key__": "0", "cls": b"1"}, "a.tar"))
            ['__key__', 'cls']
        """
        if self._expected is None:
            self._expected = dict.fromkeys(sample).keys()
        elif self._told < SAID:
            self._told += 1
            lacks, more = sorted(self._expected - sample.keys()), sorted(sample.keys() - self._expected)
            what = " and ".join([f"lacks {lacks}"] * bool(lacks) + [f"has {more} beside"] * bool(more))
            tell({"odd": f"Sample {sample['__key__']!r} of {location(url)} {what}, unlike those before it."})
        return self._expected
