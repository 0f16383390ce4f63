"""A scoring job: what is scored again, what is refused, and where the scores may lie."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weighted_stream import ScoringError, read_scores
from weighted_stream.shards.folder import open_shards
from weighted_stream.shards.job import ScoringJob
from weighted_stream.shards.score import Report, score_shards
from weighted_stream.shards.scorers import ScorerSpec

pytest.importorskip("sklearn")

ROWS = [{"text": f"rain on day {i}", "title": f"seven apples {i}"} for i in range(6)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards, and a target beside their folder."""
    (tmp_path / "target.jsonl").write_text('{"text": "seven apples"}\n')
    for number, rows in enumerate((ROWS[:4], ROWS[4:])):
        write(tmp_path / "shards" / f"{number}.parquet", rows)
    return tmp_path / "shards"


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def score(shards: Path, out: Path | None = None, text: str = "text", overwrite: bool = False) -> Report:
    here = next(folder for folder in (shards, *shards.parents) if (folder / "target.jsonl").exists())
    spec = ScorerSpec(str(here / "target.jsonl"), text=text, target_text="text")
    return score_shards(ScoringJob(str(shards), spec, out=out), overwrite=overwrite)


def scores(folder: Path) -> list[float]:
    return [score for _, some in read_scores(folder) for score in some.tolist()]


def test_scores_of_another_field_are_other_scores(folder: Path) -> None:
    score(folder)
    assert score(folder).before == 2
    with pytest.raises(ScoringError, match="other scores: the field 'text' instead of 'title'") as error:
        score(folder, text="title")
    assert str(error.value.found).endswith("of the field 'text'")
    assert str(error.value.expected).endswith("of the field 'title', or no scores")
    rain = scores(folder / "_scores")
    assert score(folder, text="title", overwrite=True).scored == 2
    assert min(scores(folder / "_scores")) > max(rain)


def test_a_shard_with_other_contents_is_scored_again(folder: Path) -> None:
    score(folder)
    before = scores(folder / "_scores")
    write(folder / "0.parquet", [{**row, "text": row["title"]} for row in ROWS[:4]])
    report = score(folder)
    assert (report.scored, report.before) == (1, 1)
    after = scores(folder / "_scores")
    assert min(after[:4]) > max(before)
    assert after[4:] == before[4:]
    assert score(folder).before == 2


def test_what_an_older_side_file_does_not_say_counts_as_unchanged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("weighted_stream.shards.job.contents_of", lambda opened, shard: None)
        score(folder)
    assert score(folder).before == 2


@pytest.mark.parametrize("out", [".", "scores", "deep/scores", "../shards/scores", "link/_deep/../scores"])
def test_scores_do_not_lie_among_the_shards(folder: Path, out: str) -> None:
    (folder / "link").symlink_to(folder.parent, target_is_directory=True)
    for shards in (folder, Path(f"{folder}/*.parquet")):
        with pytest.raises(ScoringError, match="would lie among the shards") as error:
            score(shards, folder / out)
        assert "--out" in error.value.do
        assert "_scores" in error.value.do
    assert sorted(path.name for path in folder.iterdir()) == ["0.parquet", "1.parquet", "link"]


def test_scores_lie_where_no_reader_looks(folder: Path) -> None:
    assert score(folder / "0.parquet", folder / "scores").scored == 1
    shutil.rmtree(folder / "scores")
    for out in ("_scores", "sub/.hidden/scores", "_a/b", "../scores", "../shards2"):
        assert score(folder, folder / out).scored == 2
        assert len(open_shards(folder).shards) == 2


def test_a_link_among_the_shards_is_followed(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (folder / "scores").symlink_to(elsewhere, target_is_directory=True)
    (folder.parent / "way").symlink_to(folder, target_is_directory=True)
    for out in (folder / "scores", folder.parent / "way" / "new"):
        with pytest.raises(ScoringError, match="would lie among the shards"):
            score(folder, out)


def test_the_row_of_a_sample_without_text(folder: Path) -> None:
    rows = [{"text": "a"} for _ in range(5000)]
    for path in (folder / "0.parquet", folder / "1.parquet"):
        path.unlink()
    pq.write_table(pa.Table.from_pylist([*rows, {"text": None}]), folder / "x.parquet", row_group_size=1500)
    (shard,) = open_shards(folder).shards
    ids = shard.ids()
    assert ids is not None
    with pytest.raises(ScoringError, match="encodes text") as error:
        score(folder)
    assert error.value.found == f"a NoneType in row 5,000 of x.parquet (sample {ids[5000]}): None"
