"""The one connection to a Redis or Valkey server, and the only file that knows its client library."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Any, TypeAlias

from weighted_stream.errors import StoreError, missing_extra
from weighted_stream.store.shared_address import Address
from weighted_stream.store.shared_scripts import SCRIPTS

Command: TypeAlias = tuple[bytes | str | int, ...]

MOST_BYTES = 64 << 20
"""Of the replies to one exchange; a server that sends more is not ours."""


class Unreachable(Exception):
    """The server cannot be reached now, or not be used. Its text holds no secret.

    Attributes:
        refused: whether it is there but refuses (a password, a permission, a command): waiting may not help.
    """

    def __init__(self, text: str, *, refused: bool = False) -> None:
        super().__init__(text)
        self.refused = refused


class Server:
    """Sends commands, several at once, and bounds what comes back. One thread at a time.

    Every failure closes the connection; the next exchange opens a new one. Nothing is tried twice here.

    Args:
        address: where it is.
        timeout: seconds to wait for a connection, and for each reply.

    Raises:
        MissingExtraError: if the package ``redis`` is not installed.
    """

    def __init__(self, address: Address, timeout: float) -> None:
        try:
            from redis import connection, exceptions
        except ImportError as error:
            raise missing_extra("redis", "redis") from error
        self.address = address
        self._timeout = timeout
        self._connection: Any = None
        self._digests: dict[str, Any] = {}
        self._refusal = exceptions.ResponseError
        self._denials = (exceptions.AuthenticationError, exceptions.NoPermissionError)
        if not address.port:
            self._kind = _bounded(connection.UnixDomainSocketConnection)
        else:
            self._kind = _bounded(connection.SSLConnection if address.tls else connection.Connection)

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    def connect(self) -> None:
        """Open a connection, and tell the server the scripts.

        Raises:
            Unreachable: if that fails.
        """
        self.close()
        address = self.address
        where: dict[str, Any] = {"path": address.host} if not address.port else {}
        if address.port:
            where = {"host": address.host, "port": address.port}
        if address.tls:
            where |= {
                "ssl_ca_certs": address.ca_file,
                "ssl_certfile": address.cert_file,
                "ssl_keyfile": address.key_file,
                "ssl_cert_reqs": "required",
                "ssl_check_hostname": True,
                "ssl_min_version": ssl.TLSVersion.TLSv1_2,
            }
        try:
            self._connection = self._kind(
                **where,
                db=address.database,
                username=address.username,
                password=address.password,
                socket_timeout=self._timeout,
                socket_connect_timeout=self._timeout,
                protocol=2,  # 3 would send the password along with a command that old servers repeat in their error
            )
            self._connection.connect()
        except Exception as error:  # what the client library makes of a stranger's answer may be anything
            self._fail(error)
        digests = self.exchange([("SCRIPT", "LOAD", text) for text in SCRIPTS.values()])
        self._digests = dict(zip(SCRIPTS, digests, strict=True))

    def script(self, name: str, keys: Sequence[str], *arguments: bytes | str | int) -> Command:
        """The command that runs one of `SCRIPTS`."""
        return ("EVALSHA", self._digests.get(name, b""), len(keys), *keys, *arguments)

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands together, and take their replies.

        Returns:
            One reply per command: bytes, int, None or a list of these.

        Raises:
            Unreachable: if the connection fails, or any of the commands is refused.
        """
        line = self._connection
        if line is None:
            raise Unreachable("there is no connection")
        refused: Exception | None = None
        try:
            line.allow(MOST_BYTES)
            line.send_packed_command(line.pack_commands(commands), check_health=False)
            replies = []
            for _ in commands:
                try:
                    replies.append(line.read_response(disable_decoding=True))
                except self._refusal as error:
                    refused = refused or error
        except Exception as error:
            self._fail(error)
        except BaseException:
            self.close()  # half an exchange: what comes now would be taken for other replies
            raise
        if refused is not None:
            self._fail(refused)
        return replies

    def close(self) -> None:
        """Close the connection, if there is one."""
        line, self._connection = self._connection, None
        if line is not None:
            line.disconnect()

    def _fail(self, error: Exception) -> None:
        self.close()
        text = self.address.scrubbed(f"{type(error).__name__}: {error}")
        certificate = isinstance(error.__cause__ or error.__context__, ssl.SSLCertVerificationError)
        raise Unreachable(text, refused=isinstance(error, self._denials) or certificate) from None


class _BoundedSocket:
    """A socket from which no more is read than allowed."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self.allowed = MOST_BYTES

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def recv(self, size: int) -> bytes:
        data: bytes = self._socket.recv(size)
        self._count(len(data))
        return data

    def recv_into(self, buffer: Any, *arguments: Any) -> int:
        count: int = self._socket.recv_into(buffer, *arguments)
        self._count(count)
        return count

    def _count(self, size: int) -> None:
        self.allowed -= size
        if self.allowed < 0:
            raise OSError(f"the server sends more than {MOST_BYTES >> 20} MiB at once")


def _bounded(kind: Any) -> Any:
    class Bounded(kind):  # type: ignore[misc]
        def _connect(self) -> Any:
            self._bounded = _BoundedSocket(super()._connect())
            return self._bounded

        def allow(self, size: int) -> None:
            self._bounded.allowed = size

    return Bounded


def unreachable(address: Address, error: Unreachable, waited: float) -> StoreError:
    """The error for a server that is needed now."""
    return StoreError(
        f"The shared store at {address} cannot be used.",
        found=f"{error}" + ("" if error.refused else f", for {waited:.0f} seconds"),
        expected="a Redis or Valkey server that answers there, and lets us in",
        do="check address, user, password and certificate; must_connect=False begins with what is known here, and "
        "goes on trying",
    )
