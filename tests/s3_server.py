"""A real S3 server on loopback, and a proxy in front of it that fails as it is told to."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

BUCKET = "data"
KEY_ID, SECRET = "AKIAWEIGHTEDSTREAM01", "very-s3cret-very-s3cret-very-s3cret"


@dataclass
class Faults:
    """What goes wrong with the next requests for objects (not with the listing of them).

    Attributes:
        refuse: so many are answered with ``status``.
        status: of these answers.
        cut: so many answers end in the middle of their body.
        asked: method and path of all requests.
        sent: body bytes of all answers to GET.
    """

    refuse: int = 0
    status: int = 503
    cut: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)
    sent: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, name: str) -> bool:
        """Whether one more is to go wrong."""
        with self.lock:
            left: int = getattr(self, name)
            setattr(self, name, max(0, left - 1))
            return left > 0


@dataclass
class S3:
    """The server.

    Attributes:
        endpoint: of the proxy.
        faults: of the proxy.
        direct: the server's own endpoint.
    """

    endpoint: str
    faults: Faults
    direct: str

    def put(self, key: str, body: bytes) -> str:
        """Store an object. Its url."""
        self._client().put_object(Bucket=BUCKET, Key=key, Body=body)
        return f"s3://{BUCKET}/{key}"

    def put_folder(self, folder: Path, key: str) -> str:
        """Store all files below a folder. The url of the folder."""
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                self.put(f"{key}/{file.relative_to(folder).as_posix()}", file.read_bytes())
        return f"s3://{BUCKET}/{key}"

    def delete(self, key: str) -> None:
        """Remove an object."""
        self._client().delete_object(Bucket=BUCKET, Key=key)

    def presigned(self, key: str) -> str:
        """An http url that anyone may read the object by."""
        params = {"Bucket": BUCKET, "Key": key}
        return str(self._client(self.endpoint).generate_presigned_url("get_object", Params=params))

    def _client(self, endpoint: str | None = None) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=endpoint or self.direct,
            region_name="us-east-1",
            aws_access_key_id=KEY_ID,
            aws_secret_access_key=SECRET,
        )


@contextmanager
def s3_server() -> Iterator[S3]:
    """Run it, with a bucket, and credentials and endpoint in the environment."""
    pytest.importorskip("moto.server")
    pytest.importorskip("boto3")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        faults = Faults()
        proxy = ThreadingHTTPServer(("127.0.0.1", 0), _proxy(host, port, faults))
        proxy.daemon_threads = True
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            s3 = S3(f"http://127.0.0.1:{proxy.server_address[1]}", faults, f"http://{host}:{port}")
            _forget(host, port)
            s3._client().create_bucket(Bucket=BUCKET)
            with pytest.MonkeyPatch.context() as patch:
                for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION"):
                    patch.delenv(name, raising=False)
                patch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
                patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
                patch.setenv("AWS_REGION", "us-east-1")
                patch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
                patch.setenv("S3_ENDPOINT_URL", s3.endpoint)  # MosaicML streaming's word for it
                yield s3
        finally:
            proxy.shutdown()
            proxy.server_close()
            thread.join()
    finally:
        server.stop()


def _forget(host: str, port: int) -> None:
    """What an earlier server of this process was given: moto keeps it."""
    connection = http.client.HTTPConnection(host, port, timeout=20)
    try:
        connection.request("POST", "/moto-api/reset")
        assert connection.getresponse().status == 200
    finally:
        connection.close()


def _proxy(host: str, port: int, faults: Faults) -> type[BaseHTTPRequestHandler]:
    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            faults.asked.append((self.command, self.path))
            of_object = "list-type" not in self.path
            if of_object and faults.take("refuse"):
                self._answer(faults.status, [], b"", 0)
                return
            upstream = http.client.HTTPConnection(host, port, timeout=20)
            try:
                upstream.request(self.command, self.path, headers=dict(self.headers))
                answer = upstream.getresponse()
                body = answer.read()
            finally:
                upstream.close()
            length = int(answer.headers.get("Content-Length") or len(body))
            cut = of_object and len(body) > 1 and answer.status < 300 and faults.take("cut")
            faults.sent += len(body)
            self._answer(answer.status, answer.getheaders(), body[: len(body) // 2] if cut else body, length)
            self.close_connection = self.close_connection or cut

        do_HEAD = do_GET

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, length: int) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

    return Proxy
