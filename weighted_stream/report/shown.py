"""Text of strangers, made fit to be shown, and values made fit to stand in a page."""

from __future__ import annotations

import json
import math
import re
from typing import Any

CUT = "…"

_PICTURES = 0x2400
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)
_IN_A_PAGE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_UNSAFE = re.compile("[<>&\u2028\u2029]")


def visible(text: str, most: int) -> str:
    """The beginning of a text, without anything that is not seen: a control character is shown as what it is.

    Line ends and tabs stay, and so do letters of every script, whichever way they run. What turns the direction of
    others, joins nothing, or is no character at all is named.

    Args:
        text: any str, lone surrogates too.
        most: characters of it.

    Example:
        >>> visible("red \\x1b[31m", 20), visible("a\\u202eb", 20), visible("much", 3)
        ('red ␛[31m', 'a⟨202E⟩b', 'mu…')
    """
    cut = text if len(text) <= most else text[: most - 1] + CUT
    return _HIDDEN.sub(_name, cut)


def _name(found: re.Match[str]) -> str:
    number = ord(found[0])
    return chr(_PICTURES + number) if number < 32 else "␡" if number == 127 else f"⟨{number:04X}⟩"


def number(value: float) -> float | None:
    """A number as JSON has it, with five digits that count; None for one that is none.

    Example:
        >>> number(0.123456789), number(float("nan")), number(12345678.0)
        (0.12346, None, 12346000.0)
    """
    return float(f"{value:.5g}") if math.isfinite(value) else None


def numbers(values: Any) -> list[float | None]:
    """The same of an array, (n,)."""
    return [number(value) for value in values.tolist()]


def embedded(value: Any) -> str:
    """JSON that may stand inside of a ``<script type="application/json">``: nothing in it ends or begins anything.

    Raises:
        ValueError: for NaN or infinity: JSON has none.

    Example:
        >>> embedded(["</script>"])
        '["\\\\u003c/script\\\\u003e"]'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda found: _IN_A_PAGE[found[0]], text)
