"""Docstrings as mkdocstrings wants them: an extension of griffe that `mkdocs.yml` names.

They are written to be read in an editor: ``Example:`` above doctests, ``::`` before code, names in single backticks.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

from weighted_stream import __all__ as public

_NAME = re.compile(r"(?<![`\[\w])`(" + "|".join(sorted(public, key=len, reverse=True)) + r")((?:\.\w+)*)`(?![`\]\w])")


class Docstrings(griffe.Extension):
    """Rewrites each docstring of the package before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Griffe has loaded a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """A docstring with its sections, code and references as griffe and Markdown have them.

    Example:
        >>> print(as_markdown("Takes a `Weight`::\\n\\n    losses * weight\\n\\nExample:\\n    >>> 1\\n    1"))
        Takes a [`Weight`][weighted_stream.Weight]:
        <BLANKLINE>
            losses * weight
        <BLANKLINE>
        Examples:
            >>> 1
            1
    """
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    prose, found, examples = text.partition("\nExamples:\n")
    return _NAME.sub(r"[`\1\2`][weighted_stream.\1\2]", prose) + found + examples
