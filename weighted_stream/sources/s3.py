"""Objects in S3-compatible storage: read by range through pyarrow, tried again within bounds, never cut short."""

from __future__ import annotations

import io
import os
import random
import re
import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

from weighted_stream.errors import SourceError, WeightedStreamError
from weighted_stream.sources.shard_names import location
from weighted_stream.sources.unreadable import without_credentials

T = TypeVar("T")

SCHEME = "s3://"

ATTEMPTS = 5
"""So often a request is made; each of them is up to three of the AWS client's own."""

FIRST_WAIT = 0.2
"""Seconds before the second attempt; each wait is twice the one before, give or take a half."""

BLOCK = 8 << 20
"""Bytes that are read at once of an object that is read from its beginning to its end."""

_ENDPOINT = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "S3_ENDPOINT_URL")
_REGION = ("AWS_REGION", "AWS_DEFAULT_REGION")
_IN_VAIN = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|INVALID_SIGNATURE|SIGNATURE_DOES_NOT_MATCH|HTTP status 40[0134]"
)


def is_s3(path: object) -> bool:
    """Whether this is the url of an object, a folder or a pattern in S3."""
    return isinstance(path, str) and path.startswith(SCHEME)


def s3_path(url: str) -> str:
    """``bucket/key`` of a url.

    Raises:
        SourceError: if it holds credentials or a query: neither would be used.

    Example:
        >>> s3_path("s3://bucket/c4/00001.parquet")
        'bucket/c4/00001.parquet'
    """
    parts = urlsplit(url)
    if "@" in parts.netloc or "?" in url or "#" in url:
        raise SourceError(
            f"There is more in the url of {location(url)} than bucket and key.",
            found="credentials, or a '?' or '#'",
            expected="s3://bucket/key",
            do="leave it out; credentials, region and endpoint come from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
            "AWS_REGION and AWS_ENDPOINT_URL, from ~/.aws, or from filesystem=",
        )
    return url.removeprefix(SCHEME).strip("/")


@dataclass(frozen=True)
class Storage:
    """Where objects lie: S3 as the environment says, or any `pyarrow.fs.FileSystem`.

    It pickles, and works in a process that was forked: there it makes connections of its own.

    Args:
        filesystem: None: S3, with credentials, region and endpoint from the usual variables (``AWS_ACCESS_KEY_ID``,
            ``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``, ``AWS_PROFILE``, ``AWS_REGION``, ``AWS_ENDPOINT_URL`` …),
            else from ``~/.aws`` or the machine's role.
    """

    filesystem: Any = None

    def connected(self) -> Any:
        """The file system, for this process."""
        if self.filesystem is not None:
            return _explicit(os.getpid(), self)
        endpoint = next((os.environ[name] for name in _ENDPOINT if os.environ.get(name)), None)
        region = next((os.environ[name] for name in _REGION if os.environ.get(name)), None)
        return _from_environment(os.getpid(), endpoint, region)

    def path(self, name: str) -> str:
        """The file system's own path for a url or a path."""
        return s3_path(name) if is_s3(name) else name

    def open(self, name: str) -> RemoteFile:
        """An object to be read.

        Raises:
            SourceError: if it is not there, or cannot be reached.
        """
        return RemoteFile(self, name)

    def __hash__(self) -> int:
        return id(self.filesystem)

    def __repr__(self) -> str:  # the default would show what a file system of the user's says of itself
        return f"Storage({'' if self.filesystem is None else type(self.filesystem).__name__})"


@lru_cache(maxsize=16)
def _explicit(process: int, storage: Storage) -> Any:
    return copy(storage.filesystem)  # a copy has connections of its own


@lru_cache(maxsize=16)
def _from_environment(process: int, endpoint: str | None, region: str | None) -> Any:
    try:
        from pyarrow.fs import S3FileSystem
    except ImportError as error:
        raise SourceError(
            "This pyarrow cannot read from S3.",
            found="no pyarrow.fs.S3FileSystem",
            expected="a pyarrow that was built with S3, as those from PyPI and conda-forge are",
            do="install pyarrow from there, or pass another filesystem=",
        ) from error
    # Where an endpoint is named, nobody is asked for a region: machines outside AWS would wait for an answer.
    return S3FileSystem(endpoint_override=endpoint, region=region or ("us-east-1" if endpoint else None))


