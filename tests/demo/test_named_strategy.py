"""Strategies by name in the demo: their labels, the target some are told of, and what is refused early."""

from __future__ import annotations

import pytest

from weighted_stream import AdaptBM25, LinUpper, Similarity, strategy_names
from weighted_stream.demo.named_strategy import NamedStrategy
from weighted_stream.errors import WeightedStreamError

EXAMPLES = ["two apples and three pears", "five plums less four"]


def test_labels_tell_options() -> None:
    assert NamedStrategy("linupper").label == "linupper"
    assert NamedStrategy("linupper", {"r": 0.4, "window": "running"}).label == "linupper r=0.4 window=running"


@pytest.mark.parametrize("name", strategy_names())
def test_every_strategy_by_name_can_be_made(name: str) -> None:
    pytest.importorskip("sklearn")
    choice = NamedStrategy(name)
    choice.check()
    assert choice.needs_target == (choice.make(EXAMPLES).scoring is not None)


@pytest.mark.parametrize(("name", "kind"), [("similarity", Similarity), ("adapt-bm25", AdaptBM25)])
def test_who_is_told_of_the_target_waits_for_scores(name: str, kind: type) -> None:
    strategy = NamedStrategy(name).make(EXAMPLES)
    assert isinstance(strategy, kind)
    assert strategy.scoring is not None
    assert strategy.scoring.wait
    assert strategy.scoring.make().target.samples == EXAMPLES  # type: ignore[attr-defined]


def test_options_are_passed_on() -> None:
    linupper = NamedStrategy("LinUpper", {"r": 0.4}).make([])
    assert isinstance(linupper, LinUpper)
    assert linupper.r == 0.4
    similarity = NamedStrategy("similarity", {"ess": 0.5, "wait": False}).make(EXAMPLES)
    assert isinstance(similarity, Similarity)
    assert similarity.ess == 0.5
    assert similarity.scoring is not None
    assert not similarity.scoring.wait


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        (NamedStrategy("linuper"), "linuper"),
        (NamedStrategy("linupper", {"R": 1}), "R"),
        (NamedStrategy("similarity", {"ess": 2}), "ess=2"),
        (NamedStrategy("similarity", {"encoder": "no/such/model"}), "no/such/model"),
    ],
)
def test_refused_before_the_work_begins(choice: NamedStrategy, says: str) -> None:
    with pytest.raises(WeightedStreamError) as error:
        choice.check()
    assert says in str(error.value)
