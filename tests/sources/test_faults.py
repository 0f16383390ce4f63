"""What is wrong with a shard is raised or said by its name, within the time-out: no short epoch, no hang."""

from __future__ import annotations

import gc
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shards import read_index, streaming_here, write_index, write_mds, write_tar

from weighted_stream import ParquetDataset, SourceError, Uniform, WeightedStream
from weighted_stream.sources.mds_checks import check_shard
from weighted_stream.sources.webdataset_reading import Walk

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:streaming"),
    # webdataset leaves closing its files to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*num_workers.*:UserWarning:webdataset"),
    pytest.mark.timeout(60),
]

SHARDS, ROWS = 4, 10
BAD = 2
"""The shard that is broken."""


class Format:
    """How shards of a kind are written, read and named."""

    def __init__(
        self, name: str, write: Callable[[Path], None], read: Callable[[Path], Any], file: str, **options: Any
    ):
        self.name, self.write, self.read, self.file, self.options = name, write, read, file, options

    def shard(self, folder: Path, number: int = BAD) -> Path:
        return folder / self.file.format(number)


def rows(number: int) -> list[int]:
    return list(range(number * ROWS, (number + 1) * ROWS))


def _write_mds(folder: Path) -> None:
    pytest.importorskip("streaming")
    write_mds(folder, range(SHARDS * ROWS))


def _write_mds_hashed(folder: Path) -> None:
    pytest.importorskip("streaming")
    from streaming.base.hashing import get_hash

    _write_mds(folder)
    index = read_index(folder)
    for shard in index:
        raw: Any = shard["raw_data"]
        raw["hashes"] = {"xxh64": get_hash("xxh64", (folder / raw["basename"]).read_bytes())}
    write_index(folder, index)


def _read_mds(folder: Path) -> Any:
    from streaming import StreamingDataset

    return StreamingDataset(local=str(folder), batch_size=4, shuffle=False)


def _write_tars(folder: Path) -> None:
    pytest.importorskip("webdataset")
    for number in range(SHARDS):
        write_tar(folder / f"{number:05}.tar", rows(number))


def _read_tars(folder: Path) -> Any:
    import webdataset

    return webdataset.WebDataset(_listed(folder, "tar"), shardshuffle=False, empty_check=False).decode().map(of_tar)


def of_tar(sample: dict[str, Any]) -> dict[str, Any]:
    return {"marker": sample["cls"], "text": json.dumps(sample["json"])}


def _listed(folder: Path, kind: str) -> list[str]:
    listed = folder / "listed.json"
    files: list[str] = json.loads(listed.read_text()) if listed.exists() else sorted(map(str, folder.glob(f"*.{kind}")))
    return [file for file in files if not file.endswith("listed.json")]


def _write_parquet(folder: Path) -> None:
    for number in range(SHARDS):
        table = pa.table({"marker": rows(number), "text": [f"text {row}" for row in rows(number)]})
        pq.write_table(table, folder / f"{number}.parquet", write_page_checksum=True)


def _read_parquet(folder: Path) -> ParquetDataset:
    return ParquetDataset(_listed(folder, "parquet"))


def _write_json(folder: Path) -> None:
    for number in range(SHARDS):
        lines = [json.dumps({"marker": row, "text": f"text {row}"}) for row in rows(number)]
        (folder / f"{number}.json").write_text("\n".join([*lines, ""]))