class RemoteFile(io.RawIOBase):
    """An object, read like a file; what a request was to bring, it brings, or it is made again, or an error is raised.

    Args:
        storage: where it lies.
        name: its url or path.
        block: bytes that are read at least, for readers that go through it in small steps; 0: just what is asked for.

    Raises:
        SourceError: if it is not there, cannot be reached, or changes while it is read.
    """

    def __init__(self, storage: Storage, name: str, block: int = 0) -> None:
        super().__init__()
        self._storage, self._url, self._block = storage, name, block
        self._path = storage.path(name)
        self._file: Any = None
        self._place = 0
        self._held, self._held_from = b"", 0
        self.name = location(name) if "://" in name else name
        self._size = tried(self.name, self._open)

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def size(self) -> int:
        """In bytes."""
        return self._size

    def tell(self) -> int:
        """Where the next `read` begins."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move there."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        """The next ``size`` bytes, fewer at the end only; None or -1: all to the end."""
        left = max(0, self._size - self._place)
        wanted = left if size is None or size < 0 else min(size, left)
        found = self._from_held(wanted) if self._block else self._fetch(self._place, wanted)
        self._place += len(found)
        return found

    def readinto(self, buffer: Any) -> int:
        """`read` into a buffer; how many bytes."""
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        """Let go of it."""
        self._file, self._held = None, b""
        super().close()

    def __repr__(self) -> str:
        return f"<RemoteFile {self.name}>"

    def _from_held(self, wanted: int) -> bytes:
        pieces: list[bytes] = []
        place, end = self._place, self._place + wanted
        while place < end:
            if not self._held_from <= place < self._held_from + len(self._held):
                self._held = self._fetch(place, min(self._block, self._size - place))
                self._held_from = place
            piece = self._held[place - self._held_from : end - self._held_from]
            pieces.append(piece)
            place += len(piece)
        return b"".join(pieces)

    def _fetch(self, start: int, wanted: int) -> bytes:
        return tried(self.name, lambda: self._request(start, wanted)) if wanted else b""

    def _request(self, start: int, wanted: int) -> bytes:
        if self._file is None:
            self._same(self._open())
        try:
            found: bytes = self._file.read_at(wanted, start)
            if len(found) != wanted:
                raise OSError(f"{len(found)} of {wanted} bytes from byte {start} on")
        except OSError:
            self._file = None  # with a connection that may be broken
            raise
        return found

    def _open(self) -> int:
        self._file = self._storage.connected().open_input_file(self._path)
        return int(self._file.size())

    def _same(self, size: int) -> None:
        if size != self._size:
            raise SourceError(
                f"{self.name} has changed while it was read.",
                found=f"{size:,} bytes",
                expected=f"{self._size:,} bytes, as at the beginning",
                do="read it again; write new data to new objects",
            )


def tried(name: str, request: Callable[[], T]) -> T:
    """What a request brings, made up to `ATTEMPTS` times.

    Args:
        name: of what it is about, without credentials.
        request: raises OSError where it may work next time.

    Raises:
        SourceError: if it is not there, or none of the attempts was answered.
    """
    for attempt in range(ATTEMPTS):
        try:
            return request()
        except WeightedStreamError:
            raise
        except FileNotFoundError:
            raise _missing(name) from None
        except OSError as error:
            text = without_credentials(str(error))
            if attempt == ATTEMPTS - 1 or _IN_VAIN.search(text):
                raise _unreachable(name, text, attempt + 1) from None
            time.sleep(FIRST_WAIT * 2**attempt * random.uniform(0.5, 1.5))
    raise AssertionError("ATTEMPTS is at least 1")


def _missing(name: str) -> SourceError:
    return SourceError(
        f"There is no {name}.",
        found="no such object or bucket",
        expected="an object that is there and may be listed",
        do="check bucket and key, and AWS_ENDPOINT_URL if the storage is not Amazon's",
    )


def _unreachable(name: str, text: str, attempts: int) -> SourceError:
    return SourceError(
        f"Cannot read {name}.",
        found=f"{text}"[:500] + (f" (after {attempts} attempts)" if attempts > 1 else ""),
        expected="storage that answers, and lets these credentials read",
        do="check AWS_ENDPOINT_URL, AWS_REGION and the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE, ~/.aws), or pass "
        "filesystem=",
    )
