"""Scores of other tools: columns as NeMo Curator, datatrove and Data-Juicer write them, under the right ids."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weighted_stream import (
    ParquetDataset,
    SampleIdError,
    ScoringError,
    StoreMismatchError,
    Uniform,
    WeightedStream,
    WeightStore,
    load_scores,
    prior_scores,
)
from weighted_stream.shards.convert import convert
from weighted_stream.shards.scored import Scored
from weighted_stream.sources import source_for
from weighted_stream.sources.ids import key_id

pytestmark = [
    # webdataset leaves closing its tar files to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

VALUES = [0.5, 2.0, -1.5, 4.0, 0.0, 3.25]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def pairs(scored: Scored) -> dict[int, float]:
    return {i: s for ids, scores in scored for i, s in zip(ids.tolist(), scores.tolist(), strict=True)}


def standard(values: list[float]) -> list[float]:
    array = np.array(values)
    return ((array - array.mean()) / array.std()).tolist()  # type: ignore[no-any-return]


def parquet(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Two files of a few row groups."""
    folder.mkdir(exist_ok=True)
    for number, some in enumerate(part for part in (rows[:4], rows[4:]) if part):
        pq.write_table(pa.Table.from_pylist(some), folder / f"{number}.parquet", row_group_size=2)
    return folder


def test_a_column_of_the_files_that_are_trained_on(tmp_path: Path) -> None:
    # NeMo Curator's FineWebEduClassifier.
    rows = [{"text": f"t{i}", "fineweb-edu-score-float": value} for i, value in enumerate(VALUES)]
    folder = parquet(tmp_path / "data", rows)
    scored = prior_scores(folder, "fineweb-edu-score-float")
    found = pairs(scored)
    source = source_for(ParquetDataset(folder))
    expected = dict(zip([id_ for id_, _ in source.dataset], standard(VALUES), strict=True))
    assert found == pytest.approx(expected, abs=1e-6)
    assert scored.identity.encoder == "column fineweb-edu-score-float"
    assert scored.identity.method == "prior, standardized"
    with WeightedStream(ParquetDataset(folder), Uniform()) as stream:
        assert load_scores(stream, scored) == 6
        assert stream.store.get(list(expected))["similarity"] == pytest.approx(list(expected.values()), abs=1e-6)
    shorter = ParquetDataset(parquet(tmp_path / "shorter", rows[:5]))
    with WeightedStream(shorter, Uniform()) as stream, pytest.raises(StoreMismatchError, match="size 2 instead of 1"):
        load_scores(stream, scored)


def test_metadata_beside_an_id(tmp_path: Path) -> None:
    # datatrove's JsonlWriter: the metadata is left out where it is empty.
    rows: list[dict[str, Any]] = [
        {"text": "t", "id": f"<urn:uuid:{i}>", "metadata": {"language": "en", "language_score": value}}
        for i, value in enumerate(VALUES)
    ]
    rows.insert(2, {"text": "t", "id": "<urn:uuid:none>"})
    path = jsonl(tmp_path / "00000.jsonl.gz", rows)
    with pytest.warns(UserWarning, match="1 of 7 samples have no"):
        scored = prior_scores(path, "metadata.language_score", id="id", standardize=False)
    assert pairs(scored) == {key_id(f"<urn:uuid:{i}>"): value for i, value in enumerate(VALUES)}
    assert scored.dataset is None
    with WeightStore() as store:
        load_scores(store, scored)
        assert store.get([key_id("<urn:uuid:3>")])["similarity"] == [4.0]


