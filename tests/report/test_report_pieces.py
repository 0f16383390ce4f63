"""The pieces of a report that are pure functions: drawing, places, hints, what is shown of a text."""

from __future__ import annotations

import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighted_stream.report.charts import Parts, medians
from weighted_stream.report.comparison import compare, described, rank_correlation
from weighted_stream.report.drawing import Draw
from weighted_stream.report.findings import preferred
from weighted_stream.report.hints import hashed, maybe_mislabelled, never_learned, repeated
from weighted_stream.report.ledger import Account
from weighted_stream.report.places import Places
from weighted_stream.report.shown import embedded, visible
from weighted_stream.sources.ids import shard_id


def account(**columns: list[float]) -> Account:
    """An account of as many samples; what is not given is not known."""
    count = len(next(iter(columns.values())))
    known = {name: np.array(values, np.float64) for name, values in columns.items()}
    blank = {name: np.full(count, np.nan) for name in Account._fields}
    counts = {name: np.zeros(count, np.int64) for name in ("weights", "visits", "high")}
    return Account(**{**blank, **counts, "ids": np.arange(count), **known})  # type: ignore[arg-type]


def test_a_draw_is_uniform_and_keeps_rows_together() -> None:
    counts = np.zeros(1000)
    for seed in range(200):
        draw = Draw(50, np.random.default_rng(seed))
        for begin in range(0, 1000, 130):
            block = np.arange(begin, min(begin + 130, 1000))
            draw.add(block, block * 2.5)
        ids, values = draw.rows()
        assert len(ids) == 50
        assert draw.seen == 1000
        assert not draw.all
        assert (values == ids * 2.5).all()
        assert (np.diff(ids) > 0).all()
        counts[ids] += 1
    # 10 expected of each, in any hundred of them 1,000: the ends as often as the middle.
    assert np.abs(counts.reshape(10, 100).sum(axis=1) - 1000).max() < 150


def test_places_of_many_shards() -> None:
    rows = {f"s{i}.mds": 3 * i for i in range(50)} | {"huge.mds": (1 << 20) + 5}
    places = Places({"kind": "mds", "name": "text", "size": None, "shards": rows})
    wanted = [("s7.mds", 20), ("huge.mds", 2), ("huge.mds", (1 << 20) + 4), ("s49.mds", 0)]
    ids = np.array([shard_id(name, row) for name, row in wanted] + [5, shard_id("other.mds", 0)])
    shards, at = places.of(ids)
    assert [places.names[shard] for shard in shards[:4].tolist()] == [name for name, _ in wanted]
    assert at.tolist() == [row for _, row in wanted] + [-1, -1]
    assert shards[4:].tolist() == [-1, -1]


@pytest.mark.parametrize(
    "fingerprint",
    [
        None,
        {},
        {"kind": "webdataset", "shards": {"a.tar": 100}},
        {"kind": "mds", "shards": ["a"]},
        {"kind": "mds", "shards": {"a": "3", "b": -1, "c": True, "d": 1 << 60}},
    ],
)
def test_places_that_are_not_known(fingerprint: dict[str, object] | None) -> None:
    places = Places(fingerprint)
    assert len(places) == 0
    assert [part.tolist() for part in places.of(np.array([1, 2]))] == [[-1, -1], [-1, -1]]


def test_never_learned() -> None:
    some = account(visits=[3, 3, 1, 2, 2], high=[3, 2, 1, 2, 2], above=[1.0, 9.0, 9.0, 3.0, 2.0])
    assert never_learned(some, 10).tolist() == [3, 4, 0]
    assert never_learned(some, 1).tolist() == [3]


def test_maybe_mislabelled() -> None:
    some = account(
        visits=[2, 2, 2, 1, 2, 2],
        first=[1.0, 1.0, 2.0, 1.0, 1.0, 1.0],
        last=[2.0, 4.0, 1.0, 5.0, 2.0, 1.5],
        first_alike=[3.0, 3.0, 3.0, 3.0, 3.0, 3.0],
        last_alike=[1.0, 1.0, 1.0, 1.0, 3.5, 1.7],
    )
    # One whose loss fell, one of one visit, one whose neighbours rose too, one that is still below them: none of these.
    assert maybe_mislabelled(some, 10).tolist() == [1, 0]


