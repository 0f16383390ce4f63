"""TLS, passwords that no text shows, and servers that are not what they should be."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import socket
import subprocess
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ports import free_port
from shared_servers import SharedServer

from weighted_stream import StoreError, WeightStore
from weighted_stream.cli import main
from weighted_stream.figures.following import Followed
from weighted_stream.store import shared_server
from weighted_stream.store.shared_address import PASSWORD, USERNAME, Address, is_address, parse_address
from weighted_stream.store.shared_server import Server, Unreachable
from weighted_stream.store.shared_store import SharedStore

SECRET = "s3cret/§ #x"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem signs server.pem (for 127.0.0.1); other.pem is somebody else's."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, to make certificates")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    for name in ("ca", "other"):
        openssl(*new, "-x509", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")
    openssl(*new[:-2], "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.csr")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(
        *("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-days", "2", "-extfile", "names", "-out", "server.pem"),
    )
    return folder


@pytest.fixture(scope="module")
def closed_server(tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Iterator[SharedServer]:
    """TLS and a password."""
    files = certificates / "server.pem", certificates / "server.key"
    with SharedServer(tmp_path_factory.mktemp("closed"), password=SECRET, tls=files) as server:
        yield server


def test_tls_and_password(closed_server: SharedServer, certificates: Path, tmp_path: Path) -> None:
    ca = certificates / "ca.pem"
    with SharedStore(closed_server.url, tmp_path / "local", ca_file=ca, every=0.02) as store:
        store.update([3], loss=[1.0], step=0)
        store.flush()
        with SharedStore(closed_server.url, ca_file=ca, every=0.02) as other:
            while other.get([3])["visits"][0] == 0:
                pass
        assert SECRET not in repr(store)
        assert SECRET not in store.url
        assert SECRET not in str(vars(store))
        copy = pickle.dumps(store)
        assert SECRET.encode() not in copy
    for file in (tmp_path / "local").rglob("*"):
        assert file.is_dir() or SECRET.encode() not in file.read_bytes()


def test_inspect_is_told_whom_to_trust(
    closed_server: SharedServer, certificates: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, ca = closed_server.url, str(certificates / "ca.pem")
    with SharedStore(url, name="seen", ca_file=ca) as store:
        store.update([3], loss=[1.0], step=0)
    assert main(["inspect", url, "--name", "seen", "--store-ca", ca]) == 0
    assert "visits: 1" in capsys.readouterr().out
    assert main(["inspect", url, "--name", "seen"]) == 1
    assert "cannot be used" in capsys.readouterr().err
    looks = []

    def once(followed: Followed, *_: Any, **__: Any) -> int:
        looks.append(followed.look())
        return 0

    monkeypatch.setattr("weighted_stream.cli.inspect.follow", once)
    assert main(["inspect", url, "--follow", "--name", "seen", "--store-ca", ca]) == 0
    assert looks[0].stats["visits"] == 1.0
    with pytest.raises(SystemExit, match="2"):
        main(["inspect", "shards", "--store-ca", ca])
    assert "--store-ca goes with the address of a shared store" in capsys.readouterr().err


@pytest.mark.parametrize("ca", ["other.pem", None])
def test_a_certificate_that_nobody_trusts(closed_server: SharedServer, certificates: Path, ca: str | None) -> None:
    with pytest.raises(StoreError, match="cannot be used") as caught:
        SharedStore(closed_server.url, ca_file=None if ca is None else certificates / ca, timeout=5.0)
    assert "certificate" in caught.value.found.lower()


def test_a_certificate_of_another_host(closed_server: SharedServer, certificates: Path) -> None:
    url = closed_server.url.replace("127.0.0.1", "localhost")
    with pytest.raises(StoreError, match="cannot be used") as caught:
        SharedStore(url, ca_file=certificates / "ca.pem", timeout=5.0)
    assert "localhost" in caught.value.found


def test_without_tls_it_is_refused(closed_server: SharedServer) -> None:
    with pytest.raises(StoreError, match="cannot be used"):
        SharedStore(closed_server.url.replace("rediss", "redis"), timeout=0.3)


@pytest.mark.parametrize("password", [SECRET[::-1], None])
def test_a_wrong_password_is_said_at_once_and_not_shown(
    tmp_path: Path, password: str | None, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with SharedServer(tmp_path, password=SECRET) as server, caplog.at_level(logging.DEBUG):
        url = f"redis://127.0.0.1:{server.port}"
        with pytest.raises(StoreError, match="cannot be used") as caught:
            SharedStore(url, password=password, timeout=30.0)
        text = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + caplog.text
        text += "".join(capfd.readouterr())
        assert "Authentication" in text
        assert password is None or password not in text
        SharedStore(url, password=SECRET).close()


def test_user_and_password_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = "user trainer on >other-secret ~weighted_stream:* +@all -@admin -@dangerous"
    with SharedServer(tmp_path, password=SECRET, options=[f"--{rules}"]) as server:
        monkeypatch.setenv(USERNAME, "trainer")
        monkeypatch.setenv(PASSWORD, "other-secret")
        with SharedStore(f"redis://127.0.0.1:{server.port}/0", every=0.02) as store:
            store.update([3], loss=[1.0], step=0)
            store.flush()


def test_an_environment_that_was_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `datasets` does in a `map` with processes."""
    monkeypatch.setattr(os, "environ", {USERNAME: "trainer", PASSWORD: "other-secret"})
    address = parse_address("redis://host")
    assert (address.username, address.password) == ("trainer", "other-secret")


