"""Tar files read to their end: what webdataset takes for the end of a shard may be the place where it is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from inspect import signature
from typing import Any

from weighted_stream.errors import SourceError
from weighted_stream.sources.bad_shards import END, SAID, Policy, ends
from weighted_stream.sources.board import reads, tell
from weighted_stream.sources.shard_names import location
from weighted_stream.sources.tracking import Invoke, stage_name
from weighted_stream.sources.unreadable import naming

_EXPANDS = "webdataset.tariterators.tar_file_expander"
_ALL_IN_ONE = "webdataset.tariterators.tarfile_samples"
_GROUPS = "webdataset.tariterators.group_by_keys"
_OPENS = {"webdataset.tariterators.url_opener", "webdataset.cache.StreamingOpen", "webdataset.cache.FileCache"}
READS = {_EXPANDS, _ALL_IN_ONE, _GROUPS, *_OPENS}
"""The stages that read shards, by name."""

_BLOCK = 512
_COMPRESSED = (b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5")
_NO_DATA = b"123456"  # links, devices, directories, whatever their size says
_LONGEST = 1 << 60
_KNOWN = 1 << 14
_steps: dict[bytes, int] = {}
"""How far the next header is, by what one says of a file's size: the few sizes of small files come again and again."""


class Walk:
    """A stream of a tar file that follows its headers along while it is read: a quarter of a microsecond a header.

    Python's tarfile takes a header with a flipped bit for the end of the file, without an error, and reads no more.

    Args:
        stream: what tarfile would read.

    Attributes:
        ended: whether the end was reached that a writer makes, two blocks of zeros; None where nobody can tell, as the
            stream is compressed (and has sums of its own).
        size: bytes read so far.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.size, self._next = 0, 0
        self._rest = b""
        self.ended: bool | None = False
        self._first, self._last = b"", b""

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data: bytes = self._stream.read(size)
        if not data:
            return data
        start = self.size
        self.size = start + len(data)
        self._last = data
        if start < END:
            self._first += data[: END - start]
            if not start and data[:2] in _COMPRESSED:
                self.ended = None
        if self.ended is False:
            if self._next == _LONGEST:  # tarfile knows what that header is, and we do not
                self.ended = None
            elif self._next < self.size:
                self._follow(start, data)
        return data

    def _follow(self, start: int, data: bytes) -> None:
        """From header to header. Tarfile has read on: those before are sound; the last ones are checked at the end."""
        if self._rest:
            start, data = start - len(self._rest), self._rest + data
            self._rest = b""
        first = place = self._next - start
        last, steps = len(data) - _BLOCK, _steps
        while place <= last:
            step = steps.get(data[place + 124 : place + 136])
            if step is None or data[place + 156] in _NO_DATA:
                step = self._step(data[place : place + _BLOCK])
                if step == _LONGEST:
                    if self.ended:
                        self.ended = _all_sound(data, first, place)
                    self._next = _LONGEST
                    return
            place += step
        if place < len(data):
            self._rest = data[place:]
        self._next = start + place

    def _step(self, header: bytes) -> int:
        """How far the next header is; `_LONGEST` behind the last one, and where nobody knows."""
        field = header[124:136]
        try:
            length = _number(field)
        except ValueError:
            length = _LONGEST
        if header == bytes(_BLOCK):
            self.ended = True
        if self.ended or length == _LONGEST:
            return _LONGEST
        step = _stride(header, length)
        if header[156] not in _NO_DATA and field.strip(b"\0") and len(_steps) < _KNOWN:
            _steps[field] = step
        return step

    def ends(self) -> str:
        """What it looks like from outside, by which copies are known."""
        return ends(self.size, self._first, self._last)

    def __getattr__(self, name: str) -> Any:
        if name == "_stream":
            raise AttributeError(name)
        return getattr(self._stream, name)


def _number(field: bytes) -> int:
    """A number in a header: octal digits, or binary ones behind a mark.

    Example:
        >>> _number(b"00000001274 "), _number(bytes([0x80, 1, 0]))
        (700, 256)
    """
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.split(b"\0", 1)[0].strip() or b"0", 8)


def _stride(header: bytes, length: int) -> int:
    """How far the header behind a file of this length is."""
    return _BLOCK if header[156] in _NO_DATA else _BLOCK + -(-length // _BLOCK) * _BLOCK


def _all_sound(data: bytes, place: int, end: int) -> bool:
    """Whether all headers between two places are sound; all of them are known to have a size."""
    while place < end:
        header = data[place : place + _BLOCK]
        if not _sound(header):
            return False
        place += _stride(header, _number(header[124:136]))
    return True


def _sound(header: bytes) -> bool:
    """Whether a header has the sum that it says; as tarfile has it, old writers took bytes for signed.

    Example:
        >>> import tarfile
        >>> header = tarfile.TarInfo("0.txt").tobuf()
        >>> _sound(header), _sound(b"1" + header[1:])
        (True, False)
    """
    rest = header[:148] + b"        " + header[156:]
    try:
        said = _number(header[148:156])
    except ValueError:
        return False
    return said == sum(rest) or said == sum(byte - 256 * (byte > 127) for byte in rest)


class TarReading:
    """The stages of a pipeline that read tar files, with a look at each shard's end.

    Args:
        policy: what to do with a bad shard.
        lenient: the user's pipeline has a handler that goes on behind errors: then what is found is only said.
    """

    def __init__(self, policy: Policy, lenient: bool) -> None:
        self.policy, self._lenient = policy, lenient
        self.url = ""
        self._walk: Walk | None = None
        self.broken: set[str] = set()

    def run(self, invoke: Invoke, stage: Any, stream: Iterator[Any]) -> Iterator[Any]:
        """One stage."""
        name = stage_name(stage)
        if self.policy.skips:
            stage = self._skipping(stage)
        if name == _ALL_IN_ONE:
            return self._samples(stage, stream)
        if name == _EXPANDS:
            return self._named(self._files(iter(invoke(stage, self._opened(stream)))))
        if name == _GROUPS:
            return self._whole(iter(invoke(stage, stream)))
        return self._named(iter(invoke(stage, self._urls(stream))))

    def _samples(self, stage: Any, stream: Iterator[Any]) -> Iterator[Any]:
        from webdataset.tariterators import group_by_keys, tar_file_expander, url_opener

        bound = signature(stage.f).bind(stream, *stage.args, **stage.kw)
        bound.apply_defaults()
        given = dict(bound.arguments)
        source, handler = given.pop(next(iter(given))), given.get("handler")
        opened = self._opened(url_opener(self._urls(source), handler=handler))
        files = self._named(self._files(tar_file_expander(opened, **given)))
        return self._whole(group_by_keys(files, handler=handler))

    def _urls(self, stream: Iterator[Any]) -> Iterator[Any]:
        """What is opened next, for the error's sake."""
        for source in stream:
            if isinstance(source, dict) and isinstance(source.get("url"), str):
                self.url = source["url"]
            yield source

    def _opened(self, stream: Iterator[Any]) -> Iterator[Any]:
        for source in stream:
            self.url, self._walk = str(source["url"]), Walk(source["stream"])
            self.broken.discard(self.url)
            reads(location(self.url).encode())
            yield {**source, "stream": self._walk}

    def _files(self, files: Iterator[Any]) -> Iterator[Any]:
        for file in files:
            if not file:  # the mark at the end of a shard
                self._look_at_end()
            yield file

    def _look_at_end(self) -> None:
        walk = self._walk
        if walk is None:
            return
        where = location(self.url)
        if walk.ended is False:
            error = SourceError(
                f"Shard {where} is broken: what is behind that place cannot be read.",
                found=f"no header of a tar file, nor its end, within the first {walk.size:,} bytes",
                expected="headers whose sums are right, up to two blocks of zeros",
                do="write or copy it again (a bit was flipped, it was cut, or its writer was never closed); "
                'on_bad_shard="skip" leaves the rest of it out',
            )
            self._meet(error)
        tell({"shard": where, "ends": walk.ends()})

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
            with naming(location(self.url), secret=self.url.startswith("pipe:")):
                raise error

    def _skipping(self, stage: Any) -> Any:
        """A copy of a stage of webdataset's whose handler leaves the shard out, if it has none of the user's."""
        takes = hasattr(stage, "f") and "handler" in signature(stage.f).parameters
        if takes and not stage.args and _reraises(stage.kw.get("handler")):
            stage = copy(stage)
            stage.kw = {**stage.kw, "handler": self.handle}
        elif not takes and _reraises(getattr(stage, "handler", self)):
            stage = copy(stage)
            stage.handler = self.handle
        return stage

    def handle(self, error: Exception) -> bool:
        """A handler for webdataset: go on behind the shard."""
        try:
            with naming(location(self.url), secret=self.url.startswith("pipe:")):
                raise error
        except SourceError as named:
            self._meet(named)
        return True


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
