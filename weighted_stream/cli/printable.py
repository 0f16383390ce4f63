"""Text of others, as a terminal can show it without harm."""

from __future__ import annotations

_SHOWN = 200


def printable(text: str, most: int = _SHOWN) -> str:
    """One line that cannot play tricks on a terminal: what is not printable is escaped, what is too long cut.

    Example:
        >>> print(printable("red \\x1b[31m\\nline", most=15))
        red \\x1b[31m\\n…
    """
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: most + 1])
    return safe if len(safe) <= most else safe[: most - 1] + "…"