def test_what_an_address_shows() -> None:
    address = parse_address(f"redis://me:{'p%40ss'}@[::1]:1234/7", environment={})
    assert (address.username, address.password, address.host, address.port, address.database) == (
        *("me", "p@ss", "::1", 1234, 7),
    )
    assert str(address) == "redis://[::1]:1234/7"
    assert "p@ss" not in repr(address)
    assert "me" not in repr(address).replace("username", "")
    assert address.scrubbed("AUTH me p@ss") == "AUTH me ***"
    assert str(parse_address("unix:///run/redis.sock?db=3", environment={})) == "unix:///run/redis.sock?db=3"
    assert is_address("valkeys://host")
    assert not is_address("s3://bucket")


@pytest.mark.parametrize(
    "url",
    [
        "run/weights",
        "http://:secret@host/0",
        "redis://:secret@/0",
        "redis://:secret@host:port/0",
        "redis://:secret@host/zero",
        "redis://:se/cret@host",
        "redis://:se#cret@host",
        "redis://:secret@host/0?ssl_cert_reqs=none",
        "redis://:secret@[::1",
        "unix://?db=0",
    ],
)
def test_no_address(url: str) -> None:
    with pytest.raises(StoreError, match="no address") as caught:
        SharedStore(url)
    assert "cret" not in "".join(traceback.format_exception(caught.value)).replace(url, "")
    assert "cret" not in str(caught.value)


def test_an_address_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="is a SharedStore") as caught:
        WeightStore("redis://:secret@host/0")
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_certificates_need_tls() -> None:
    with pytest.raises(StoreError, match="no address"):
        SharedStore("redis://host", ca_file="ca.pem")


@pytest.mark.parametrize("options", [{"name": "a b"}, {"name": "{x}"}, {"timeout": 0.0}, {"every": float("nan")}])
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match="cannot"):
        SharedStore("redis://host", **options)


