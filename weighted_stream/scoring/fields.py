"""Where a sample keeps what is to be scored: a field's name, or a function of the sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from weighted_stream.errors import ScoringError

TextField: TypeAlias = "str | Callable[[Any], Any]"


class NoTextError(ScoringError):
    """A sample that an encoder of text was given is no text.

    Attributes:
        row: its place among the samples that were handed over together.
        value: what it is.
        who: the encoder.
    """

    row: int = 0
    value: object = None
    who: str = ""

    def at(self, where: str) -> ScoringError:
        """The same of a place that a reader can find, such as ``"row 5000 of 00000.parquet"``."""
        found = f"a {type(self.value).__name__} in {where}: {str(self.value)[:40]}"
        return ScoringError(self.problem, found=found, expected=self.expected, do=self.do)

    def moved(self, start: int) -> NoTextError:
        """The same, where ``start`` samples come before those that were handed over."""
        return no_text(self.who, self.value, self.row + start)


def no_text(who: str, value: object, row: int) -> NoTextError:
    """The error for a value that is no text.

    Example:
        >>> no_text("MyEncoder", None, 3).found
        'a NoneType in row 3: None'
    """
    error = NoTextError(
        f"{who} encodes text, and this is none.",
        found=f"a {type(value).__name__} in row {row}: {str(value)[:40]}",
        expected="str",
        do="name the field of the text, or pass text= a function of the sample (an empty text is legal)",
    )
    error.row, error.value, error.who = row, value, who
    return error


class Field:
    """Reads one field of a sample; unlike a lambda it pickles. See `sample_field`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, sample: Any) -> Any:
        """The value under the name: bytes as UTF-8 text, anything else as it is."""
        if isinstance(sample, str):
            return sample
        if isinstance(sample, bytes):
            return self._text(sample)
        try:
            value = sample[self.name]
        except (KeyError, IndexError, TypeError) as error:
            raise self._missing(sample) from error
        return self._text(value) if isinstance(value, bytes) else value

    def _missing(self, sample: Any) -> ScoringError:
        named = isinstance(sample, Mapping)
        return ScoringError(
            f"The sample has no field {self.name!r}.",
            found=f"fields {sorted(map(str, sample))}" if named else f"a {type(sample).__name__}, which has no fields",
            expected=f"a dict with the key {self.name!r}, or the text itself",
            do="pass text= the name of a field, or a function sample -> what is to be scored",
        )

    def _text(self, value: bytes) -> str:
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ScoringError(
                f"The field {self.name!r} holds bytes that are no text.",
                found=f"{value[:20]!r} …: {error}",
                expected="UTF-8",
                do="name a field of text, or pass text= a function of the sample that decodes it",
            ) from error

    def __repr__(self) -> str:
        return f"Field({self.name!r})"


def sample_field(text: TextField) -> Callable[[Any], Any]:
    """A function sample -> what is to be scored of it.

    Args:
        text: the name of a field (a sample that is a str, or UTF-8 bytes, is its own text), or a function of the
            sample. A function has to pickle: no lambda, but ``operator.attrgetter("text")`` will do.

    Returns:
        The function itself, or one that reads the field and raises a `ScoringError` that names the sample's fields.

    Example:
        >>> read = sample_field("text")
        >>> read({"text": b"two and two", "row": 3}), read("four")
        ('two and two', 'four')
    """
    if not isinstance(text, str) and not callable(text):
        raise ScoringError(
            "This names no field.",
            found=f"text={text!r}",
            expected="the name of a field, or a function of the sample",
            do='pass text="…"',
        )
    return Field(text) if isinstance(text, str) else text


def check_texts(samples: Sequence[Any], who: str) -> list[str]:
    """The samples as a list, if they are all text.

    Raises:
        NoTextError: for the first that is none.
    """
    texts = list(samples)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise no_text(who, text, row)
    return texts
