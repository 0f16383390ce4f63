"""Names of shards that stay when a dataset moves to another folder, gets other credentials, or grows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from hashlib import blake2b
from urllib.parse import urlsplit

_REMOTE = re.compile(r"[A-Za-z][\w+.-]+:/")
_URL_IN_COMMAND = re.compile(r"[A-Za-z][\w+.-]+://[^\s'\"|;&<>]+")
_TAR = re.compile(r"\.(?:tar|tgz)\b")
_TAR_IN_COMMAND = re.compile(r"[^\s'\"|;&<>=]+\.(?:tar|tgz)\b[^\s'\"|;&<>]*")
_CLAIMED = re.compile(r"\._\d+_$")  # a process reading a directory of shards puts its pid behind the name


def location(url: str) -> str:
    """Where a shard lies, without what may change: credentials, query, fragment, the command of ``pipe:``.

    Local paths are made absolute. Of a ``pipe:`` the url of a tar file counts, else the first url or tar file that its
    command names; a command that names none is known by a hash of it, as nobody knows what is secret in it.

    Example:
        >>> location("https://me:secret@host/data/00001.tar?token=abc")
        'https://host/data/00001.tar'
        >>> location("pipe:aws s3 cp s3://bucket/00001.tar -")
        's3://bucket/00001.tar'
        >>> location("file:/data/00001.tar")
        '/data/00001.tar'
    """
    if url.startswith("pipe:"):
        command = url.removeprefix("pipe:")
        urls = _URL_IN_COMMAND.findall(command)
        named = [url for url in urls if _TAR.search(urlsplit(url).path)] or urls or _TAR_IN_COMMAND.findall(command)
        return location(named[0]) if named else f"pipe:{blake2b(command.encode(), digest_size=8).hexdigest()}"
    if url.startswith("file:"):
        url = urlsplit(url).path
    if not _REMOTE.match(url):
        return os.path.abspath(_CLAIMED.sub("", url))
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if host else f"{parts.scheme}:{parts.path}"


def is_local(where: str) -> bool:
    """Whether a `location` is a path of this machine."""
    return os.path.isabs(where)


def tail(where: str, depth: int) -> str:
    """The last ``depth`` components of a `location`.

    Example:
        >>> tail("/data/c4/train/", 2)
        'c4/train'
    """
    return "/".join([part for part in where.replace(os.sep, "/").split("/") if part][-depth:])


def depth_needed(locations: Iterable[str]) -> int:
    """The fewest trailing components that tell these locations apart.

    Example:
        >>> depth_needed(["/a/000.tar", "/a/001.tar"]), depth_needed(["/a/000.tar", "/b/000.tar"])
        (1, 2)
    """
    distinct = set(locations)
    deepest = max((where.count("/") for where in distinct), default=0) + 1
    for depth in range(1, deepest):
        if len({tail(where, depth) for where in distinct}) == len(distinct):
            return depth
    return deepest


def shard_name(url: str, depth: int) -> str:
    """The name of a shard: all of a remote `location`, the last ``depth`` components of a local one.

    Example:
        >>> shard_name("/data/train/00001.tar", 1), shard_name("s3://bucket/00001.tar", 1)
        ('00001.tar', 's3://bucket/00001.tar')
    """
    where = location(url)
    return tail(where, depth) if is_local(where) else where
