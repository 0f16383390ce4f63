"""The page: one HTML file with everything in it, which asks nobody for anything and runs nothing of its data."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any

from weighted_stream.report.shown import embedded

_ASSETS = files("weighted_stream.report").joinpath("assets")

SCRIPTS = ("drawing.js", "sections.js", "samples.js", "start.js")
"""In the order in which they need each other; one script of the page."""


def page(value: dict[str, Any]) -> str:
    """The page that shows what `build` found.

    Its policy allows one script and one style by their hashes, and nothing else: no request, no form, no frame.
    """
    html, style = _read("report.html"), _read("report.css")
    script = '"use strict";\n' + "".join(map(_read, SCRIPTS))
    parts = {
        "POLICY": (
            f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
            "base-uri 'none'; form-action 'none'"
        ),
        "STYLE": style,
        "SCRIPT": script,
        "DATA": embedded(value),
    }
    # Split, not replaced one after the other: data may look like a place for something.
    pieces = html.split("@@")
    return "".join(parts[piece] if place % 2 else piece for place, piece in enumerate(pieces))


def _read(name: str) -> str:
    return _ASSETS.joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
