"""Text that is on every machine: what the installed Python packages and the standard library contain.

Docstrings, READMEs, source, licences and tables, read as files: nothing is imported or run. Each package
gives at most so much of a kind, so that none dominates.
"""

from __future__ import annotations

import ast
import random
import sysconfig
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import NamedTuple

CHUNK = 420
"""Characters of a sample, at most."""

LEAST = 120
"""Characters of a sample, at least: less is no text."""

PER_PACKAGE = {"docstring": 15, "readme": 20, "source": 15, "licence": 30, "table": 15, "text": 15}
"""Chunks of each kind that one package may give: about a file of each."""

STANDARD_LIBRARY = 16
"""The standard library counts as this many packages."""

_FILES = 12
_LARGEST = {"docstring": 60_000, "source": 60_000}
_LARGEST_OTHER = 400_000
_LICENCES = ("licen", "copying", "notice", "copyright")
_KINDS = {
    ".py": "source",
    ".csv": "table",
    ".json": "table",
    ".tsv": "table",
    ".txt": "text",
    ".rst": "text",
    ".md": "text",
}
_LEFT_OUT = {"test", "tests", "testing", "__pycache__", "pydoc_data", "site-packages", "lib2to3", "idlelib"}


class Sample(NamedTuple):
    """A chunk of text, what kind of text it is, and whose."""

    text: str
    kind: str
    package: str


def chunks(text: str, size: int = CHUNK, least: int = LEAST) -> Iterator[str]:
    """Cut a text into pieces of ``least`` to ``size`` characters, between paragraphs where possible.

    A paragraph that does not fit begins a new piece, so that two files with a passage in common soon give the
    same pieces.

    Example:
        >>> list(chunks("one\\n\\ntwo\\n\\n" + "three " * 4, size=10, least=5))
        ['one\\n\\ntwo', 'three', 'three', 'three', 'three']
    """
    piece = ""
    for paragraph in (part.strip("\n").rstrip() for part in text.split("\n\n")):
        if not paragraph:
            continue
        if piece and len(piece) + len(paragraph) + 2 > size:
            if len(piece) >= least:
                yield piece
            piece = ""
        while len(paragraph) > size:
            cut = max(paragraph.rfind("\n", size // 2, size), 0) or paragraph.rfind(" ", size // 2, size)
            head = paragraph[: cut if cut > 0 else size].strip()
            if len(head) >= least:
                yield head
            paragraph = paragraph[cut if cut > 0 else size :].lstrip("\n ")
        piece = f"{piece}\n\n{paragraph}" if piece else paragraph
    if len(piece) >= least:
        yield piece


def installed_texts(seed: int = 0) -> list[Sample]:
    """Chunks of all installed packages and of the standard library, in the same order for the same seed.

    Args:
        seed: which files of a package are read, where it has more than it may give.

    Returns:
        Samples, package by package. Repeats are kept: many packages carry the same licence.
    """
    named = {_field(d, "Name").lower(): d for d in distributions()}
    samples = []
    for name in sorted(named):
        samples += _capped(_of_distribution(named[name], random.Random(f"{seed}:{name}")), name, 1)
    library = Path(sysconfig.get_paths()["stdlib"])
    # Shallow: packages of the standard library that are no subfolder of it must not come in.
    files = [p for pattern in ("*.py", "*/*.py", "LICENSE.txt") for p in library.glob(pattern)]
    paths = [p for p in sorted(files) if not _LEFT_OUT.intersection(p.relative_to(library).parts)]
    rng = random.Random(f"{seed}:python")
    return samples + _capped(_of_files(paths, rng, _FILES * STANDARD_LIBRARY), "python", STANDARD_LIBRARY)


def topics() -> list[Sample]:
    """The language reference that comes with Python (what ``help("if")`` prints), in chunks."""
    from pydoc_data.topics import topics as pages

    return [Sample(piece, "reference", "pydoc_data") for name in sorted(pages) for piece in chunks(pages[name])]


def _capped(pieces: Iterable[tuple[str, str]], package: str, share: int) -> list[Sample]:
    """At most so many of each kind."""
    count: dict[str, int] = defaultdict(int)
    kept = []
    for kind, piece in pieces:
        if count[kind] < PER_PACKAGE[kind] * share:
            count[kind] += 1
            kept.append(Sample(piece, kind, package))
    return kept


def _of_distribution(distribution: Distribution, rng: random.Random) -> Iterator[tuple[str, str]]:
    """(kind, chunk) of one package."""
    for piece in chunks(_field(distribution, "Description")):
        yield "readme", piece
    paths = [
        f
        for f in distribution.files or ()
        if (f.suffix in _KINDS or not f.suffix) and not _LEFT_OUT.intersection(f.parts) and ".." not in f.parts
    ]
    located = [Path(str(distribution.locate_file(f))) for f in sorted(paths, key=str)]
    yield from _of_files(located, rng, _FILES)


def _field(distribution: Distribution, name: str) -> str:
    return str(distribution.metadata[name]) if name in distribution.metadata else ""


def _of_files(paths: list[Path], rng: random.Random, most: int) -> Iterator[tuple[str, str]]:
    """(kind, chunk) of files; at most ``most`` files of each kind, chosen at random."""
    by_kind: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        kind = _kind(path)
        if kind is not None:
            by_kind[kind].append(path)
    for kind in sorted(by_kind):
        files = by_kind[kind]
        for path in rng.sample(files, min(most, len(files))):
            text = _read(path, _LARGEST.get(kind, _LARGEST_OTHER))
            if kind == "source":
                yield from _of_source(text)
            else:
                for piece in chunks(text[:20_000]):
                    yield kind, piece


def _kind(path: Path) -> str | None:
    in_metadata = any(part.endswith(".dist-info") for part in path.parts)
    if path.name.lower().startswith(_LICENCES):
        return "licence"
    return None if in_metadata else _KINDS.get(path.suffix)


def _of_source(text: str) -> Iterator[tuple[str, str]]:
    """The docstrings of a Python file and, without them, its code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a package's invalid escape sequences are not ours
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return
    lines: list[str | None] = list(text.splitlines())
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        docstring = ast.get_docstring(node)
        if docstring:
            first = node.body[0]
            lines[first.lineno - 1 : first.end_lineno] = [None] * ((first.end_lineno or 0) - first.lineno + 1)
            for piece in chunks(docstring):
                yield "docstring", piece
    for piece in chunks("\n".join(line for line in lines if line is not None)):
        yield "source", piece


def _read(path: Path, largest: int) -> str:
    """The file's text; nothing if it is missing, too large or no UTF-8 text."""
    try:
        if path.stat().st_size > largest:
            return ""
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    return "" if "\0" in text else text.replace("\r\n", "\n")
