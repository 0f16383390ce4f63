"""Figures of any number of values, and the samples at both ends, found again in every format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from weighted_stream import SourceError
from weighted_stream.scoring.identity import ScoreIdentity
from weighted_stream.shards.inspection import inspect_path
from weighted_stream.shards.side_files import write_side_file
from weighted_stream.shards.summary import BINS, Extremes, Summary
from weighted_stream.sources.base import Fingerprint

values = arrays(np.float64, st.integers(0, 40), elements=st.floats(-1e6, 1e6) | st.just(float("nan")))


@given(st.lists(values, max_size=5))
def test_figures_are_those_of_all_values(batches: list[np.ndarray]) -> None:
    summary = Summary()
    for batch in batches:
        summary.add(batch)
    together = np.concatenate([np.empty(0), *batches])
    known = together[~np.isnan(together)]
    assert (summary.count, summary.unknown) == (len(known), len(together) - len(known))
    if not len(known):
        assert summary.figures() == {}
        assert summary.histogram() == []
        return
    figures = summary.figures()
    assert summary.exact
    assert figures["mean"] == pytest.approx(known.mean(), abs=1e-6)
    assert figures["std"] == pytest.approx(known.std(), abs=1e-3)
    assert (figures["min"], figures["max"]) == (known.min(), known.max())
    assert [figures[q] for q in ("q05", "q50", "q95")] == pytest.approx(np.quantile(known, [0.05, 0.5, 0.95]).tolist())
    assert sum(share for _, _, share in summary.histogram()) == pytest.approx(1.0)
    assert len(summary.histogram()) == BINS


def test_many_values_in_bounded_memory() -> None:
    summary = Summary(sample=2000)
    for start in range(0, 100_000, 5000):  # ascending: the first ones are no sample
        summary.add(np.arange(start, start + 5000))
    assert not summary.exact
    figures = summary.figures()
    assert (summary.count, figures["min"], figures["max"]) == (100_000, 0, 99_999)
    assert figures["mean"] == pytest.approx(49_999.5)
    assert figures["q50"] == pytest.approx(50_000, rel=0.1)
    assert figures["q05"] == pytest.approx(5_000, rel=0.3)
    assert len(summary._kept) == 2000


@given(st.lists(values, max_size=4), st.integers(0, 5))
def test_the_highest_and_the_lowest(batches: list[np.ndarray], most: int) -> None:
    extremes, start, pairs = Extremes(most), 0, []
    for number, batch in enumerate(batches):
        ids = np.arange(start, start + len(batch))
        extremes.add(ids, batch, f"s{number}")
        pairs += [(v, i, f"s{number}") for v, i in zip(batch.tolist(), ids.tolist(), strict=True) if v == v]
        start += len(batch)
    for found, expected in (
        (extremes.highest(), sorted(pairs, key=lambda p: -p[0])[:most]),
        (extremes.lowest(), sorted(pairs, key=lambda p: p[0])[:most]),
    ):
        assert [place.value for place in found] == [value for value, _, _ in expected]
        assert {tuple(place) for place in found} <= set(pairs)
        assert len({place.id for place in found}) == len(found)


def side(folder: Path, scores: list[float]) -> Path:
    write_side_file(
        folder,
        "00000.parquet",
        np.arange(len(scores)),
        np.array(scores, np.float32),
        identity=ScoreIdentity("mini", "c0ffee", "mean"),
        dataset=Fingerprint("parquet", ""),
    )
    return folder


def test_scores_of_no_samples(tmp_path: Path) -> None:
    found = inspect_path(side(tmp_path / "_scores", []))
    assert (found.facts["scored samples"], found.distributions) == (0, {})


def test_scores_that_are_not_beside_their_shards(tmp_path: Path) -> None:
    found = inspect_path(side(tmp_path / "_scores", [0.5, 0.25]))
    assert ([place.value for place in found.highest], found.rows) == ([0.5, 0.25], {})
    assert found.notes == [
        f"Where the samples are is not known ({tmp_path}: There are no shards of one kind here); "
        "name the shards with --data to see them."
    ]
    with pytest.raises(SourceError, match="no shards"):
        inspect_path(tmp_path / "_scores", data=tmp_path)


def test_nothing_to_inspect(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no shards"):
        inspect_path(tmp_path)
    with pytest.raises(SourceError, match="no shards"):
        inspect_path(str(tmp_path / "missing"))
