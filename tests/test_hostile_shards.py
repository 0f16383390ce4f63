"""Shards, files and indexes with code in them, or with names that point elsewhere: nothing of it runs, or gets out."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from weighted_stream import SourceError, Uniform, WeightedStream, trust_pickles

wds = pytest.importorskip("webdataset")

# webdataset closes no file that it has not read to its end.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning", "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)

FAILS = "would be unpickled"


class Payload:
    """Whoever unpickles it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return _leave, (str(self.path),)


def _leave(path: str) -> str:
    Path(path).write_text("code of a stranger ran here")
    return path


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    """The file that must not be there."""
    return tmp_path / "proof"


def payload(proof: Path, ending: str) -> bytes:
    """A real one, of the kind that a decoder for this ending reads."""
    if ending in ("pth", "pt"):
        torch.save(Payload(proof), buffer := io.BytesIO())
        return buffer.getvalue()
    data = pickle.dumps(Payload(proof))
    return gzip.compress(data) if ending.endswith("gz") else data


def write_tar(path: Path, members: dict[str, bytes], samples: int = 3) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in range(samples):
            for ending, data in members.items():
                info = tarfile.TarInfo(f"{number:04}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return str(path)


def read(data: Any, **options: Any) -> list[Any]:
    loader = WeightedStream(data, Uniform()).loader(**{"batch_size": None, **options})
    return [sample for sample, _ in loader]


def pipeline(url: str) -> Any:
    return wds.WebDataset(url, shardshuffle=False, empty_check=False)


def plain_stages(url: str, *later: Any) -> Any:
    return wds.DataPipeline(wds.SimpleShardList(url), wds.tarfile_to_samples(), *later)


ENDINGS = ["pyd", "pkl", "pickle", "pth", "pkl.gz", "a.pyd"]
DECODED: dict[str, Callable[[str], Any]] = {
    "decode": lambda url: pipeline(url).decode(),
    "decode images": lambda url: pipeline(url).decode("rgb"),
    "decode that goes on": lambda url: pipeline(url).decode(handler=wds.warn_and_continue),
    "decode the member": lambda url: pipeline(url).decode(only=["json", *ENDINGS]),
    "filters.decode": lambda url: plain_stages(url, wds.decode()),
    "behind shuffle and map": lambda url: pipeline(url).shuffle(10).map(as_it_is).decode(),
    "a mix": lambda url: wds.RandomMix([pipeline(url).decode()]),
    "a pipeline in a pipeline": lambda url: wds.DataPipeline(pipeline(url), wds.decode()),
    "xdecode": lambda url: pipeline(url).xdecode(must_decode=False),
    "a rename and xdecode": lambda url: pipeline(url).rename(**{"x.pyd": "pyd;a.pyd"}).xdecode(must_decode=False),
    "an unpacked name": lambda url: pipeline(url).decode(unpacked),
}
OF_PYD = ["pyd", "a.pyd"]  # all that xdecode unpickles
CASES = [
    *((kind, ending, 0) for kind in DECODED for ending in (OF_PYD if "xdecode" in kind else ENDINGS)),
    *(("decode", "pyd", 2), ("filters.decode", "pkl", 2), ("a mix", "pth", 2), ("xdecode", "pyd", 2)),
]


def as_it_is(sample: Any) -> Any:
    return sample


def unpacked(key: str, data: bytes) -> Any:
    """A user's handler that unpacks members."""
    return wds.autodecode.Continue(key + ".pyd", data) if key == ".hidden" else None


@pytest.mark.parametrize(("kind", "ending", "workers"), CASES)
def test_members_are_not_unpickled(kind: str, ending: str, workers: int, tmp_path: Path, proof: Path) -> None:
    url = write_tar(tmp_path / "0.tar", {"json": b"{}", ending: payload(proof, ending)})
    with pytest.raises(SourceError, match=FAILS) as error:
        read(DECODED[kind](url), num_workers=workers)
    assert "trust_pickles" in str(error.value)
    assert "0.tar" in str(error.value)
    assert not proof.exists()


def test_members_that_are_unpacked_to_pickles(tmp_path: Path, proof: Path) -> None:
    url = write_tar(tmp_path / "0.tar", {"json": b"{}", "hidden": payload(proof, "pyd")})
    with pytest.raises(wds.autodecode.DecodingError) as error:
        read(pipeline(url).decode(unpacked))
    assert isinstance(error.value.__cause__, SourceError)
    assert not proof.exists()


@pytest.mark.parametrize("id_fn", [None, "json"])
def test_with_ids_of_the_users(id_fn: Any, tmp_path: Path, proof: Path) -> None:
    url = write_tar(tmp_path / "0.tar", {"json": b"{}", "pyd": payload(proof, "pyd")})
    for data in (pipeline(url).decode(), wds.RandomMix([pipeline(url).decode()])):
        stream = WeightedStream(data, Uniform(), id_fn=id_fn)
        with pytest.raises(SourceError, match=FAILS):
            list(stream.loader(batch_size=None))
    assert not proof.exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_in_loaders(workers: int, tmp_path: Path, proof: Path) -> None:
    url = write_tar(tmp_path / "0.tar", {"json": b"{}", "pyd": payload(proof, "pyd")})
    for loader in (
        DataLoader(pipeline(url).decode(), batch_size=None, num_workers=workers),
        wds.WebLoader(pipeline(url).decode(), batch_size=None, num_workers=workers),
        wds.WebLoader(pipeline(url), batch_size=None, num_workers=workers).decode(),
    ):
        with pytest.raises(SourceError, match=FAILS):
            list(WeightedStream(loader, Uniform()))
    assert not proof.exists()


@pytest.mark.parametrize(
    "stage",
    [
        wds.map(pickle.loads),
        wds.map_dict(pyd=pickle.loads),
        wds.map_tuple(pickle.loads, None),
        wds.xdecode(foo=pickle.load),
        wds.xdecode(("*.foo", wds.filters.decode_pickle)),
        wds.decode(wds.autodecode.handle_extension("foo", wds.autodecode.unpickle_loads)),
        wds.map(partial(wds.map_dict, foo=pickle.loads)),
    ],
)
def test_stages_that_unpickle_are_refused_before_anything_is_read(stage: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="A stage of this WebDataset unpickles") as error:
        WeightedStream(plain_stages(str(tmp_path / "is not even there.tar"), stage), Uniform())
    assert "trust_pickles" in error.value.do


def test_a_cache_of_pickles_is_refused(tmp_path: Path) -> None:
    stage = object.__new__(wds.filters.LMDBCached)  # without a database, which needs a package
    stage.pickler = pickle
    with pytest.raises(SourceError, match="A stage of this WebDataset unpickles"):
        WeightedStream(plain_stages("a.tar", stage), Uniform())


@pytest.mark.parametrize("workers", [0, 2])
def test_who_trusts_the_shards_says_so(workers: int, tmp_path: Path) -> None:
    url = write_tar(tmp_path / "0.tar", {"json": b"{}", "pyd": pickle.dumps({"n": 1})})
    for data in (
        pipeline(url).decode(),
        plain_stages(url, wds.xdecode(must_decode=False)),
        wds.RandomMix([pipeline(url).decode()]),
    ):
        found = [sample["pyd"] for sample in read(trust_pickles(data), num_workers=workers)]
        assert found[:3] == [{"n": 1}] * 3


def test_trust_in_a_part_is_no_trust_in_another(tmp_path: Path, proof: Path) -> None:
    mine = write_tar(tmp_path / "0.tar", {"json": b"{}", "pyd": pickle.dumps(1)})
    found = write_tar(tmp_path / "1.tar", {"json": b"{}", "pyd": payload(proof, "pyd")})
    with pytest.raises(SourceError, match=r"1\.tar"):
        read(wds.RoundRobin([trust_pickles(pipeline(mine).decode()), pipeline(found).decode()]))
    assert not proof.exists()


def test_what_is_data_is_decoded_as_ever(tmp_path: Path) -> None:
    np.save(buffer := io.BytesIO(), np.arange(3))
    members = {
        "json": b'{"n": 1}',
        "txt": b"text",
        "npy": buffer.getvalue(),
        "cls": b"7",
        "json.gz": gzip.compress(b"[]"),
    }
    url = write_tar(tmp_path / "0.tar", members)
    expected, found = list(pipeline(url).decode()), read(pipeline(url).decode())
    assert [sample.pop("npy").tolist() for sample in found] == [sample.pop("npy").tolist() for sample in expected]
    assert found == expected
    assert found[0]["json.gz"] == []


def test_pickles_that_nobody_decodes_pass(tmp_path: Path, proof: Path) -> None:
    url = write_tar(tmp_path / "0.tar", {"json": b"{}", "pyd": payload(proof, "pyd")})
    for data in (pipeline(url), pipeline(url).decode(only="json")):
        assert [type(sample["pyd"]) for sample in read(data)] == [bytes] * 3
    assert not proof.exists()


def test_arrays_of_objects(tmp_path: Path, proof: Path) -> None:
    np.save(buffer := io.BytesIO(), np.array([Payload(proof)], object), allow_pickle=True)
    url = write_tar(tmp_path / "0.tar", {"npy": buffer.getvalue()})
    with pytest.raises(wds.autodecode.DecodingError):
        read(pipeline(url).decode())
    assert not proof.exists()


def test_the_payloads_are_real(tmp_path: Path, proof: Path) -> None:
    """Bare webdataset runs each of them, also with WDS_SECURE=1 through xdecode."""
    for ending in ("pyd", "pkl", "pickle", "pth", "pkl.gz"):
        url = write_tar(tmp_path / "0.tar", {ending: payload(proof, ending)})
        assert list(pipeline(url).decode())
        assert proof.exists(), ending
        proof.unlink()
