"""Conversion: the same samples and ids come out of every format, whatever they were converted from."""

from __future__ import annotations

import gzip
import json
import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weighted_stream import ParquetDataset, SampleIdError, SourceError
from weighted_stream.shards.convert import RECEIPT, Converted, convert, receipt
from weighted_stream.shards.mds import open_mds
from weighted_stream.shards.webdataset import as_row, open_webdataset
from weighted_stream.shards.writing import FORMATS, ShardSize
from weighted_stream.sources import source_for
from weighted_stream.sources.ids import check_id, shard_id

pytestmark = [
    # webdataset leaves closing its tar files to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ROWS: list[dict[str, Any]] = [
    {
        "uid": f"doc/{i}.x",
        "text": f"text {i} ä\n\t\x00",
        "n": i - 3,
        "score": i / 3 if i % 4 else float(i),
        "good": i % 2 == 0,
        "tags": ["a", "b"][: i % 3],
        "meta": {"lang": "en", "deep": {"x": [i]}},
        "maybe": None if i % 5 == 0 else f"m{i}",
    }
    for i in range(30)
]


@pytest.fixture(params=sorted(FORMATS))
def kind(request: pytest.FixtureRequest) -> str:
    if request.param in ("mds", "webdataset"):
        pytest.importorskip({"mds": "streaming", "webdataset": "webdataset"}[request.param])
    return str(request.param)


def read(folder: Path, kind: str, id_fn: str | Callable[[Any], int | str] | None) -> list[tuple[int, dict[str, Any]]]:
    """(id, row) of all samples in a folder, by our sources."""
    if kind == "mds":
        data: Any = open_mds(folder, shuffle=False, batch_size=1)
    elif kind == "webdataset":
        data = open_webdataset(sorted(folder.glob("*.tar")), shardshuffle=False).map(as_row)
    else:
        data = ParquetDataset(folder)
    # webdataset's map adds the key to what a function returns.
    return [(id_, {k: v for k, v in row.items() if k != "__key__"}) for id_, row in source_for(data, id_fn).dataset]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def test_json_lines_keep_values_and_ids(tmp_path: Path, kind: str) -> None:
    source = jsonl(tmp_path / "a.jsonl", ROWS)
    done = convert(source, tmp_path / "out", kind, id="uid", text="text", size=ShardSize(8, None))
    assert (done.samples, done.shards, done.id, done.made_ids) == (30, 4, "uid", False)
    found = read(tmp_path / "out", kind, "uid")
    assert [row for _, row in found] == ROWS
    assert [id_ for id_, _ in found] == [check_id(row["uid"], "") for row in ROWS]
    assert receipt(tmp_path / "out") == done


values = {
    "text": st.text(st.characters(exclude_categories=["Cs"])),
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_nan=False),
    "bool": st.booleans(),
    "list": st.lists(st.integers(0, 9), max_size=3),
    "dict": st.fixed_dictionaries({"a": st.integers(0, 9), "b": st.text("ä\n", max_size=2)}),
}


