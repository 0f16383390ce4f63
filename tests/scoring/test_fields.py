"""Where a sample keeps what is scored."""

from __future__ import annotations

import operator
import pickle
from collections import UserDict

import pytest

from weighted_stream.errors import ScoringError
from weighted_stream.scoring.fields import NoTextError, check_texts, sample_field


@pytest.mark.parametrize(
    "sample", ["café", "café".encode(), {"text": "café"}, {"text": "café".encode()}, UserDict(text="café")]
)
def test_a_field_gives_text(sample) -> None:
    assert pickle.loads(pickle.dumps(sample_field("text")))(sample) == "café"


def test_a_function_of_the_sample() -> None:
    field = sample_field(operator.itemgetter(1))
    assert pickle.loads(pickle.dumps(field))(("a", "b")) == "b"


def test_what_is_no_text_passes_for_encoders_of_other_things() -> None:
    assert sample_field("pixels")({"pixels": [1, 2]}) == [1, 2]


def test_a_missing_field_names_those_that_are_there() -> None:
    with pytest.raises(ScoringError) as error:
        sample_field("text")({"txt": "a", "__key__": "0"})
    assert "'txt'" in str(error.value)
    assert "'__key__'" in str(error.value)
    with pytest.raises(ScoringError, match="a tuple, which has no fields"):
        sample_field("text")(("a", 1))


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(ScoringError, match="UTF-8"):
        sample_field("image")({"image": b"\xff\xd8\xff"})


def test_what_names_no_field() -> None:
    with pytest.raises(ScoringError, match="text=3"):
        sample_field(3)  # type: ignore[arg-type]


def test_texts_are_text() -> None:
    assert check_texts(("a", ""), "X") == ["a", ""]
    with pytest.raises(NoTextError, match="a NoneType in row 1") as error:
        check_texts(["a", None], "X")
    assert error.value.row == 1
    moved = error.value.moved(40)
    assert moved.row == 41
    assert moved.found == "a NoneType in row 41: None"
    assert type(moved.at("the last line")) is ScoringError
    assert moved.at("the last line").found == "a NoneType in the last line: None"
