"""Labels: names of groups and shards as every logger takes them, and no more of them than a chart can show."""

from __future__ import annotations

import re
from collections.abc import Callable

MOST = 64
"""Groups, or shards, that get a label; from then on there is one for all others."""

OTHERS = "others"

_LONGEST = 60
_STRANGE = re.compile(r"[^\w.\-]+")


def label(name: str) -> str:
    """A name that every logger takes: letters, digits and ``_-.``, at most 60 of them, of a long one both ends.

    Example:
        >>> label("code/Python"), label("a\\n\\x1b[31m b"), label("../../etc"), label("")
        ('code_Python', 'a_31m_b', '_etc', '_')
    """
    ends = name if len(name) <= 2 * _LONGEST else name[:_LONGEST] + "_" + name[-_LONGEST:]
    safe = _STRANGE.sub("_", ends)
    if len(safe) > _LONGEST:
        safe = f"{safe[: _LONGEST // 2]}_{safe[1 - _LONGEST // 2 :]}"
    return re.sub(r"^[._]+|^$", "_", safe)


class Labels:
    """Gives labels to kinds known by number; a label once given stays.

    Args:
        name: tells the name of a kind.

    Example:
        >>> labels = Labels(["en", "de", "e n", "e/n"].__getitem__)
        >>> labels.of(1), labels.of(2), labels.of(3)
        ('de', 'e_n', 'e_n.2')
    """

    def __init__(self, name: Callable[[int], str]) -> None:
        self._name = name
        self._given: dict[int, str] = {}
        self._taken = {OTHERS}

    def of(self, kind: int) -> str:
        """The label of a kind."""
        known = self._given.get(kind)
        if known is not None:
            return known
        if len(self._given) >= MOST:
            return OTHERS
        plain = chosen = label(self._name(kind))
        again = 1
        while chosen in self._taken:
            again += 1
            chosen = f"{plain}.{again}"
        self._taken.add(chosen)
        self._given[kind] = chosen
        return chosen
