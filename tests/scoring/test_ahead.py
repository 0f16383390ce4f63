"""Scoring ahead, with the scorer in a thread: what is scored, in which order, how far ahead, and what goes wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ahead_stand_ins import ListSource, Numbers, identity, plan, score_of, scoring, until
from hypothesis import given
from hypothesis import strategies as st

from weighted_stream.errors import ScoringError, StoreMismatchError
from weighted_stream.scoring.ahead_messages import pack_scores, unpack_scores
from weighted_stream.scoring.ahead_progress import Progress
from weighted_stream.scoring.ahead_reader import batches
from weighted_stream.scoring.base import ScoringPlan
from weighted_stream.scoring.bm25 import BM25Scorer
from weighted_stream.scoring.identity import ScoreIdentity
from weighted_stream.scoring.similarity_scorer import SimilarityScorer
from weighted_stream.store import WeightStore

SHARDS = [list(range(start, start + 30)) for start in range(0, 300, 30)]


def scored(store: WeightStore) -> list[int]:
    everything = np.concatenate([np.zeros(0, np.int64), *store.ids()])
    return sorted(everything[~np.isnan(store.get(everything)["similarity"])].tolist())


def lines(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def run(source: ListSource, plan: ScoringPlan, store: WeightStore, **options: Any) -> Any:
    """To its end."""
    with scoring(source, plan, store, **options) as desk:
        until(lambda: not desk.running)
        return desk


@pytest.mark.parametrize("knows", [True, False])
def test_every_sample_is_scored_once_with_its_score(tmp_path: Path, knows: bool) -> None:
    with WeightStore() as store:
        desk = run(ListSource(SHARDS, knows), plan(Numbers(tmp_path / "log")), store)
        assert desk.error is None
        assert desk.done == 0
        assert lines(tmp_path / "log") == list(range(300))
        assert store.get(range(300))["similarity"].tolist() == [score_of(str(n)) for n in range(300)]
        assert desk.stats() | {"scorer_rate": 0} == {
            "scored_ahead": 300.0,
            "scorer_rate": 0,
            "scorer_parts": 10.0,
            "scorer_bad_parts": 0.0,
        }
        assert desk.stats()["scorer_rate"] > 0


@pytest.mark.parametrize("knows", [True, False])
def test_what_is_scored_is_not_scored_again_nor_read_if_ids_are_known(tmp_path: Path, knows: bool) -> None:
    with WeightStore() as store:
        store.bind_scores(identity())
        old = [*SHARDS[1], *SHARDS[2], 0, 299]
        store.update(old, similarity=np.full(len(old), 9.0))
        run(ListSource(SHARDS, knows, log=tmp_path / "read"), plan(Numbers(tmp_path / "log")), store)
        assert lines(tmp_path / "log") == [n for n in range(300) if n not in old]
        read = (tmp_path / "read").read_text().splitlines()
        assert len(read) == (8 if knows else 10)
        assert ("shard 1" in read) is not knows


@pytest.mark.parametrize("knows", [True, False])
@pytest.mark.parametrize("ahead", [2, 65_536])
def test_an_id_that_comes_again_is_scored_once(tmp_path: Path, knows: bool, ahead: int) -> None:
    twice = [[1, 2, 1], [2, 3], [2, 3], [4, 4, 1], [5]]
    with (
        WeightStore() as store,
        scoring(ListSource(twice, knows), plan(Numbers(tmp_path / "log"), ahead=ahead), store) as desk,
    ):
        while desk.running:
            desk.passed(1)
            time.sleep(0.001)
        assert lines(tmp_path / "log") == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("ahead", [1, 7, 64])
def test_it_scores_no_further_ahead_than_it_may(ahead: int) -> None:
    with WeightStore() as store, scoring(ListSource(SHARDS), plan(Numbers(), ahead=ahead), store) as desk:
        limit = ahead
        for passed in (1, (ahead + 1) // 2, 1, (ahead + 1) // 2):
            least = limit - max(1, ahead // 2)
            until(lambda least=least: desk._held and len(scored(store)) > least)  # it asks before it has written
            time.sleep(0.03)
            first = scored(store)
            assert len(first) <= limit
            assert first == list(range(len(first)))
            desk.passed(passed)
            limit += passed
        assert desk.running


def test_nobody_waits_for_ever_for_a_sample_that_comes_late() -> None:
    with WeightStore() as store, scoring(ListSource(SHARDS), plan(Numbers(), ahead=8), store) as desk:
        until(lambda: desk._held)
        assert desk.wait_for(np.array([150, 1, 40])).size == 0
        assert store.get([150])["similarity"] == np.float32(score_of("150"))
        assert desk.running
        time.sleep(0.05)
        assert len(scored(store)) < 300, "and then it holds back again"


def test_a_sample_met_without_a_score_lets_it_go_on() -> None:
    with WeightStore() as store, scoring(ListSource(SHARDS), plan(Numbers(), ahead=8), store) as desk:
        until(lambda: desk._held and len(scored(store)) == 8)  # it may ask before its last scores are written
        desk.hurry()
        until(lambda: len(scored(store)) == 16)
        time.sleep(0.05)
        assert len(scored(store)) == 16


@pytest.mark.parametrize("knows", [True, False])
def test_an_epoch_that_begins_meanwhile_changes_the_order_and_repeats_nothing(tmp_path: Path, knows: bool) -> None:
    log = tmp_path / "log"
    with WeightStore() as store, scoring(ListSource(SHARDS, knows), plan(Numbers(log), ahead=40), store) as desk:
        until(lambda: len(lines(log)) == 40)
        desk.begin(1, None)
        desk.passed(40)
        until(lambda: len(lines(log)) == 80)
        assert lines(log) == [*range(40), *range(299, 259, -1)]
        while desk.running:
            desk.passed(10)
            time.sleep(0.001)
        assert desk.done == 1
        assert sorted(lines(log)) == list(range(300))


@pytest.mark.parametrize("knows", [True, False])
def test_an_unreadable_shard_stops_it_and_is_named(knows: bool) -> None:
    with WeightStore() as store:
        desk = run(ListSource(SHARDS, knows, bad={"shard 4": 11}), plan(Numbers()), store)
        assert isinstance(desk.error, ScoringError)
        assert "shard 4" in str(desk.error)
        assert "the disk is gone" in str(desk.error)
        assert 'on_bad_shard="skip"' in str(desk.error)
        assert "OSError: [Errno 5] the disk is gone" in str(desk.error.__cause__)
        assert set(scored(store)) <= set(range(131))


@pytest.mark.parametrize("knows", [True, False])
def test_an_unreadable_shard_can_be_skipped(knows: bool) -> None:
    with WeightStore() as store:
        source = ListSource(SHARDS, knows, bad={"shard 4": 11, "shard 7": 0})
        desk = run(source, plan(Numbers(), on_bad_shard="skip"), store)
        assert desk.error is None
        assert list(desk.bad) == ["shard 4", "shard 7"]
        assert "the disk is gone" in desk.bad["shard 4"]
        assert desk.stats()["scorer_bad_parts"] == 2
        assert scored(store) == [*range(131), *range(150, 210), *range(240, 300)], "what was read before stands"


def test_scores_of_something_else_are_refused() -> None:
    with WeightStore() as store:
        store.bind_scores(identity("another"))
        store.update([5], similarity=[0.5])
        desk = run(ListSource(SHARDS), plan(Numbers()), store)
        assert isinstance(desk.error, StoreMismatchError)
        assert "target 'target' instead of 'another'" in str(desk.error)
        assert scored(store) == [5]


def but_for_50(sample: str) -> str | None:
    return None if sample == "50" else sample


def test_a_sample_without_text_is_named_by_its_id() -> None:
    pytest.importorskip("sklearn")
    scorer = SimilarityScorer(["two apples"], text=but_for_50)
    with WeightStore() as store:
        desk = run(ListSource(SHARDS), plan(scorer, ahead=64), store)
        assert isinstance(desk.error, ScoringError)
        assert "a NoneType in sample 50: None" in str(desk.error)


def test_also_in_the_pass_before_the_first_score() -> None:
    pytest.importorskip("sklearn")
    with WeightStore() as store:
        desk = run(ListSource(SHARDS), plan(BM25Scorer(["two apples"], text=but_for_50)), store)
        assert "a NoneType in sample 50: None" in str(desk.error)
        assert "among the samples of shard 1)" in str(desk.error)


def test_a_scorer_that_fails_names_the_shards_and_keeps_its_traceback() -> None:
    with WeightStore() as store:
        desk = run(ListSource(SHARDS), plan(Numbers(poison="50"), ahead=64), store)
        assert isinstance(desk.error, ScoringError)
        assert "no likeness of 50" in str(desk.error)
        assert "among the samples of shard 1, shard 2)" in str(desk.error)
        assert "in score" in str(desk.error.__cause__)
        assert scored(store) == list(range(32))


class Wrong(Numbers):
    """Returns what it should not."""

    def score(self, samples: Sequence[str]) -> Any:
        scores = super().score(samples)
        return {"few": scores[1:], "nan": [*scores[:-1], float("nan")], "text": ["high"] * len(scores)}[self.target]


@pytest.mark.parametrize(
    ("what", "found"), [("few", "shape (255,)"), ("nan", "nan for sample 255"), ("text", "could not convert")]
)
def test_scores_that_are_none_are_refused(what: str, found: str) -> None:
    with WeightStore() as store:
        desk = run(ListSource(SHARDS), plan(Wrong(target=what)), store)
        assert isinstance(desk.error, ScoringError)
        assert found in str(desk.error)
        assert scored(store) == []


class Learned(Numbers):
    """Has to see the corpus twice before it can score."""

    first_pass = True
    seen: list[int] | None = None

    def learn(self, sweep: Callable[[], Iterable[Sequence[str]]]) -> None:
        for _ in range(2):
            self.seen = [int(sample) for batch in sweep() for sample in batch]
        assert self.log is not None
        with self.log.with_name("learned").open("a") as file:
            file.write("".join(f"{number}\n" for number in self.seen or []))

    def score(self, samples: Sequence[str]) -> Any:
        assert self.seen
        return super().score(samples)


class LearnedIdentity(Learned):
    """Knows its identity only then."""

    @property
    def identity(self) -> ScoreIdentity:
        if self.seen is None:
            raise ScoringError("Not learned yet.")
        return identity(str(len(self.seen)))


@pytest.mark.parametrize("kind", [Learned, LearnedIdentity])
@pytest.mark.parametrize("knows", [True, False])
def test_a_scorer_may_see_the_corpus_first(tmp_path: Path, knows: bool, kind: type[Learned]) -> None:
    with WeightStore() as store:
        for lives in (1, 2):
            desk = run(ListSource(SHARDS, knows), plan(kind(tmp_path / "log")), store)
            assert desk.error is None
            assert desk.done == 0
            assert lines(tmp_path / "log") == list(range(300))
            # Started again with nothing left to score, it learns only if it must to know whose scores these are.
            needless = lives == 2 and knows and kind is Learned
            assert lines(tmp_path / "learned") == list(range(300)) * (1 if needless else lives)


def test_the_first_pass_leaves_unreadable_shards_out(tmp_path: Path) -> None:
    with WeightStore() as store:
        source = ListSource(SHARDS, bad={"shard 4": 11})
        desk = run(source, plan(Learned(tmp_path / "log"), on_bad_shard="skip"), store)
        assert list(desk.bad) == ["shard 4"]
        assert lines(tmp_path / "learned") == lines(tmp_path / "log") == [*range(131), *range(150, 300)]
        desk = run(source, plan(Learned(tmp_path / "log2")), store)
        assert "shard 4" in str(desk.error)


def test_progress_in_a_log_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    with WeightStore() as store:
        run(ListSource(SHARDS), plan(Numbers(), ahead=400), store, progress=Progress())
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2, "the first and the last"
    assert said[-1].startswith("scoring: 10 shards, 300 samples, ")
    assert "300 ahead of the trainer" in said[-1]


@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.floats(width=32, allow_nan=False))), st.floats(0, 1e6))
def test_scores_travel_unchanged(pairs: list[tuple[int, float]], seconds: float) -> None:
    ids, scores = np.array([i for i, _ in pairs], np.int64), np.array([s for _, s in pairs], np.float32)
    there = unpack_scores(pack_scores(ids, scores, seconds))
    assert there[0].tolist() == ids.tolist()
    assert there[1].tolist() == scores.tolist()
    assert there[2] == seconds


@given(st.integers(0, 20), st.integers(1, 6), st.booleans())
def test_batches_give_all_that_was_read_before_an_error(count: int, size: int, fails: bool) -> None:
    def pairs() -> Iterator[tuple[int, str]]:
        for number in range(count):
            yield number, str(number)
        if fails:
            raise OSError("gone")

    read: list[tuple[int, str]] = []
    caught = None
    try:
        for batch in batches(pairs(), size):
            assert 0 < len(batch) <= size
            read += batch
    except OSError as error:
        caught = error
    assert read == [(number, str(number)) for number in range(count)]
    assert (caught is not None) is fails
