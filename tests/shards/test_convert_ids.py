"""The ids that a conversion keeps: compared, and refused or told of where two samples have one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighted_stream import SampleIdError
from weighted_stream.shards import convert_ids
from weighted_stream.shards.blocks import Block, Input
from weighted_stream.shards.convert import convert, receipt
from weighted_stream.shards.convert_ids import KeptIds


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def place(at: int, value: Any, file: str = "a.jsonl") -> str:
    return f"{value!r} in sample {at} of {file}"


@pytest.mark.parametrize("kind", ["parquet", "webdataset", "mds"])
@pytest.mark.parametrize("text", [True, False], ids=["str", "int"])
def test_a_column_that_was_named_is_refused(tmp_path: Path, kind: str, text: bool) -> None:
    if kind != "parquet":
        pytest.importorskip({"mds": "streaming", "webdataset": "webdataset"}[kind])
    ids: list[Any] = [f"d{i % 50}" if text else i % 50 for i in range(100)]
    source = jsonl(tmp_path / "a.jsonl", [{"doc_id": ids[i], "text": f"t{i}"} for i in range(100)])
    with pytest.raises(SampleIdError) as error:
        convert(source, tmp_path / "out", kind, id="doc_id")
    assert error.value.found == f"{place(0, ids[0])} and {place(50, ids[0])}"
    assert "without --id" in error.value.do
    assert list(tmp_path.iterdir()) == [source]
    done = convert(source, tmp_path / "out", kind)
    assert (done.id, done.made_ids, done.compared, done.repeated) == ("id", True, 0, "")


def test_what_was_there_stays(tmp_path: Path) -> None:
    good = jsonl(tmp_path / "a.jsonl", [{"doc_id": i} for i in range(5)])
    before = convert(good, tmp_path / "out", "parquet", id="doc_id")
    bad = jsonl(tmp_path / "b.jsonl", [{"doc_id": 7}, {"doc_id": 7}])
    with pytest.raises(SampleIdError, match="same id"):
        convert(bad, tmp_path / "out", "parquet", id="doc_id", overwrite=True)
    assert receipt(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl", "out"]


def test_of_a_column_that_nobody_named_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, ids in (("a.parquet", ["x", "y"]), ("b.parquet", ["z", "y", "x"])):
        pq.write_table(pa.table({"id": ids}), tmp_path / "in" / name)
    done = convert(tmp_path / "in", tmp_path / "out", "parquet")
    assert (done.id, done.made_ids, done.samples) == ("id", False, 5)
    assert done.repeated == f"{place(1, 'y', 'a.parquet')} and {place(1, 'y', 'b.parquet')}"
    assert receipt(tmp_path / "out") == done


def test_a_beginning_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_ids, "_FIRST", 16)
    source = jsonl(tmp_path / "a.jsonl", [{"id": i // 2} for i in range(2000)])
    steps: list[str] = []
    with pytest.raises(SampleIdError, match="sample 1 of"):
        convert(source, tmp_path / "out", "parquet", id="id", progress=lambda step, samples: steps.append(step))
    assert set(steps) == {"reading"}


def input_of(ids: list[Any]) -> Input:
    return Input(lambda: iter([Block("a", 0, [{"id": value} for value in ids])]))


@given(ids=st.lists(st.integers(0, 30), max_size=40), first=st.integers(1, 9), most=st.integers(1, 50))
def test_the_first_that_comes_again(ids: list[int], first: int, most: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(convert_ids, "_FIRST", first)
        patched.setattr(convert_ids, "MOST", most)
        kept = KeptIds(input_of(ids), "id", refuse=False)
        for number in ids:
            kept.add(number)
        kept.end()
    again = next((at for at, number in enumerate(ids[:most]) if number in ids[:at]), None)
    if again is None:
        assert (kept.repeated, kept.compared) == ("", min(len(ids), most))
    else:
        where = [place(at, ids[again], "a") for at in (ids.index(ids[again]), again)]
        assert kept.repeated == " and ".join(where)