@pytest.mark.parametrize("as_text", [False, True])
def test_statistics_beside_the_result(tmp_path: Path, as_text: bool) -> None:
    # Data-Juicer's Exporter: result.parquet, and result_stats.jsonl with its rows but without ids.
    folder = parquet(tmp_path / "data", [{"text": f"t{i}"} for i in range(6)])
    stats = [{"perplexity": value, "lang": "en"} for value in VALUES]
    rows = [{"__dj__stats__": json.dumps(s) if as_text else s} for s in stats]
    path = jsonl(tmp_path / "result_stats.jsonl", rows)
    scored = prior_scores(path, "__dj__stats__.perplexity", rows_of=folder, larger_is_better=False)
    source = source_for(ParquetDataset(folder))
    expected = dict(zip([i for i, _ in source.dataset], (-v for v in standard(VALUES)), strict=True))
    assert pairs(scored) == pytest.approx(expected, abs=1e-6)
    assert scored.identity.method == "prior, standardized, negated"
    for name, some in (("more", rows + rows), ("fewer", rows[:5])):
        longer = jsonl(tmp_path / f"{name}.jsonl", some)
        with pytest.raises(ScoringError, match="do not have the rows"):
            pairs(prior_scores(longer, "__dj__stats__.perplexity", rows_of=folder))


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
@pytest.mark.parametrize("dropped", [slice(1, None), slice(None, -1)])
def test_nothing_is_stored_of_scores_that_are_a_row_off(tmp_path: Path, kind: str, dropped: slice) -> None:
    if kind == "webdataset":
        pytest.importorskip("webdataset")
    count = (1 << 16) + 300  # more than are handed out at once
    rows = jsonl(tmp_path / "all.jsonl", [{"text": "t", "q": i} for i in range(count)])
    convert(rows, tmp_path / "shards", kind)
    scores = jsonl(tmp_path / "scores.jsonl", [{"q": i} for i in range(count)[dropped]])
    with WeightStore() as store:
        with pytest.raises(ScoringError, match="do not have the rows") as error:
            load_scores(store, prior_scores(scores, "q", rows_of=tmp_path / "shards"))
        assert error.value.found == f"{count:,} samples in the shards, {count - 1:,} rows of scores"
        assert not len(store)
        assert load_scores(store, prior_scores(rows, "q", rows_of=tmp_path / "shards")) == count


def test_shards_that_grow_meanwhile_are_noticed(tmp_path: Path) -> None:
    tars = pytest.importorskip("webdataset")
    with tars.TarWriter(str(tmp_path / "0.tar")) as file:
        for i in range(3):
            file.write({"__key__": str(i), "txt": "t"})
    scored = prior_scores(jsonl(tmp_path / "q.jsonl", [{"q": i} for i in range(3)]), "q", rows_of=tmp_path / "0.tar")
    with tars.TarWriter(str(tmp_path / "0.tar")) as file:
        for i in range(4):
            file.write({"__key__": str(i), "txt": "t"})
    with pytest.raises(ScoringError, match="more samples in the shards than scores"):
        pairs(scored)


def test_a_struct_inside_the_files_that_are_trained_on(tmp_path: Path) -> None:
    # Data-Juicer with keep_stats_in_res_ds.
    rows = [{"uid": i, "text": "t", "__dj__stats__": {"perplexity": v, "n": 1}} for i, v in enumerate(VALUES)]
    folder = parquet(tmp_path / "data", rows)
    found = pairs(prior_scores(folder, "__dj__stats__.perplexity", id="uid", standardize=False))
    assert found == dict(enumerate(VALUES))


def test_many_samples_are_standardized_as_one(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(1e6, 1.0, 3000)  # in blocks of 256
    pq.write_table(pa.table({"id": np.arange(3000), "score": values}), tmp_path / "a.parquet")
    found = pairs(prior_scores(tmp_path / "a.parquet", "score", id="id"))
    assert list(found.values()) == pytest.approx(standard(values.tolist()), abs=1e-5)


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ("nope", "no column 'nope'"),
        ("metadata.nope", "no column 'metadata.nope'"),
        ("text", "t (str) in sample 0"),
        ("list", "(list) in sample 0"),
        ("constant", "All values of 'constant' are the same"),
        ("rounded", "0.1 in all of 3 samples"),
        ("infinite", "inf (float) in sample 1"),
        ("huge", "-1e+308 (float) in sample 1"),
        ("endless", "000 (int) in sample 1"),
    ],
)
def test_columns_that_are_no_scores(tmp_path: Path, column: str, says: str) -> None:
    same = {"text": "t", "list": [1], "constant": 3, "rounded": 0.1, "metadata": {}}
    rows = [
        {"id": 0, **same, "infinite": 0.0, "huge": 1.0, "endless": 1},
        {"id": 1, **same, "infinite": float("inf"), "huge": -1e308, "endless": 10**400},
        {"id": 2, **same, "infinite": 1.0, "huge": 2.0, "endless": 2},
    ]
    path = jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(ScoringError, match="no column 'nope'"):
        prior_scores(parquet(tmp_path / "data", [{"id": 1}]), "nope")
    with pytest.raises(ScoringError) as error:
        prior_scores(path, column, id="id")
    assert says in str(error.value)
    assert error.value.do


def test_somebody_has_to_say_whose_they_are(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"score": 1.0}, {"score": 2.0}])
    with pytest.raises(SampleIdError, match="whose scores"):
        prior_scores(path, "score")
    with pytest.raises(SampleIdError, match="both id= and rows_of="):
        prior_scores(path, "score", id="id", rows_of=tmp_path)
    with pytest.raises(SampleIdError, match=r"column 'id' of a\.jsonl"):
        pairs(prior_scores(path, "score", id="id"))
