"""Nothing ends an epoch early in silence: missing, cut and empty shards are named, before the epoch or at its end."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shards import streaming_here, write_mds, write_tars

from weighted_stream import ParquetDataset, SourceError, Uniform, WeightedStream
from weighted_stream.reading import Reading
from weighted_stream.sources.ids import shard_id
from weighted_stream.sources.webdataset_checks import check_tars
from weighted_stream.sources.whole import ended_early, lacking

pytestmark = [
    pytest.mark.mosaicml,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:streaming"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    # webdataset leaves closing its files to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*num_workers.*:UserWarning:webdataset"),
]

ROWS = 100


@pytest.fixture
def here(tmp_path: Path) -> Any:
    pytest.importorskip("streaming")
    with streaming_here():
        yield


def dataset(folder: Path, **options: Any) -> Any:
    from streaming import StreamingDataset

    return StreamingDataset(local=str(folder), **{"batch_size": 4, "shuffle": False, **options})


def epoch(stream: WeightedStream, **arguments: Any) -> int:
    count = 0
    for batch, weight in stream.loader(**{"batch_size": 4, **arguments}):
        weight.resolve(batch["marker"].float())
        count += len(weight)
    return count


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def empty(path: Path) -> None:
    path.write_bytes(b"")


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (Path.unlink, "shard.00004.mds is missing"),
    "cut": (cut, r"shard.00004.mds has [\d,]+ of [\d,]+ bytes"),
    "empty": (empty, r"shard.00004.mds has 0 of [\d,]+ bytes"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_is_not_there_is_named_before_the_epoch(
    here: None, tmp_path: Path, kind: str, workers: int
) -> None:
    write_mds(tmp_path, range(ROWS))
    data = dataset(tmp_path)  # which does not look at the shards
    breaks, says = BROKEN[kind]
    breaks(tmp_path / "shard.00004.mds")
    stream = WeightedStream(data, Uniform())
    with pytest.raises(SourceError, match=says):
        epoch(stream, num_workers=workers)
    assert len(stream.store) == 0


@pytest.mark.parametrize("kind", ["mds", "parquet"])
def test_a_loader_that_gives_out_is_named_at_its_end(
    here: None, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As streaming's does, now and then, when a shard goes during the epoch; at other times it raises."""
    if kind == "mds":
        write_mds(tmp_path, range(ROWS))
        stream, last = WeightedStream(dataset(tmp_path), Uniform()), r"shard.00002.mds \(8 of 10 rows weighed\)"
    else:
        for part in range(10):
            pq.write_table(pa.table({"marker": range(part * 10, part * 10 + 10)}), tmp_path / f"{part}.parquet")
        stream, last = WeightedStream(ParquetDataset(tmp_path), Uniform()), r"2.parquet \(8 of 10 rows weighed\)"
    begin = Reading.begin

    def gives_out(self: Reading, *about: Any) -> Any:
        seed, position, items = begin(self, *about)
        return seed, position, islice(items, 7)

    monkeypatch.setattr(Reading, "begin", gives_out)
    with pytest.raises(
        SourceError, match=rf"Epoch 0 ended early(.|\n)*28 samples; not weighed whole: (.*/)?{last}"
    ) as error:
        epoch(stream)
    assert "and 3 more" in str(error.value)
    assert "100 samples" in str(error.value)
    assert len(stream.store) == 28


def test_compressed_shards_may_be_there_in_either_form(here: None, tmp_path: Path) -> None:
    write_mds(tmp_path, range(ROWS), compression="gz")
    stream = WeightedStream(dataset(tmp_path), Uniform())
    assert epoch(stream) == ROWS  # decompressed on the way
    assert epoch(stream) == ROWS
    for path in tmp_path.glob("shard.00003.mds*"):
        path.unlink()
    with pytest.raises(SourceError, match=r"shard.00003.mds(\.gz)? is missing"):
        epoch(stream)


def test_a_remote_brings_what_is_missing(here: None, tmp_path: Path) -> None:
    write_mds(tmp_path / "remote", range(ROWS))
    from streaming import StreamingDataset

    data = StreamingDataset(remote=str(tmp_path / "remote"), local=str(tmp_path / "local"), batch_size=4, shuffle=True)
    assert epoch(WeightedStream(data, Uniform())) == ROWS


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("options", [{}, {"drop_last": True}, {"batch_size": 7}, {"batch_size": 7, "drop_last": True}])
def test_whole_epochs_pass(here: None, tmp_path: Path, workers: int, options: dict[str, Any]) -> None:
    write_mds(tmp_path, range(ROWS))
    stream = WeightedStream(dataset(tmp_path, batch_size=options.get("batch_size", 4)), Uniform())
    for _ in range(2):
        assert epoch(stream, num_workers=workers, **options) >= ROWS - 2 * 6


