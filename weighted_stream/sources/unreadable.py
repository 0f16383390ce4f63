"""The error for a shard that cannot be read: it names the shard, and shows no credentials."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from weighted_stream.errors import SourceError, WeightedStreamError
from weighted_stream.sources.shard_names import location

_URL = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"<>|;,()]+")
_SECRET = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
_LEAST = 8


def without_credentials(text: str) -> str:
    """A text without what may be secret: credentials and queries of urls, the keys in this process's environment.

    Example:
        >>> without_credentials("no access to https://me:secret@host/c4/00017.tar?token=abc")
        'no access to https://host/c4/00017.tar'
    """
    text = _URL.sub(lambda url: location(url.group()), text)
    for name in _SECRET:
        value = os.environ.get(name, "")
        if len(value) >= _LEAST:  # a word of a test's, such as "test", would be found everywhere
            text = text.replace(value, "***")
    return text


@contextmanager
def naming(name: str, *, secret: bool = False) -> Iterator[None]:
    """Turn whatever goes wrong while a shard is read into an error that names the shard.

    Errors of this library pass as they are.

    Args:
        name: of the shard.
        secret: whether the text of an error may hold credentials anywhere (the command of a ``pipe:``); those of urls
            are taken out always.

    Raises:
        SourceError: in place of the error. Where the error's text had something to hide, it is not chained.

    Example:
        >>> with naming("c4/00017.tar"):
        ...     raise OSError("no access to https://me:secret@host/c4/00017.tar?token=abc")
        Traceback (most recent call last):
        weighted_stream.errors.SourceError: Cannot read c4/00017.tar.
          found:    OSError: no access to https://host/c4/00017.tar
          expected: a whole shard that can be reached
          to do:    check its file and the access to it; write or copy it again if it is damaged
    """
    try:
        yield
    except WeightedStreamError:
        raise
    except Exception as error:
        text = without_credentials(str(error))
        kind = type(error).__name__
        unreadable = SourceError(
            f"Cannot read {name}.",
            found=kind if secret or not text else f"{kind}: {text}"[:500],
            expected="a whole shard that can be reached",
            do="check its file and the access to it; write or copy it again if it is damaged",
        )
        raise unreadable from (None if secret or text != str(error) else error)
