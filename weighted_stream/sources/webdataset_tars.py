"""The members of tar files, as webdataset's ``tar_file_expander`` yields them, and whether they were all.

webdataset keeps the ``TarFile`` to itself, so nobody behind it can tell the end of a shard from a header with a flipped
bit: Python's tarfile takes both for the end, without an error, and as well the place where a compressed file was cut.
Here the place where it stopped is looked at.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, cast

from weighted_stream.sources.bad_shards import END, ends

Handler = Callable[[Exception], bool]
"""What webdataset asks whether to go on behind an error."""

_BLOCK = 512
_BEHIND = 1 << 20
"""So many bytes behind the end of a tar file are unpacked to see that of the compressed one; writers add fewer."""

_IS_ABOUT_THE_SHARD = re.compile(r"__[^/]*__($|/)")
"""Names that webdataset passes over."""


class TarStream:
    """A stream of a tar file, of which the first and the last bytes are remembered.

    Args:
        stream: what tarfile would read.

    Attributes:
        size: bytes read so far.
        ended: whether reading stopped at the end that a writer makes, blocks of zeros, of a compressed file also at its
            own end. The sum that gzip keeps is looked at by nobody; bzip2 and xz look at theirs themselves.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.size = 0
        self.ended = False
        self._first, self._before, self._last = b"", b"", b""

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data: bytes = self._stream.read(size)
        if len(self._last) < _BLOCK:  # a pipe gives what it has
            self._last += data
        elif data:
            self._before, self._last = self._last, data
        if self.size < END:
            self._first = (self._first + data)[:END]
        self.size += len(data)
        return data

    def stop(self, place: int) -> None:
        """Reading stopped: what begins at this place is no member."""
        kept = self._before + self._last
        begin = place - (self.size - len(kept))
        self.ended = begin >= 0 and kept[begin : begin + _BLOCK] == bytes(_BLOCK)

    def ends(self) -> str:
        """What it looks like from outside, by which copies are known."""
        return ends(self.size, self._first, self._last)

    def __getattr__(self, name: str) -> Any:
        if name == "_stream":
            raise AttributeError(name)
        return getattr(self._stream, name)


class Unpacked:
    """What tarfile reads of a compressed stream: it stands in for tarfile's own stream, and remembers the last block.

    Args:
        tar: open, in stream mode.
    """

    def __init__(self, tar: tarfile.TarFile) -> None:
        opened: Any = tar
        self._stream = opened.fileobj
        self.seek, self.tell = self._stream.seek, self._stream.tell
        # The first header has been read already; without an error there is none only if it is zeros.
        self._last = b"" if opened.firstmember is not None else bytes(_BLOCK)
        opened.fileobj = self

    def read(self, size: int) -> bytes:
        """The next bytes, unpacked."""
        self._last = self._stream.read(size)
        return self._last

    def ends(self) -> bool:
        """Whether the block read last is zeros, and the compressed file goes on to its own end.

        Raises:
            tarfile.TarError: if what is left of it cannot be unpacked.
        """
        if self._last != bytes(_BLOCK):
            return False
        packed, left = self._stream.cmp, _BEHIND
        with suppress(EOFError):  # bzip2 and xz, of what stands behind their end
            while left > 0 and not packed.eof:
                data = self._stream.read(_BLOCK)
                if not data:
                    break
                left -= len(data)
        return bool(packed.eof) or left <= 0

    def __getattr__(self, name: str) -> Any:
        if name == "_stream":
            raise AttributeError(name)
        return getattr(self._stream, name)


def members(
    stream: TarStream,
    source: dict[str, Any],
    handler: Handler,
    select_files: Callable[[str], bool] | None,
    rename_files: Callable[[str], str] | None,
) -> Iterator[dict[str, Any]]:
    """The files in a tar file: ``fname``, ``data`` (bytes), ``__url__`` and, if there is one, ``__local_path__``.

    Args:
        stream: of the tar file; told where reading stopped.
        source: its ``url`` and perhaps ``local_path``.
        handler: asked about an error of one member.
        select_files: which names to read; None: all.
        rename_files: gives members other names, before they are selected.

    Raises:
        tarfile.TarError: if the stream is no tar file, or is cut within a member.
    """
    more = {"__url__": source["url"]}
    if source.get("local_path") is not None:
        more["__local_path__"] = source["local_path"]
    tar = tarfile.open(fileobj=cast("Any", stream), mode="r|*")  # noqa: SIM115  closing it would close nothing
    unpacked = Unpacked(tar) if getattr(tar.fileobj, "comptype", "tar") != "tar" else None
    for info in tar:
        name = info.name
        try:
            if not info.isreg() or _IS_ABOUT_THE_SHARD.match(name):
                continue
            if rename_files:
                name = rename_files(name)
            if select_files is not None and not select_files(name):
                continue
            yield {"fname": name, "data": _content(tar, info), **more}
        except Exception as error:
            if not handler(error):
                return
        finally:
            tar.members = []  # type: ignore[attr-defined]  # they would all be kept
    if unpacked is None:
        stream.stop(tar.offset)
    else:
        stream.ended = unpacked.ends()


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    """What a regular file holds, from the stream itself: an object for each file would take a tenth of the time."""
    if info.issparse():
        file = tar.extractfile(info)
        assert file is not None  # it is a regular one
        return file.read()
    stream: Any = tar.fileobj
    stream.seek(info.offset_data)
    data: bytes = stream.read(max(info.size, 0))  # a header may say anything
    if len(data) < info.size:
        raise tarfile.ReadError("unexpected end of data")
    return data