def test_an_epoch_that_streaming_resumes_is_shorter(here: None, tmp_path: Path) -> None:
    write_mds(tmp_path, range(ROWS))
    state = dataset(tmp_path).state_dict(40, True)
    data = dataset(tmp_path)
    data.load_state_dict({**state, "epoch": 0, "sample_in_epoch": 40})
    stream = WeightedStream(data, Uniform())
    assert epoch(stream) == ROWS - 40
    assert epoch(stream) == ROWS


def test_a_smaller_epoch_of_its_own(here: None, tmp_path: Path) -> None:
    write_mds(tmp_path, range(ROWS))
    assert epoch(WeightedStream(dataset(tmp_path, epoch_size=30), Uniform())) == 30


def test_an_index_that_lists_more_than_there_is(here: None, tmp_path: Path) -> None:
    write_mds(tmp_path, range(ROWS))
    index = json.loads((tmp_path / "index.json").read_text())
    index["shards"][2]["raw_data"]["bytes"] += 1
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(SourceError, match=r"shard\.00002\.mds has"):
        epoch(WeightedStream(dataset(tmp_path), Uniform()))


@pytest.mark.parametrize("bytes_left", [0, 700, 1024, 5000])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_tar_file_without_its_end_is_named(tmp_path: Path, bytes_left: int, workers: int) -> None:
    """webdataset by itself may end such a shard without an error, with half a sample at its end."""
    wds = pytest.importorskip("webdataset")
    urls = write_tars(tmp_path, range(30))
    stream = WeightedStream(wds.WebDataset(urls, shardshuffle=False).decode().map(marker), Uniform())
    assert epoch(stream, num_workers=workers) == 30
    path = Path(urls[1])
    path.write_bytes(path.read_bytes()[:bytes_left])
    with pytest.raises(SourceError, match=rf"00001.tar \({bytes_left:,} bytes\)"):
        epoch(stream, num_workers=workers)


def test_a_pipeline_that_goes_on_behind_errors_is_warned(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    urls = write_tars(tmp_path, range(30))
    Path(urls[1]).write_bytes(b"")
    data = wds.WebDataset(urls, shardshuffle=False, handler=wds.ignore_and_continue).decode().map(marker)
    with pytest.warns(RuntimeWarning, match=r"no end: .*00001.tar \(0 bytes\)"):
        assert epoch(WeightedStream(data, Uniform())) == 20


def test_tar_files_that_are_whole_or_cannot_be_judged(tmp_path: Path) -> None:
    (whole,) = write_tars(tmp_path, range(3))
    packed, cut = tmp_path / "a.tar.gz", tmp_path / "cut.tar"
    packed.write_bytes(gzip.compress(Path(whole).read_bytes()))
    cut.write_bytes(Path(whole).read_bytes()[:1024])
    check_tars(
        [whole, f"file:{whole}", str(packed), str(tmp_path / "missing.tar"), "https://host/a.tar"], lenient=False
    )
    with pytest.raises(SourceError, match="and 2 more"):
        check_tars([str(cut)] * 5, lenient=False)


def test_tar_files_found_whole_are_not_opened_again(tmp_path: Path) -> None:
    (path,) = write_tars(tmp_path, range(3))
    whole: dict[str, tuple[int, int]] = {}
    check_tars([path], lenient=False, whole=whole)
    found = os.stat(path)
    assert whole == {path: (found.st_size, found.st_mtime_ns)}
    Path(path).write_bytes(b"x" * found.st_size)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    check_tars([path], lenient=False, whole=whole)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    with pytest.raises(SourceError, match="have no end"):
        check_tars([path], lenient=False, whole=whole)


@pytest.mark.parametrize("behind", [0, 100, 512, 5000, 60_000])
def test_what_stands_behind_the_end_of_a_tar_file(tmp_path: Path, behind: int) -> None:
    (path,) = write_tars(tmp_path, range(3))
    with open(path, "ab") as file:
        file.write(b"x" * behind)
    check_tars([path], lenient=False)


def marker(sample: dict[str, Any]) -> dict[str, Any]:
    return {"marker": sample["cls"]}


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9), min_size=1), st.data())
def test_lacking(shards: dict[str, int], data: st.DataObject) -> None:
    rows = [(name, row) for name, count in shards.items() for row in range(count)]
    gone = data.draw(st.sets(st.sampled_from(rows)))
    ids = np.sort(np.array([shard_id(*row) for row in rows if row not in gone], np.int64))
    short = {name: count - sum(g[0] == name for g in gone) for name, count in shards.items()}
    assert lacking(shards, ids) == {name: left for name, left in short.items() if left < shards[name]}


def test_many_shards_are_not_all_named() -> None:
    shards = {f"{number}.mds": 10 for number in range(9)}
    text = str(ended_early(3, 10, 90, shards, dict.fromkeys(list(shards)[1:], 0)))
    assert "4.mds (0 of 10 rows weighed)" in text
    assert "and 3 more" in text