class Impostor:
    """Answers every command with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with self._listener:
            while True:
                try:
                    line, _ = self._listener.accept()
                except OSError:
                    return
                threading.Thread(target=self._answer_all, args=(line,), daemon=True).start()

    def _answer_all(self, line: socket.socket) -> None:
        with line:
            try:
                while line.recv(65_536):
                    line.sendall(self._answer)
            except OSError:
                pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)


ANSWERS = {
    "nonsense": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "pickle": b"$%d\r\n%s\r\n" % (len(pickle.dumps(print)), pickle.dumps(print)),
    "much": b"$1000000000\r\n" + b"x" * (4 << 20),
    "endless": b"*100000000\r\n" + b"$-1\r\n" * (1 << 20),
    "deep": b"*1\r\n" * 100_000 + b":1\r\n",
    "numbers": b":5\r\n" * 8,
    "silent": b"",
    "password": b"-ERR unknown command 'AUTH', with args beginning with: 's3cret-in-error'\r\n",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_impostor_is_refused(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("redis")
    monkeypatch.setattr(shared_server, "MOST_BYTES", 8 << 20)
    with closing(Impostor(ANSWERS[answer])) as server, warnings.catch_warnings():
        with pytest.raises(StoreError) as caught:
            SharedStore(f"redis://:s3cret-in-error@127.0.0.1:{server.port}", timeout=0.4)
        assert caught.value.do
        assert "s3cret" not in "".join(traceback.format_exception(caught.value)).replace(
            "s3cret-in-error@127.0.0.1", ""
        )


def test_no_more_is_read_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("redis")
    monkeypatch.setattr(shared_server, "MOST_BYTES", 1 << 20)
    with closing(Impostor(b"$1000000000\r\n" + b"x" * (4 << 20))) as impostor:
        server = Server(Address("127.0.0.1", impostor.port, 0, tls=False), 5.0)
        with pytest.raises(Unreachable, match="more than 1 MiB"):
            server.connect()
        assert not server.connected


def _bad_slots(size: int) -> bytes:
    return b"\x11" * size


@pytest.mark.parametrize("damage", ["short", "wild", "many", "type"])
def test_records_that_cannot_be_end_sharing_not_training(damage: str, tmp_path: Path) -> None:
    """Somebody writes other things under our keys."""
    import redis

    with SharedServer(tmp_path) as server, SharedStore(server.url, every=0.02, follow=False) as writer:
        store = SharedStore(server.url, every=0.02)
        writer.update([3], loss=[1.0], step=0)
        writer.flush()
        with redis.Redis(port=server.port) as client:
            (key,) = [key for key in client.scan_iter() if key.rpartition(b":")[2].isdigit()]
            if damage == "type":
                client.delete(key)
                client.set(key, "x")
            else:
                value = {"short": _bad_slots(39), "wild": _bad_slots(40), "many": _bad_slots(40 * 300)}[damage]
                client.hset(key, (3).to_bytes(8, "little"), value)
            n = client.hincrby("weighted_stream:{weights}:meta", "changes", 1)
            entry = {"s": b"12345678", "t": b"87654321", "i": (3).to_bytes(8, "little")}
            client.xadd("weighted_stream:{weights}:changes", entry, id=f"{n}-0")
        end = threading.Event()
        while store._sharing.error is None and store._sharing._failures == 0:  # type: ignore[union-attr]
            assert not end.wait(0.01)
        with pytest.warns(RuntimeWarning, match="is gone|Nothing is shared any more"):
            store.update([4], loss=[2.0], step=1)
        assert store.get([4])["visits"].tolist() == [1]
        sharing, store._sharing = store._sharing, None
        assert sharing is not None
        sharing.close()
        store._ending.detach()
        store.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            writer.stats()
        if damage == "type":
            with redis.Redis(port=server.port) as client:
                client.delete(key)


def test_scratch_of_a_fork_does_not_touch_the_line(tmp_path: Path) -> None:
    """A worker that was forked off reads the local records, and sends nothing."""
    import os

    with SharedServer(tmp_path) as server, SharedStore(server.url, every=0.02) as store:
        store.update([3], loss=[1.0], step=0)
        store.flush()
        child = os.fork()
        if not child:
            fine = store.get([3])["visits"].tolist() == [1] and store.stats()["visits"] == 1.0
            os._exit(0 if fine else 1)
        assert os.waitpid(child, 0)[1] == 0
        store.update([3], loss=[1.0], step=1)
        store.flush()
        assert store.stats()["shared_outages"] == 0.0


def test_a_parquet_file_has_what_all_know(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    with (
        SharedServer(tmp_path) as server,
        SharedStore(server.url, every=0.02) as one,
        SharedStore(server.url, every=0.02) as two,
    ):
        one.update([3], loss=[1.0], step=0)
        two.update([3, 4], loss=[2.0, 2.0], step=0)
        two.flush()
        while one.get([3, 4])["visits"].sum() < 3:
            pass
        assert one.to_parquet(tmp_path / "all.parquet") == 2
        assert pq.read_table(tmp_path / "all.parquet").column("visits").to_pylist() == [2, 1]


def test_nobody_listens() -> None:
    pytest.importorskip("redis")
    with pytest.raises(StoreError, match="cannot be used") as caught:
        SharedStore(f"redis://127.0.0.1:{free_port()}", timeout=0.2)
    assert "refused" in caught.value.found


def test_an_open_store_stays_local(tmp_path: Path) -> None:
    """What leads back to the local store in another process knows nothing of the server."""
    with (
        SharedServer(tmp_path / "server", password=SECRET) as server,
        SharedStore(server.url, tmp_path / "local") as store,
    ):
        store.update(np.arange(3), loss=np.ones(3), step=0)
        copy = pickle.loads(pickle.dumps(store))
        assert type(copy) is WeightStore
        assert copy.get([2])["visits"].tolist() == [1]
