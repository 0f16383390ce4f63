"""Side files: what is written is read, whose scores they are is kept, and a store takes them for what they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from weighted_stream import (
    ParquetDataset,
    ScoringError,
    Similarity,
    StoreMismatchError,
    Uniform,
    WeightedStream,
    WeightStore,
    load_scores,
    read_scores,
)
from weighted_stream.scoring.identity import ScoreIdentity
from weighted_stream.shards.side_files import about, side_files, side_path, write_side_file
from weighted_stream.sources import source_for
from weighted_stream.sources.base import Fingerprint

IDENTITY = ScoreIdentity("mini", "c0ffee", "mean", (0.6, 0.8))
DATASET = Fingerprint("parquet", "id,text", shards={"a.parquet": 3, "b/c.parquet": 2})


def write(folder: Path, shard: str, ids: list[int], identity: ScoreIdentity = IDENTITY) -> Path:
    scores = np.array([i / 10 for i in ids], np.float32)
    return write_side_file(folder, shard, np.array(ids), scores, identity=identity, dataset=DATASET, size=len(ids))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path, "b/c.parquet", [4, 2**62])
    path = write(tmp_path, "a.parquet", [1, 2, 3])
    side = about(path)
    assert side is not None
    assert (side.shard, side.rows, side.size, side.identity) == ("a.parquet", 3, 3, IDENTITY)
    assert side.dataset == Fingerprint("parquet", "id,text", shards={"a.parquet": 3})
    scores = read_scores(tmp_path)
    for _ in range(2):  # as often as wanted
        assert [ids.tolist() for ids, _ in scores] == [[1, 2, 3], [4, 2**62]]
    assert np.concatenate([s for _, s in scores]).dtype == np.float32
    assert scores.dataset == DATASET
    assert [ids.tolist() for ids, _ in read_scores(path)] == [[1, 2, 3]]
    table = pq.read_table(path)  # anything can
    assert table.schema.field("id").type == pa.int64()
    assert table.column("score").to_pylist() == pytest.approx([0.1, 0.2, 0.3])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.parquet.parquet", "b%2Fc.parquet.parquet"]


def test_names_of_shards_do_not_meet() -> None:
    names = ["a/b", "a%2Fb", "a_b", ".a", "s3://bucket/a", "x" * 400, "y" + "x" * 399]
    paths = {side_path(Path("f"), name) for name in names}
    assert len(paths) == len(names)
    assert all(len(path.name.encode()) < 255 and path.parent == Path("f") for path in paths)


def test_scores_that_do_not_belong_together(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", [1])
    write(tmp_path, "b/c.parquet", [2], ScoreIdentity("mini", "decaf", "mean", (0.6, 0.8)))
    with pytest.raises(ScoringError, match="target 'decaf' instead of 'c0ffee'"):
        read_scores(tmp_path)


def test_scores_of_two_fields_do_not_belong_together(tmp_path: Path) -> None:
    body, title = replace(IDENTITY, text="body"), replace(IDENTITY, text="title")
    write(tmp_path, "a.parquet", [1])  # by a version that wrote no field down
    write(tmp_path, "b.parquet", [2], body)
    assert [side.identity.text for side in side_files(tmp_path)] == [None, "body"]
    assert read_scores(tmp_path).identity == body
    write(tmp_path, "c.parquet", [3], title)
    with pytest.raises(ScoringError, match="the field 'title' instead of 'body'") as error:
        read_scores(tmp_path)
    assert error.value.found == "c.parquet.parquet: mean by mini of the field 'title'"
    with WeightStore() as store:
        load_scores(store, tmp_path / "b.parquet.parquet")
        with pytest.raises(StoreMismatchError, match="the field 'title' instead of 'body'"):
            load_scores(store, tmp_path / "c.parquet.parquet")


def test_a_file_without_field_and_contents_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dumps = json.dumps

    def as_before(said: dict[str, Any]) -> str:
        assert "text" not in said["identity"]
        return dumps({name: value for name, value in said.items() if name != "contents"})

    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", as_before)
        path = write(tmp_path, "a.parquet", [1, 2])
    assert b"contents" not in path.read_bytes()
    side = about(path)
    assert side is not None
    assert (side.contents, side.identity) == (None, IDENTITY)
    assert [ids.tolist() for ids, _ in read_scores(path)] == [[1, 2]]


def test_folders_without_scores(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "score": [0.5]}), tmp_path / "no.parquet")
    for path in (tmp_path, tmp_path / "no.parquet", tmp_path / "missing"):
        with pytest.raises(ScoringError, match="no scores here"):
            side_files(path)
    (tmp_path / "no.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(ScoringError, match=r"no\.parquet"):
        side_files(tmp_path)


def test_a_footer_that_has_lost_what_it_said_is_not_passed_over(tmp_path: Path) -> None:
    """A few bits flip, and Parquet reads the columns as others, and no metadata at all."""
    write(tmp_path, "a", [1, 2])
    other = pa.table({"text": ["x"]})
    pq.write_table(other, tmp_path / "other.parquet")
    assert len(side_files(tmp_path)) == 1
    pq.write_table(other.replace_schema_metadata({b"": b"weighted_stream.scores"}), tmp_path / "b.parquet")
    with pytest.raises(ScoringError, match="Cannot read the scores"):
        side_files(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ScoringError, match=r"Cannot write the scores of a\.parquet"):
        write(tmp_path / "file", "a.parquet", [1])


def test_a_store_takes_them(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", [1, 2, 3])
    write(tmp_path, "b/c.parquet", [4, 2**62])
    with WeightStore(tmp_path / "store") as store:
        assert load_scores(store, tmp_path) == 5
        found = store.get([2, 2**62, 9])["similarity"]
        assert found.tolist() == pytest.approx([0.2, 2**62 / 10, np.nan], nan_ok=True)
        assert load_scores(store, read_scores(tmp_path)) == 5  # the same again
        other = tmp_path / "other"
        write(other, "a.parquet", [1], ScoreIdentity("maxi", "c0ffee", "mean", (0.6, 0.8)))
        with pytest.raises(StoreMismatchError, match="encoder 'maxi'"):
            load_scores(store, other)
        assert store.get([1])["similarity"] == pytest.approx([0.1])
    with WeightStore(fingerprint=Fingerprint("parquet", "id,body")) as store:
        with pytest.raises(StoreMismatchError, match="another dataset"):
            load_scores(store, tmp_path)
        assert len(store) == 0


def test_a_stream_takes_them(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "a.parquet")
    source = source_for(ParquetDataset(tmp_path))
    ids = np.array([id_ for id_, _ in source.dataset])
    write_side_file(
        tmp_path / "_scores",
        "a.parquet",
        ids,
        np.array([0.5, 0.25], np.float32),
        identity=IDENTITY,
        dataset=source.fingerprint(),
    )
    with WeightedStream(ParquetDataset(tmp_path), Uniform()) as stream:
        assert load_scores(stream, tmp_path / "_scores") == 2
        assert stream.store.get(ids)["similarity"].tolist() == [0.5, 0.25]
    with (
        WeightedStream(ParquetDataset(tmp_path), Uniform(), id_fn="text") as stream,
        pytest.raises(StoreMismatchError, match="id_fn=FIELD"),
    ):
        load_scores(stream, tmp_path / "_scores")


def test_no_scores_are_an_error(tmp_path: Path) -> None:
    write(tmp_path, "a.parquet", [])
    with WeightStore() as store, pytest.raises(ScoringError, match="no score to load"):
        load_scores(store, tmp_path)


def test_similarity_without_a_target_goes_by_them(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": list("abcd")}), tmp_path / "a.parquet")
    source = source_for(ParquetDataset(tmp_path))
    ids = np.array([id_ for id_, _ in source.dataset])
    scores = np.array([0.1, 0.9, 0.3, 0.5], np.float32)
    write_side_file(tmp_path / "_scores", "a.parquet", ids, scores, identity=IDENTITY, dataset=source.fingerprint())
    with WeightedStream(ParquetDataset(tmp_path), Similarity(tau=0.2)) as stream:
        load_scores(stream, tmp_path / "_scores")
        ((_, weight),) = stream.loader(batch_size=4)
        expected = np.exp(scores / 0.2) / np.exp(scores / 0.2).mean()
        assert weight.resolve(torch.ones(4)).tolist() == pytest.approx(expected.tolist(), abs=1e-5)
