"""Labels: hostile names become harmless, distinct and few."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from weighted_stream.figures.labels import MOST, OTHERS, Labels, label


@given(st.text(max_size=300) | st.text(alphabet="/._ \x1b\u202e\ud800", max_size=300))
def test_any_name_becomes_harmless(name: str) -> None:
    made = label(name)
    assert re.fullmatch(r"[\w.\-]{1,60}", made)
    assert not made.startswith(".")
    made.encode()


def test_ends_of_a_long_name_stay() -> None:
    made = label("begin" + "x" * 10**6 + "end")
    assert (made[:5], made[-3:], len(made)) == ("begin", "end", 60)


def test_labels_are_distinct_and_stay() -> None:
    names = ["a/b", "a b", "a_b", OTHERS, *map(str, range(100))]
    labels = Labels(names.__getitem__)
    given_ = [labels.of(kind) for kind in range(len(names))]
    assert given_[:4] == ["a_b", "a_b.2", "a_b.3", "others.2"]
    assert len(set(given_[:MOST])) == MOST
    assert set(given_[MOST:]) == {OTHERS}
    assert [labels.of(kind) for kind in range(len(names))] == given_