@st.composite
def tables(draw: st.DrawFn) -> list[dict[str, Any]]:
    columns = draw(st.lists(st.sampled_from(sorted(values)), min_size=1, unique=True))
    nullable = draw(st.sets(st.sampled_from(columns)))
    drawn = {c: st.none() | values[c] if c in nullable else values[c] for c in columns}
    rows = draw(st.lists(st.fixed_dictionaries(drawn), min_size=1, max_size=9))
    return [{"id": i, **row} for i, row in enumerate(rows)]


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
@settings(max_examples=25)
@given(rows=tables(), samples=st.integers(1, 4))
def test_any_rows(
    tmp_path_factory: pytest.TempPathFactory, kind: str, rows: list[dict[str, Any]], samples: int
) -> None:
    pytest.importorskip("webdataset")
    folder = tmp_path_factory.mktemp("any")
    convert(jsonl(folder / "a.jsonl", rows), folder / "out", kind, size=ShardSize(samples, None))
    found = read(folder / "out", kind, "id")
    assert [row for _, row in found] == rows
    assert [id_ for id_, _ in found] == list(range(len(rows)))
    assert len(list((folder / "out").glob("0*"))) == -(-len(rows) // samples)


@settings(max_examples=4)
@given(rows=tables())
def test_any_rows_in_mds(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    pytest.importorskip("streaming")
    folder = tmp_path_factory.mktemp("any")
    convert(jsonl(folder / "a.jsonl", rows), folder / "out", "mds", size=ShardSize(3, None))
    assert read(folder / "out", "mds", "id") == list(enumerate(rows))


def test_parquet_rows_and_the_ids_they_had(tmp_path: Path, kind: str) -> None:
    rows = [{"text": f"t{i}", "raw": bytes([i, 0, 255]), "small": i} for i in range(20)]
    schema = pa.schema([("text", pa.large_string()), ("raw", pa.binary()), ("small", pa.int8())])
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name, start in (("a.parquet", 0), ("sub/b.parquet", 12)):
        some = rows[start : start + 12 if start == 0 else 20]
        pq.write_table(pa.Table.from_pylist(some, schema=schema), tmp_path / "in" / name)
    before = {row["text"]: id_ for id_, row in source_for(ParquetDataset(tmp_path / "in")).dataset}
    done = convert(tmp_path / "in", tmp_path / "out", kind, size=ShardSize(7, None))
    assert (done.id, done.made_ids, done.shards) == ("id", True, 3)
    found = read(tmp_path / "out", kind, "id")
    assert [{k: row[k] for k in ("text", "raw", "small")} for _, row in found] == rows
    assert {row["text"]: id_ for id_, row in found} == before


def test_a_hugging_face_folder(tmp_path: Path, kind: str) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"text": [f"t{i}" for i in range(600)], "label": list(range(600))})
    data.shuffle(seed=0).save_to_disk(tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "out", kind, size=ShardSize(250, None))
    saved = source_for(datasets.load_from_disk(str(tmp_path / "in"))).dataset
    assert [(i, row["text"]) for i, row in read(tmp_path / "out", kind, "id")] == [
        (id_, row["text"]) for id_, row in (saved[i] for i in range(600))
    ]
    datasets.DatasetDict(a=data).save_to_disk(tmp_path / "dict")
    with pytest.raises(SourceError, match=r"splits \['a'\]"):
        convert(tmp_path / "dict", tmp_path / "out2", kind)


@pytest.mark.parametrize(
    ("name", "text"), [("dataset_dict.json", "[" * 100_000), ("dataset_dict.json", "[]"), ("state.json", "[" * 100_000)]
)
def test_a_damaged_hugging_face_folder(tmp_path: Path, name: str, text: str) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "in")
    (tmp_path / "in" / name).write_text(text)
    with pytest.raises(SourceError, match="Cannot read the dataset"):
        convert(tmp_path / "in", tmp_path / "out", "parquet")


