"""Members of tar files: the same as webdataset's own stage yields, and where reading stopped."""

from __future__ import annotations

import bz2
import contextlib
import gc
import gzip
import io
import lzma
import random
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.handlers import reraise_exception
from webdataset.tariterators import tar_file_expander

from weighted_stream import Uniform, WeightedStream
from weighted_stream.sources.webdataset_tars import TarStream, members

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


class Trickle:
    """A pipe that gives less than it is asked for."""

    def __init__(self, data: bytes, seed: int, most: int) -> None:
        self._data, self._rng, self._most = io.BytesIO(data), random.Random(seed), most

    def read(self, size: int) -> bytes:
        return self._data.read(min(size, self._rng.randint(1, self._most)))


def tar(sizes: list[int], form: str = "ustar", mode: str = "w", odd: bool = False, name: str = "{:04}.txt") -> bytes:
    """A tar file; ``odd``: with what is no sample in between."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=FORMATS[form]) as file:  # type: ignore[call-overload]
        for number, size in enumerate(sizes):
            if odd:
                for kind, other in (
                    (tarfile.DIRTYPE, f"d{number}"),
                    (tarfile.SYMTYPE, f"l{number}"),
                    (tarfile.LNKTYPE, f"h{number}"),
                    (tarfile.REGTYPE, "__meta__"),
                    (tarfile.REGTYPE, f"__x__/{number}"),
                ):
                    info = tarfile.TarInfo(other)
                    info.type, info.linkname = kind, name.format(0)
                    file.addfile(info)
            info = tarfile.TarInfo(name.format(number))
            info.size = size
            file.addfile(info, io.BytesIO(random.Random(number).randbytes(size)))
    return out.getvalue()


def ours(data: Any, select: Any = None, rename: Any = None, **more: Any) -> tuple[list[Any], bool]:
    stream = TarStream(io.BytesIO(data) if isinstance(data, bytes) else data)
    found = list(members(stream, {"url": "a.tar", **more}, reraise_exception, select, rename))
    return found, stream.ended


def theirs(data: bytes, select: Any = None, rename: Any = None, **more: Any) -> list[Any]:
    source = {"url": "a.tar", "stream": io.BytesIO(data), **more}
    return list(tar_file_expander([source], select_files=select, rename_files=rename, eof_value=None))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("form", FORMATS)
def test_the_same_members_as_webdatasets(form: str, mode: str) -> None:
    data = tar([0, 1, 511, 512, 513, 30_000, 0, 7], form, mode, odd=True)
    for arguments in (
        {},
        {"local_path": "/x/a.tar"},
        {"select": lambda name: name > "0003"},
        {"rename": lambda name: name.replace("txt", "md"), "select": lambda name: name.endswith("2.md")},
    ):
        found, ended = ours(data, **arguments)
        assert found
        assert found == theirs(data, **arguments)
        assert ended


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_long_names(form: str) -> None:
    data = tar([3, 600], form, name="x" * 300 + "/{:04}.txt")
    assert ours(data) == (theirs(data), True)


def test_a_name_that_looks_like_a_compressed_file() -> None:
    data = tar([3, 600], name="BZh{}")
    assert ours(data) == (theirs(data), True)
    data = data[:1024] + b"?" + data[1025:]
    assert ours(data) == (theirs(data), False)


@pytest.mark.parametrize("size", [-5, -(1 << 40), 1 << 40])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_header_that_says_an_odd_size(size: int, pack: Any) -> None:
    info = tarfile.TarInfo("0001.txt")
    info.size = size
    data = pack(tar([40])[:1024] + info.tobuf(tarfile.GNU_FORMAT) + b"x" * 1024 + bytes(1024))

    def read(files: Any) -> tuple[list[bytes], str]:
        found = []
        try:
            for file in files:
                found.append(file["data"])
        except tarfile.TarError as error:
            return found, type(error).__name__
        return found, "no error"

    stream = TarStream(io.BytesIO(data))
    mine = read(members(stream, {"url": "a.tar"}, reraise_exception, None, None))
    assert mine == read(tar_file_expander([{"url": "a.tar", "stream": io.BytesIO(data)}], eof_value=None))
    assert not stream.ended


@pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar writes sparse files")
@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_files_with_holes(tmp_path: Path, form: str) -> None:
    with (tmp_path / "0.bin").open("wb") as file:
        file.seek(300_000)
        file.write(b"behind a hole")
    (tmp_path / "1.bin").write_bytes(b"no hole")
    command = ["tar", "--sparse", f"--format={form}", "-cf", "a.tar", "0.bin", "1.bin"]
    subprocess.run(command, cwd=tmp_path, check=True)
    data = (tmp_path / "a.tar").read_bytes()
    assert len(data) < 100_000
    found, ended = ours(data)
    assert [file["data"] for file in found] == [bytes(300_000) + b"behind a hole", b"no hole"]
    assert (found, ended) == (theirs(data), True)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=12), st.integers(1, 12_000), st.integers(0, 9), st.data())
def test_the_end_is_known_however_the_bytes_come(sizes: list[int], most: int, seed: int, data: st.DataObject) -> None:
    whole = tar(sizes)
    expected = theirs(whole)
    assert ours(Trickle(whole, seed, most)) == (expected, True)
    begins = [sum(512 + -(-size // 512) * 512 for size in sizes[:n]) for n in range(len(sizes))]
    if len(sizes) > 1:  # a flipped bit in any header but the first: an end, for Python's tarfile
        last = data.draw(st.integers(1, len(sizes) - 1))
        broken = bytearray(whole)
        broken[begins[last] + data.draw(st.integers(0, 147))] ^= 4
        assert ours(Trickle(bytes(broken), seed, most)) == (expected[:last], False)
    cut = sum(512 + -(-size // 512) * 512 for size in sizes)
    assert ours(Trickle(whole[:cut], seed, most)) == (expected, False)  # no writer's end
    assert ours(Trickle(whole[: cut + 100], seed, most)) == (expected, False)


PACKS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("kind", PACKS)
def test_a_compressed_file_that_was_cut_anywhere(kind: str) -> None:
    """tarfile looks neither at the end of such a stream nor, of gzip, at its sum."""
    pack = PACKS[kind]
    data = pack(tar([700] * 8))
    assert ours(data)[1]
    for size in range(3, len(data) - 8, 29):  # the last eight bytes of gzip are no data
        try:
            ended = ours(data[:size])[1]
        except Exception:
            continue  # which names the shard
        assert not ended, size
    assert not ours(pack(tar([700] * 8)[: 8 * 1536]))[1]  # its writer was never closed
    half, other = tar([700] * 8)[:3072], tar([700] * 8)[3072:]
    with contextlib.suppress(EOFError):
        assert not ours(pack(half) + pack(other))[1]  # of two, tarfile reads one
    assert ours(pack(tar([700] * 8)) + b"more")[1]
    assert ours(pack(tar([700] * 8) + bytes(1 << 21)))[1]
    assert ours(pack(bytes(10_240))) == ([], True)


def test_a_compressed_file_that_was_cut_between_two_members() -> None:
    """All that is left unpacks, to the last byte before a header."""
    data = tar([700] * 4)
    packer, packed = zlib.compressobj(wbits=31), b""
    for begin in range(0, len(data), 512):
        if begin:
            with contextlib.suppress(tarfile.TarError):
                assert not ours(packed)[1], begin
        packed += packer.compress(data[begin : begin + 512]) + packer.flush(zlib.Z_FULL_FLUSH)
    assert not ours(packed)[1]
    assert ours(packed + packer.flush()) == (theirs(data), True)


def test_a_handler_decides() -> None:
    data = tar([10, 10, 10])

    def rename(name: str) -> str:
        if name == "0001.txt":
            raise ValueError("no")
        return name

    heard: list[str] = []
    for goes_on, count, ended in ((True, 2, True), (False, 1, False)):
        stream = TarStream(io.BytesIO(data))
        handler = Answer(goes_on, heard)
        found = list(members(stream, {"url": "a.tar"}, handler, None, rename))
        assert (len(found), stream.ended) == (count, ended)
    assert heard == ["no", "no"]
    with pytest.raises(ValueError, match="no"):
        list(members(TarStream(io.BytesIO(data)), {"url": "a.tar"}, reraise_exception, None, rename))


def test_a_handler_of_the_users_hears_of_the_shard(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar([10, 3000, 3000])[:3000])
    heard: list[str] = []
    data = webdataset.WebDataset(f"pipe:cat {path} # token=1", shardshuffle=False, handler=Answer(True, heard))
    stream = WeightedStream(data, Uniform())
    assert len(list(stream.loader(batch_size=1, collate_fn=list))) == 1
    assert heard == [f"('unexpected end of data', '{path}')"] * 2


class Answer:
    """A handler, and what it was told."""

    def __init__(self, goes_on: bool, heard: list[str]) -> None:
        self.goes_on, self.heard = goes_on, heard

    def __call__(self, error: Exception) -> bool:
        self.heard.append(str(error))
        return self.goes_on


def test_what_is_no_tar_file() -> None:
    for data in (b"", b"no tar file at all" * 99, tar([5000])[:3000], tar([9])[:100]):
        with pytest.raises(tarfile.TarError):
            ours(data)


def test_members_are_not_kept() -> None:
    kept = []

    class Counted(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            kept.append(sum(type(one) is tarfile.TarInfo for one in gc.get_objects()))
            return super().read(size)

    list(members(TarStream(Counted(tar([0] * 200, odd=True))), {"url": "a.tar"}, reraise_exception, None, None))
    assert len(kept) > 50
    assert max(kept) < 10