@given(st.lists(st.sampled_from("abcde")))
def test_repeats(texts: list[str]) -> None:
    places, times = repeated(hashed(texts))
    often = [at for at, text in enumerate(texts) if texts.count(text) > 1]
    assert sorted(places.tolist()) == often
    assert times.tolist() == [texts.count(texts[at]) for at in places.tolist()]
    assert (np.diff(times) <= 0).all()


def test_a_comparison() -> None:
    one = account(weight=[1.0, 2.0, np.nan, 4.0], last=[1.0, 2.0, 3.0, np.nan])
    other = account(weight=[1.5, 0.0, 3.0, 3.9], last=[3.0, 2.5, 3.1, 1.0])
    found = compare(one, other, 2)
    assert found.weighed.tolist() == [0, 1, 3]
    assert found.seen.tolist() == [0, 1, 2]
    assert found.by_weight.tolist() == [1, 0]
    assert found.by_loss.tolist() == [0, 1]
    assert found.losses_agree == pytest.approx(0.5)


def test_a_comparison_of_runs_that_do_not_differ() -> None:
    one = account(weight=[1.0, 1.0], last=[0.0, 0.0])
    other = account(weight=[1.0, 2.0], last=[0.0, 0.0])
    weights, losses = described(compare(one, other, 2), one, other, ("a", "b"), True)
    assert weights.answer == "The weights of at least one do not vary"
    assert losses.answer == "Neither, to half a percent"
    few = account(weight=[1.0], last=[0.0])
    assert described(compare(few, few, 2), few, few, ("a", "b"), True)[0].answer == "Too few to say"


def test_rank_correlation_with_ties() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 100).astype(float), rng.integers(0, 5, 100).astype(float)

    def ranks(values: np.ndarray) -> np.ndarray:
        return np.array([(values < value).sum() + (values == value).sum() / 2 for value in values])

    assert rank_correlation(x, y) == pytest.approx(np.corrcoef(ranks(x), ranks(y))[0, 1])
    assert np.isnan(rank_correlation(np.ones(3), np.arange(3.0)))


def test_medians_leave_out_what_is_not_known() -> None:
    x = np.array([np.nan, 1, 2, 3, 4])
    assert medians(x, np.array([9.0, 1, 2, np.nan, 8]), parts=3) == [[1.0, 1.0], [2.0, 2.0], [4.0, 8.0]]
    assert medians(np.ones(5), np.arange(5.0)) == []


@given(st.text(st.characters(exclude_categories=())), st.integers(1, 40))
def test_what_is_shown_has_nothing_hidden(text: str, most: int) -> None:
    shown = visible(text, most)
    shown.encode()
    for character in shown:
        category = unicodedata.category(character)
        assert category not in ("Cs", "Zl", "Zp")
        assert category != "Cc" or character in "\n\t"
        assert unicodedata.bidirectional(character) not in (
            "LRE",
            "RLE",
            "LRO",
            "RLO",
            "PDF",
            "LRI",
            "RLI",
            "FSI",
            "PDI",
        )
    if len(text) <= most and text.isprintable():
        assert shown == text


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_what_is_embedded_comes_out_again(value: object) -> None:
    text = embedded(value)
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == value


def test_no_number_that_json_has_not() -> None:
    with pytest.raises(ValueError):
        embedded([float("nan")])


def test_parts_with_few_visits_are_named_and_not_ranked() -> None:
    def answer(visits: list[float]) -> tuple[str, str]:
        counts = np.array([visits, visits, visits, np.multiply(visits, [1.0, 2.0, 5.0, 0.0])])
        found = preferred("kind", Parts(["web", "code", "noise"], counts, None, None), "")
        return found.answer, found.detail

    said, detail = answer([900.0, 600.0, 3.0, 0.0])
    assert said.startswith("code most")
    assert "Not ranked, with fewer than 20 visits: noise (×3." in detail
    assert answer([900.0, 600.0, 0.0, 0.0])[1].endswith(".")
    assert "Not ranked" not in answer([900.0, 600.0, 0.0, 0.0])[1]
    assert answer([9.0, 6.0, 3.0, 0.0])[0] == "Too few visits to say"
    assert answer([900.0, 0.0, 0.0, 0.0])[0] == "There is one kind only"
