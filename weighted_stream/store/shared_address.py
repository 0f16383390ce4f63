"""Where a shared store is: an address whose secrets no text shows."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from weighted_stream.errors import StoreError

SCHEMES = {"redis": False, "rediss": True, "valkey": False, "valkeys": True, "unix": False}
"""What an address may begin with, and whether it is encrypted."""

USERNAME, PASSWORD = "WEIGHTED_STREAM_STORE_USERNAME", "WEIGHTED_STREAM_STORE_PASSWORD"
"""Environment variables that name the user and the password, where the address does not."""

_PORT = 6379


@dataclass(frozen=True)
class Address:
    """A server and one of its databases.

    Attributes:
        host: name or IP address; the path of a socket if ``port`` is 0.
        port: 0 for a socket of this machine.
        database: its number.
        tls: whether everything is encrypted, and the server's certificate checked.
        username, password: None if there are none.
        ca_file: whom to trust (PEM); None: whom the system trusts.
        cert_file, key_file: who we are, for servers that ask (PEM).
    """

    host: str
    port: int
    database: int
    tls: bool
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """Without user and password: for messages."""
        if not self.port:
            return f"unix://{self.host}?db={self.database}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis{'s' if self.tls else ''}://{host}:{self.port}/{self.database}"

    def scrubbed(self, text: object) -> str:
        """A text of others, which might repeat the password."""
        shown = str(text)[:500]
        return shown.replace(self.password, "***") if self.password else shown


def is_address(text: object) -> bool:
    """Whether this means a server, not a path.

    Example:
        >>> is_address("redis://localhost"), is_address("run/weights")
        (True, False)
    """
    return isinstance(text, str) and text.partition("://")[0].lower() in SCHEMES and "://" in text


def parse_address(
    url: str,
    *,
    username: str | None = None,
    password: str | None = None,
    ca_file: str | os.PathLike[str] | None = None,
    cert_file: str | os.PathLike[str] | None = None,
    key_file: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Address:
    """Read an address: ``redis[s]://[user[:password]@]host[:port][/database]`` or ``unix:///path?db=0``.

    User and password are those of the address, else the arguments, else those of the environment.

    Raises:
        StoreError: if it is none; the text does not show what stands before the ``@``.

    Example:
        >>> print(parse_address("rediss://trainer:secret@shared.example/2"))
        rediss://shared.example:6379/2
    """
    try:
        parts = urlsplit(url)
        scheme, tls = parts.scheme.lower(), SCHEMES.get(parts.scheme.lower())
        port = parts.port or _PORT
    except ValueError:
        raise _no_address("a port that is none, or brackets that do not close") from None
    if tls is None:
        raise _no_address(f"{parts.scheme}://…" if parts.scheme else "a text without a scheme")
    local = scheme == "unix"
    if parts.fragment or (parts.query and not local) or (local and not re.fullmatch("(db=[0-9]{1,4})?", parts.query)):
        raise _no_address("more behind the database (a password with / ? # or @ in it must be %-encoded)")
    database = parts.query[3:] if local else parts.path.strip("/")
    if not re.fullmatch("[0-9]{0,4}", database):
        raise _no_address("a database that is no number")
    if not (parts.path if local else parts.hostname):
        raise _no_address("no host")
    if not tls and (ca_file or cert_file or key_file):
        raise _no_address("certificates for an address without TLS", "rediss://… to encrypt")
    environment = os.environ if environment is None else environment  # the one of now: `datasets` puts another there
    given = _first(_unquoted(parts, "username"), username, environment.get(USERNAME))
    secret = _first(_unquoted(parts, "password"), password, environment.get(PASSWORD))
    files = tuple(None if file is None else os.fspath(file) for file in (ca_file, cert_file, key_file))
    host = unquote(parts.path) if local else str(parts.hostname)
    return Address(host, 0 if local else port, int(database or 0), tls, given, secret, *files)


def _first(*values: str | None) -> str | None:
    return next((value for value in values if value), None)


def _unquoted(parts: SplitResult, name: str) -> str | None:
    value = getattr(parts, name)
    return unquote(value) if value else None


def _no_address(
    found: str, expected: str = "redis://host:6379/0, rediss://host:6379/0 (with TLS) or unix:///path"
) -> StoreError:
    return StoreError(
        "This is no address of a shared store.",
        found=found,
        expected=expected,
        do=f"pass username= and password=, or set {USERNAME} and {PASSWORD}, to keep them out of the address",
    )