def test_plain_text(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.txt").write_text("one\n\n  \ntwo ä\r\nthree", encoding="utf-8")
    (tmp_path / "in" / "a.txt").write_text("first\nfile\n")
    (tmp_path / "in" / "_notes.txt").write_text("not data")
    convert(tmp_path / "in", tmp_path / "lines", "parquet")
    rows = [row for _, row in read(tmp_path / "lines", "parquet", "id")]
    assert [row["text"] for row in rows] == ["first", "file", "one", "two ä", "three"]
    assert [row["id"] for row in rows][2:] == [shard_id("b.txt", i) for i in range(3)]
    convert(tmp_path / "in", tmp_path / "files", "parquet", per="file")
    assert [row["text"] for _, row in read(tmp_path / "files", "parquet", "id")] == [
        "first\nfile\n",
        "one\n\n  \ntwo ä\r\nthree",
    ]


def test_shards_of_a_size_in_bytes(tmp_path: Path, kind: str) -> None:
    rows = [{"id": i, "text": "x" * 100} for i in range(50)]
    done = convert(jsonl(tmp_path / "a.jsonl.gz", rows), tmp_path / "out", kind, size=ShardSize(None, 1080))
    assert done.shards == 5  # ten samples of 108 bytes each
    assert [row for _, row in read(tmp_path / "out", kind, "id")] == rows


def test_types_are_found_by_reading_on(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"n": None} for _ in range(300)]  # more than a block
    rows += [{"n": 1, "late": [1]}, {"n": 2.5}]
    done = convert(jsonl(tmp_path / "a.jsonl", rows), tmp_path / "out", "parquet")
    assert done.columns == {"id": "int64", "n": "double", "late": "list<item: int64>"}
    found = [row for _, row in read(tmp_path / "out", "parquet", "id")]
    assert found[299:] == [
        {"id": shard_id("a.jsonl", 299), "n": None, "late": None},
        {"id": shard_id("a.jsonl", 300), "n": 1.0, "late": [1]},
        {"id": shard_id("a.jsonl", 301), "n": 2.5, "late": None},
    ]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"a": 1}, {"a": "x"}], "column 'a'"),
        ([{"a": 1}] * 256 + [{"a": "x"}], "string after int64, in a.jsonl, samples 256 to 256"),
        ([{"a": 2**70}], "too large"),
        ([{"a": "b"}, {"a": "\ud800"}], "surrogate pair in sample 1 of a.jsonl"),
        ([{"id": None}], "in sample 0 of a.jsonl"),
        ([{"id": 1}, {"id": -7}], "-7 (int), in sample 1 of a.jsonl"),
        ([{"id": 1.5}], "1.5 (float)"),
        ([], "no samples"),
        ([{"d": {}}], "Parquet cannot hold"),
    ],
)
def test_samples_that_cannot_be_stored(tmp_path: Path, rows: list[dict[str, Any]], says: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises((SourceError, SampleIdError)) as error:
        convert(path, tmp_path / "out", "parquet")
    assert says in str(error.value)
    assert error.value.do
    assert sorted(tmp_path.iterdir()) == [path]


def test_what_only_parquet_can_hold(tmp_path: Path, kind: str) -> None:
    import datetime

    table = pa.table({"id": [1], "when": [datetime.datetime(2024, 1, 2)]})
    pq.write_table(table, tmp_path / "a.parquet")
    if kind == "parquet":
        convert(tmp_path / "a.parquet", tmp_path / "out", kind)
        assert read(tmp_path / "out", kind, "id")[0][1]["when"] == datetime.datetime(2024, 1, 2)
    else:
        with pytest.raises(SourceError, match="cannot hold the column 'when'"):
            convert(tmp_path / "a.parquet", tmp_path / "out", kind)


def test_refusals(tmp_path: Path) -> None:
    good = jsonl(tmp_path / "a.jsonl", ROWS)
    for options, says in (
        ({"id": "nope"}, "no column 'nope'"),
        ({"text": "nope"}, "no column 'nope'"),
        ({"text": "n"}, "holds no text"),
    ):
        with pytest.raises(SourceError, match=says):
            convert(good, tmp_path / "out", "parquet", **options)  # type: ignore[arg-type]
    none = jsonl(tmp_path / "none.jsonl", [{"text": "a"}, {"text": None}])
    with pytest.raises(SourceError, match=r"no text in the column 'text'(.|\n)*sample 1 of none.jsonl"):
        convert(none, tmp_path / "out", "parquet", text="text")
    with pytest.raises(SourceError, match="'csv'"):
        convert(good, tmp_path / "out", "csv")
    for name, content, says in (
        ("b.jsonl", b'{"a": 1}\n[1]\n', "Line 2"),
        ("c.jsonl", b'{"a": 1}\n{"a": ', "Line 2"),
        ("d.txt", b"\xff\xfe", "UTF-8"),
        ("e.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99)[:20], "compressed"),
        ("f.parquet", b"PAR1 no", "f.parquet"),
        ("g.csv", b"a,b", "another kind"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SourceError, match=says):
            convert(tmp_path / name, tmp_path / "out", "parquet")
    with pytest.raises(SourceError, match="does not exist"):
        convert(tmp_path / "missing", tmp_path / "out", "parquet")
    with pytest.raises(SourceError, match="several kinds"):
        convert(tmp_path, tmp_path / "out", "parquet")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    source, out = jsonl(tmp_path / "a.jsonl", ROWS), tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").touch()
    for overwrite in (False, True):
        with pytest.raises(SourceError, match="no conversion wrote"):
            convert(source, out, "parquet", overwrite=overwrite)
    (out / "thesis.tex").unlink()
    first = convert(source, out, "parquet", size=ShardSize(3, None))
    with pytest.raises(SourceError, match="earlier conversion"):
        convert(source, out, "parquet")
    second = convert(source, out, "parquet", overwrite=True)
    assert (first.shards, second.shards) == (10, 1)
    assert sorted(path.name for path in out.iterdir()) == ["00000.parquet", RECEIPT]
    assert isinstance(receipt(out), Converted)
    for text in "[" * 100_000, '{"a":' * 100_000, "[]", "{":
        (out / RECEIPT).write_text(text)
        assert receipt(out) is None


def test_new_shards_replace_old_ones_or_leave_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = jsonl(tmp_path / "a.jsonl", ROWS), tmp_path / "out"
    convert(source, out, "parquet", size=ShardSize(3, None))
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.name == ".out.partial":
            raise OSError(16, "busy")
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", fails)
        with pytest.raises(SourceError, match="busy"):
            convert(source, out, "parquet", overwrite=True)
    assert len(list(out.glob("*.parquet"))) == 10, "the old ones are there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "out"]

    def interrupted(path: Path, **more: Any) -> None:
        if Path(path).exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("weighted_stream.shards.convert.shutil.rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(source, out, "parquet", overwrite=True)
    assert len(list(out.glob("*.parquet"))) == 1, "the new ones are there"
    assert (tmp_path / ".out.replaced").exists()
    convert(source, out, "parquet", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "out"]


def test_old_shards_come_back_if_a_conversion_ended_between_the_two(tmp_path: Path) -> None:
    source, out = jsonl(tmp_path / "a.jsonl", ROWS), tmp_path / "out"
    convert(source, out, "parquet", size=ShardSize(3, None))
    out.rename(tmp_path / ".out.replaced")
    with pytest.raises(SourceError, match="earlier conversion"):
        convert(source, out, "parquet")
    assert len(list(out.glob("*.parquet"))) == 10


@pytest.mark.parametrize("name", ["notes.txt", "00000.txt", "shard.mds", "sub/00000.parquet", "_scores/notes.txt"])
def test_what_no_conversion_wrote_is_not_replaced(tmp_path: Path, name: str) -> None:
    source, out = jsonl(tmp_path / "a.jsonl", ROWS), tmp_path / "out"
    convert(source, out, "parquet")
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("precious")
    with pytest.raises(
        SourceError, match=rf"no conversion wrote(.|\n)*found: +{name.removesuffix('/00000.parquet')}\n"
    ):
        convert(source, out, "parquet", overwrite=True)
    assert (out / name).read_text() == "precious"


def test_shards_are_replaced_with_their_scores(tmp_path: Path, kind: str) -> None:
    source, out = jsonl(tmp_path / "a.jsonl", ROWS), tmp_path / "out"
    convert(source, out, kind, size=ShardSize(8, None))
    (out / "_scores").mkdir()
    (out / "_scores" / f"sub%2F00000.{kind}.parquet").touch()
    (out / "_scores" / ".00001.tar.parquet.4711").touch()
    if kind == "mds":
        (out / "shard.00001.mds.zstd").touch()
    assert convert(source, out, kind, overwrite=True).shards == 1
    assert not (out / "_scores").exists()
    assert len(list(out.glob("*0*"))) == 1


def test_a_source_in_the_folder_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(jsonl(tmp_path / "a.jsonl", ROWS), out, "parquet")
    (tmp_path / "link").symlink_to(out)
    for source in (out, out / "00000.parquet", tmp_path / "link" / "00000.parquet"):
        with pytest.raises(SourceError, match="source is in the folder"):
            convert(source, out, "parquet", overwrite=True)
    assert len(ParquetDataset(out)) == len(ROWS)


@pytest.mark.parametrize("name", ["a.jsonl/out", "x" * 250])
def test_a_folder_that_cannot_be_made(tmp_path: Path, name: str) -> None:
    source = jsonl(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(SourceError, match="failed") as error:
        convert(source, tmp_path / name, "parquet")
    assert error.value.do
    assert sorted(tmp_path.iterdir()) == [source]


def test_a_disk_without_room(tmp_path: Path, kind: str) -> None:
    rows = [{"text": random.Random(i).randbytes(5000).hex()} for i in range(40)]
    source, before = jsonl(tmp_path / "a.jsonl", rows), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(SourceError, match="File too large"):
            convert(source, tmp_path / "out", kind)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(tmp_path.iterdir()) == [source]


def test_a_reader_of_the_progress_that_is_gone_is_no_disk(tmp_path: Path) -> None:
    def gone(step: str, samples: int) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        convert(jsonl(tmp_path / "a.jsonl", ROWS), tmp_path / "out", "parquet", progress=gone)


def test_a_name_that_no_text_can_hold(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b", "\\ud800": 1}\n')
    with pytest.raises(SourceError, match=r"a name of sample 1 of a.jsonl"):
        convert(tmp_path / "a.jsonl", tmp_path / "out", kind)


@pytest.mark.parametrize("ending", ["", ".GZ"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, ending: str) -> None:
    opener: Any = gzip.open if ending else open
    for name, text in (("a.txt", "one\ntwo\n"), (f"b.jsonl{ending}", '{"text": "one"}\n{"text": "two"}\n')):
        with opener(tmp_path / name, "wb") if name != "a.txt" else open(tmp_path / name, "wb") as file:
            file.write(b"\xef\xbb\xbf" + text.encode())
        convert(tmp_path / name, tmp_path / f"{name}.out", "parquet")
        assert [row["text"] for _, row in read(tmp_path / f"{name}.out", "parquet", "id")] == ["one", "two"]
    convert(tmp_path / "a.txt", tmp_path / "whole", "parquet", per="file")
    assert [row["text"] for _, row in read(tmp_path / "whole", "parquet", "id")] == ["one\ntwo\n"]


def test_links_and_capitals(tmp_path: Path) -> None:
    source, other = tmp_path / "in", tmp_path / "other"
    for folder in (source, other):
        folder.mkdir()
    jsonl(source / "a.jsonl", [{"text": "first"}])
    jsonl(other / "b.jsonl.gz", [{"text": "linked"}]).rename(other / "B.JSONL.GZ")
    (source / "link").symlink_to(other)
    (source / "loop").symlink_to(source)
    convert(source, tmp_path / "lines", "parquet")
    assert [row["text"] for _, row in read(tmp_path / "lines", "parquet", "id")] == ["first", "linked"]
    (tmp_path / "tables").mkdir()
    for name in ("a.parquet", "B.PARQUET"):
        pq.write_table(pa.table({"text": [name]}), tmp_path / "tables" / name)
    convert(tmp_path / "tables", tmp_path / "rows", "parquet")
    assert [row["text"] for _, row in read(tmp_path / "rows", "parquet", "id")] == ["B.PARQUET", "a.parquet"]


@pytest.mark.parametrize("name", ["_raw", "Image", "a.b"])
def test_names_of_bytes_that_webdataset_does_not_keep(tmp_path: Path, name: str) -> None:
    pq.write_table(pa.table({"text": ["a"], name: [b"x"]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="a name of small letters"):
        convert(tmp_path / "a.parquet", tmp_path / "out", "webdataset")


@pytest.mark.mosaicml
def test_shards_that_others_open_at_the_same_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streaming = pytest.importorskip("streaming")
    convert(jsonl(tmp_path / "a.jsonl", ROWS), tmp_path / "mds", "mds")
    opened, failures = streaming.StreamingDataset, iter([True] * 3)

    def busy(**options: Any) -> Any:
        if next(failures, False):
            raise FileExistsError("/000000_locals")
        return opened(**options)

    monkeypatch.setattr(streaming, "StreamingDataset", busy)
    assert len(open_mds(tmp_path / "mds", batch_size=1)) == len(ROWS)
    failures = iter([True] * 100)
    with pytest.raises(SourceError, match="at the same moment"):
        open_mds(tmp_path / "mds", batch_size=1)
