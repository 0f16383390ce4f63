"""Texts of samples that carry a marker, whatever the format, for tests in which another process reads them too."""

from __future__ import annotations

from typing import Any

from part_readers import marker_of

WORDS = ["apple", "river", "stone", "cloud", "violin", "winter", "harbour", "candle", "meadow", "engine"]


def text_of_marker(marker: int) -> str:
    """Different words in different amounts: no two markers below 1,000 have the same."""
    return " ".join(WORDS[int(digit)] for place, digit in enumerate(f"{marker:03}") for _ in range(place + 1))


def text_of(sample: Any) -> str:
    return text_of_marker(marker_of(sample))
