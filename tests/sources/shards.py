"""Small MDS and WebDataset shards on disk, whose samples carry a marker that tells who they are."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from at_once import AtOnce


def write_mds(root: Path, markers: Iterable[int], rows: int = 10, compression: str | None = None) -> Path:
    """An MDS dataset of shards with ``rows`` samples each: ``marker`` (int) and ``text``."""
    from streaming import MDSWriter

    infos = []
    for number, chunk in enumerate(chunks(markers, rows)):
        part = root / f"part{number}"
        columns = {"marker": "int", "text": "str"}
        with MDSWriter(out=str(part), columns=columns, compression=compression) as writer:
            for marker in chunk:
                writer.write({"marker": marker, "text": f"text {marker}"})
        info = json.loads((part / "index.json").read_text())["shards"][0]
        for kind in ("raw_data", "zip_data"):
            if info[kind]:
                old = info[kind]["basename"]
                info[kind]["basename"] = old.replace("00000", f"{number:05}")
                if (part / old).exists():
                    (part / old).rename(root / info[kind]["basename"])
        infos.append(info)
        (part / "index.json").unlink()
        part.rmdir()
    write_index(root, infos)
    return root


@contextmanager
def streaming_here() -> Iterator[None]:
    """Nothing of MosaicML streaming outlives a test: it leaves lock files in the temporary directory."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as here,
        pytest.MonkeyPatch.context() as patch,
        shared_memory_here(),
    ):
        patch.setattr(tempfile, "tempdir", here)
        yield


@contextmanager
def shared_memory_here() -> Iterator[None]:
    """End streaming's shared memory now: it lasts until the process ends, and each new dataset opens all of it."""
    from streaming.base.shared import memory

    here = AtOnce()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "atexit", here)
        yield
    here.clean()


def read_index(root: Path) -> list[dict[str, object]]:
    """The shards an MDS dataset's index lists."""
    shards: list[dict[str, object]] = json.loads((root / "index.json").read_text())["shards"]
    return shards


def write_index(root: Path, shards: list[dict[str, object]]) -> None:
    """Replace an MDS dataset's index."""
    (root / "index.json").write_text(json.dumps({"version": 2, "shards": shards}))


def write_tar(path: Path, markers: Iterable[int], name: str = "{:04}") -> str:
    """A WebDataset shard; keys count from 0 in each shard. Its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for row, marker in enumerate(markers):
            for suffix, value in (("cls", str(marker)), ("json", json.dumps({"marker": marker}))):
                data = value.encode()
                info = tarfile.TarInfo(f"{name.format(row)}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return str(path)


def write_tars(root: Path, markers: Iterable[int], rows: int = 10) -> list[str]:
    """WebDataset shards of ``rows`` samples each. Their paths."""
    return [write_tar(root / f"{number:05}.tar", chunk) for number, chunk in enumerate(chunks(markers, rows))]


def chunks(markers: Iterable[int], rows: int) -> Iterator[list[int]]:
    """The markers, ``rows`` at a time."""
    everything = list(markers)
    for start in range(0, len(everything), rows):
        yield everything[start : start + rows]