def _read_hugging_face(kind: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        datasets = pytest.importorskip("datasets")
        cache, files = str(folder / "cache"), _listed(folder, kind)
        return datasets.load_dataset(kind, data_files=files, split="train", streaming=True, cache_dir=cache)

    return read


FORMATS = {
    one.name: one
    for one in (
        Format("mds", _write_mds, _read_mds, "shard.{:05}.mds"),
        Format("mds with hashes", _write_mds_hashed, _read_mds, "shard.{:05}.mds"),
        Format("webdataset", _write_tars, _read_tars, "{:05}.tar"),
        Format("parquet", _write_parquet, _read_parquet, "{}.parquet"),
        Format("hugging face parquet", _write_parquet, _read_hugging_face("parquet"), "{}.parquet", id_fn="marker"),
        Format("hugging face json", _write_json, _read_hugging_face("json"), "{}.json", id_fn="marker"),
    )
}


def cut(share: float) -> Callable[[Path], None]:
    def breaks(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return breaks


def flip(share: float) -> Callable[[Path], None]:
    def breaks(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int((len(data) - 1) * share)] ^= 0x80
        path.write_bytes(bytes(data))

    return breaks


def empty(path: Path) -> None:
    path.write_bytes(b"")


def copied(path: Path) -> None:
    """The same shard under two names."""
    if path.suffix == ".mds":
        index = read_index(path.parent)
        one: Any = json.loads(json.dumps(index[BAD]))
        one["raw_data"]["basename"] = "shard.00009.mds"
        write_index(path.parent, [*index, one])
        shutil.copy(path, path.with_name("shard.00009.mds"))
    else:
        shutil.copy(path, path.with_name(f"9{path.name}"))


def listed_twice(path: Path) -> None:
    if path.suffix == ".mds":
        index = read_index(path.parent)
        write_index(path.parent, [*index, index[BAD]])
    else:
        files = sorted(path.parent.glob(f"*{path.suffix}"))
        (path.parent / "listed.json").write_text(json.dumps([str(file) for file in [*files, path]]))


def other_schema(path: Path) -> None:
    if path.suffix == ".mds":
        from streaming import MDSWriter

        with MDSWriter(out=str(path.parent / "other"), columns={"marker": "str", "title": "str"}) as writer:
            for row in rows(BAD):
                writer.write({"marker": str(row), "title": "other"})
        index = read_index(path.parent)
        other: Any = json.loads((path.parent / "other" / "index.json").read_text())["shards"][0]
        shutil.copy(path.parent / "other" / other["raw_data"]["basename"], path)
        index[BAD] = other | {"raw_data": other["raw_data"] | {"basename": path.name}}
        write_index(path.parent, index)
    elif path.suffix == ".tar":
        with tarfile.open(path, "w") as tar:
            for row in rows(BAD):
                info = tarfile.TarInfo(f"{row:04}.txt")
                info.size = 2
                tar.addfile(info, io.BytesIO(b"ab"))
    elif path.suffix == ".json":
        path.write_text(json.dumps({"title": "other"}) + "\n")
    else:
        pq.write_table(pa.table({"marker": [1.5], "title": ["other"]}), path)


BEFORE: dict[str, Callable[[Path], None]] = {
    "empty": empty,
    "cut early": cut(0.15),
    "cut late": cut(0.65),
    "copied": copied,
    "listed twice": listed_twice,
    "other schema": other_schema,
}
FLIPS: dict[str, Callable[[Path], None]] = {f"bit at {share}": flip(share) for share in (0.1, 0.45, 0.7, 1.0)}


class Outcome:
    """What came of an epoch."""

    def __init__(self, markers: list[int], words: list[str]) -> None:
        self.markers, self.words = sorted(markers), words

    def names(self, path: Path) -> bool:
        return any(path.name in word for word in self.words)


def epoch(read: Callable[[], Any], workers: int, options: dict[str, Any]) -> Outcome:
    """One epoch as far as it comes; reading as long as nothing is raised."""
    markers: list[int] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RuntimeWarning)
        words = []
        try:
            stream = WeightedStream(read(), Uniform(), **options)
            timeout = {"timeout": 30} if workers else {}
            for batch, weight in stream.loader(batch_size=4, num_workers=workers, **timeout):
                weight.resolve(batch["marker"].float())
                markers += batch["marker"].tolist()
        except (SourceError, KeyError, TypeError, AttributeError) as error:  # torch cannot stack what differs
            words = [str(error)] if isinstance(error, SourceError) else []
    return Outcome(markers, words + [str(one.message) for one in said if issubclass(one.category, RuntimeWarning)])


@pytest.fixture(autouse=True)
def here(tmp_path: Path) -> Iterator[None]:
    try:
        import streaming  # noqa: F401
    except ImportError:
        yield
    else:
        with streaming_here():
            yield
    gc.collect()  # the files that webdataset leaves open, here where it is known of


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fault", BEFORE)
@pytest.mark.parametrize("kind", sorted(FORMATS.keys() - {"mds with hashes"}))
def test_a_fault_is_named(kind: str, fault: str, workers: int, tmp_path: Path) -> None:
    form = FORMATS[kind]
    form.write(tmp_path)
    BEFORE[fault](form.shard(tmp_path))
    out = epoch(lambda: form.read(tmp_path), workers, form.options)
    assert out.names(form.shard(tmp_path)), out.words
    if fault in ("copied", "listed twice") and out.markers:
        assert set(out.markers) == set(range(SHARDS * ROWS))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", sorted(FORMATS.keys() - {"mds with hashes"}))
def test_a_shard_that_goes_away(kind: str, workers: int, tmp_path: Path) -> None:
    form = FORMATS[kind]
    form.write(tmp_path)
    data = form.read(tmp_path)
    form.shard(tmp_path).unlink()
    out = epoch(lambda: data, workers, form.options)
    assert out.names(form.shard(tmp_path)), out.words


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fault", FLIPS)
@pytest.mark.parametrize("kind", FORMATS)
def test_a_flipped_bit(kind: str, fault: str, workers: int, tmp_path: Path) -> None:
    """Named, or the epoch is whole: in a value, without a sum over it, nobody can see it."""
    form = FORMATS[kind]
    form.write(tmp_path)
    FLIPS[fault](form.shard(tmp_path))
    out = epoch(lambda: form.read(tmp_path), workers, form.options)
    assert out.names(form.shard(tmp_path)) or len(out.markers) == SHARDS * ROWS
    if kind == "mds with hashes":
        assert out.words


@pytest.mark.parametrize("files", [3, 30])
def test_every_bit_of_a_tars_headers(files: int, tmp_path: Path) -> None:
    """Python's tarfile ends without an error at most of them."""
    path = Path(write_tar(tmp_path / "0.tar", range(files)))
    data = path.read_bytes()
    assert _walked(data) == (2 * files, True)
    silent = 0
    for place in (*range(512), *range(3072, 3584)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        count, end = _walked(bytes(flipped))
        silent += count < 2 * files
        assert end is False or count == 2 * files, place  # what stands behind the sum may be anything
    assert silent > 1000
    assert _walked(data[:1024])[1] is False
    assert _walked(gzip.compress(data))[1] is None


def _walked(data: bytes) -> tuple[int, bool | None]:
    """How many files tarfile finds, and what is said of the end."""
    walk, count = Walk(io.BytesIO(data)), 0
    try:
        with tarfile.open(fileobj=cast("Any", walk), mode="r|*") as files:
            for _ in files:
                count += 1
    except tarfile.TarError:
        walk.ended = False  # which is no silence
    return count, walk.ended


def test_every_bit_of_the_table_of_an_mds_shard(tmp_path: Path) -> None:
    _write_mds(tmp_path)
    data = _read_mds(tmp_path)
    path = tmp_path / "shard.00002.mds"
    whole = path.read_bytes()
    check_shard(str(tmp_path), data.shards[2], "shard")
    head = int.from_bytes(whole[4:8], "little")
    sizes = [head + 19 * row + byte for row in range(ROWS) for byte in range(4)]
    for place in (*range(4 * (ROWS + 2)), *sizes):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(bytes(flipped))
        with pytest.raises(SourceError, match="Shard shard is damaged"):
            check_shard(str(tmp_path), data.shards[2], "shard")


BARE = """
import atexit, multiprocessing, os, signal, sys
from streaming import StreamingDataset
from torch.utils.data import DataLoader

def hangs(*_):
    print("hangs after", count, flush=True)
    for worker in multiprocessing.active_children():
        worker.kill()
    atexit._run_exitfuncs()
    os._exit(0)

count, sums = 0, 0
if __name__ == "__main__":
    data = StreamingDataset(local=sys.argv[1], batch_size=4, shuffle=False)
    signal.signal(signal.SIGALRM, hangs)
    signal.alarm(8)
    for batch in DataLoader(data, batch_size=4, num_workers=int(sys.argv[2])):
        count += len(batch["marker"])
        sums += int(batch["marker"].sum())
    print("delivers", count, "sum", sums, flush=True)
    signal.alarm(0)
    atexit._run_exitfuncs()
    os._exit(0)
"""


@pytest.mark.parametrize("fault", ["missing", "bit"])
def test_side_by_side_with_streaming_alone(fault: str, tmp_path: Path) -> None:
    """What bare MosaicML streaming makes of it: an early end without an error, a hang, or wrong data."""
    _write_mds_hashed(tmp_path / "data")
    path = tmp_path / "data" / "shard.00002.mds"
    if fault == "missing":
        path.unlink()
    else:
        data = path.read_bytes()
        place = data.rindex(b"text 29") - 8  # the marker of the last row
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    script = tmp_path / "bare.py"
    script.write_text(BARE)
    started = []
    for workers in (0, 2):
        (tmp_path / str(workers)).mkdir()
        command = [sys.executable, "-W", "ignore", str(script), str(tmp_path / "data"), str(workers)]
        started.append(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "TMPDIR": str(tmp_path / str(workers))},
            )
        )
    bare = [process.communicate(timeout=50)[0].strip() for process in started]
    ours = [epoch(lambda: _read_mds(tmp_path / "data"), workers, {}) for workers in (0, 2)]
    assert all(out.names(path) for out in ours)
    whole = f"delivers {SHARDS * ROWS} sum {sum(range(SHARDS * ROWS))}"
    assert all(text != whole for text in bare), bare
    print(fault, "bare, 0 and 2 workers:", bare)
