"""The code of the documentation runs, its error messages exist, its figures are those of the benchmarks."""

from __future__ import annotations

import ast
import contextlib
import doctest
import io
import re
import shlex
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import page_scenes
import pytest
from optional import NEEDS
from pages import ROOT, Block, blocks, commands, pages, sides
from shared_servers import BINARY

import weighted_stream
from benchmarks import results_page
from weighted_stream.cli import main


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


class Reader:
    """Somebody who types a page into one session, in a folder of its own."""

    def __init__(self, page: Path, folder: Path) -> None:
        self.page, self.folder = page, folder
        self.ends = contextlib.ExitStack()
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def read(self, block: Block) -> None:
        """Do what the block says."""
        if not all(map(is_here, needed(block))):
            return
        for name in re.split(r",\s*", block.remarks.get("setup", "")):
            if name:
                self.names |= getattr(page_scenes, name)(self.folder, self.ends)
        if "not run" in block.remarks:
            return
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), self._expecting(block.remarks.get("raises")):
            if block.language == "python":
                self._run(block.text, block.line)
            elif block.language == "diff":
                before, after = sides(block.text)
                compile(before, name_of(self.page), "exec")
                self._run(after, block.line)
            elif block.language == "sh":
                for command in commands(block.text):
                    program, *arguments = shlex.split(command)
                    assert program == "weighted-stream", f"who is to run {program!r}?"
                    assert main(arguments) == 0, command
        if block.prints is not None:
            check_output(block.prints, printed.getvalue())

    def _run(self, text: str, line: int) -> None:
        exec(compile("\n" * (line - 1) + text, str(self.page), "exec"), self.names)

    @staticmethod
    def _expecting(error: str | None) -> contextlib.AbstractContextManager[Any]:
        if error is None:
            return contextlib.nullcontext()
        return pytest.raises(getattr(weighted_stream, error))


def needed(block: Block) -> list[str]:
    return re.split(r",\s*", block.remarks["needs"]) if "needs" in block.remarks else []


def is_here(name: str) -> bool:
    return BINARY is not None if name == "redis-server" else find_spec(name) is not None


def check_output(expected: str, printed: str) -> None:
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    same = doctest.OutputChecker().check_output(expected, printed, options)
    assert same, f"printed:\n{printed}\nexpected:\n{expected}"


@pytest.mark.timeout(600)  # a framework is imported in some minutes where the machine is busy
@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reader = Reader(page, tmp_path)
    with warnings.catch_warnings(), reader.ends:
        warnings.filterwarnings("ignore", "A weight of", RuntimeWarning)  # of LinUpper's theory, at r = 0.4
        for block in blocks(page.read_text()):
            if needed(block):  # frameworks warn of much
                warnings.simplefilter("ignore")
            reader.read(block)


def test_every_block_says_what_it_is() -> None:
    known = {"python", "sh", "diff", "json", ""}
    for page in pages():
        for block in blocks(page.read_text()):
            assert block.language in known, f"{name_of(page)}:{block.line}"


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in pages():
        text = page.read_text()
        told = re.findall(r"`make ([\w-]+)", text) + re.findall(r"^make ([\w-]+)", text, re.MULTILINE)
        assert set(told) <= targets, name_of(page)


def test_a_page_that_prints_something_else_is_found(tmp_path: Path) -> None:
    page = "```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n"
    (block,) = blocks(page)
    with pytest.raises(AssertionError, match="printed:"):
        Reader(ROOT / "README.md", tmp_path).read(block)


def test_a_page_that_fails_is_found_by_its_line(tmp_path: Path) -> None:
    (block,) = blocks("# A page\n\n```diff\n-1 +\n+ 1\n```\n")
    with pytest.raises(SyntaxError):
        Reader(ROOT / "README.md", tmp_path).read(block)
    (block,) = blocks("# A page\n\n```python\nraise KeyError\n```\n")
    with pytest.raises(KeyError) as error:
        Reader(ROOT / "README.md", tmp_path).read(block)
    assert error.traceback[-1].lineno == 3  # from 0


def texts_of_the_package() -> set[str]:
    """Every piece of text in the source, with … for what is put in."""
    found = set()
    for file in (ROOT / "weighted_stream").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def is_said(message: str, texts: set[str]) -> bool:
    pattern = re.compile(".*?".join(map(re.escape, message.split("…"))))
    return any(pattern.search(text) for text in texts)


def test_errors_of_the_documentation_are_in_the_source() -> None:
    page = (ROOT / "docs" / "guide" / "troubleshooting.md").read_text()
    messages = re.findall(r"^### `(.+)`$", page, re.MULTILINE)
    assert len(messages) == len(re.findall("^### ", page, re.MULTILINE)) > 30
    texts = texts_of_the_package()
    assert [message for message in messages if not is_said(message, texts)] == []
    assert not is_said("The store in … has a reader already.", texts)


def test_every_public_name_is_documented() -> None:
    told = set()
    for page in (ROOT / "docs").rglob("*.md"):
        told |= set(re.findall(r"^::: weighted_stream\.(\w+)$", page.read_text(), re.MULTILINE))
    assert set(weighted_stream.__all__) | set(NEEDS) == told | {"__version__"}


def test_figures_are_those_of_the_benchmarks() -> None:
    assert [name_of(page) for page in results_page.stale()] == [], "make results"


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and the site have it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def broken_links(page: Path) -> list[str]:
    found = []
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        headings = (
            re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE) if file.suffix == ".md" and file.exists() else []
        )
        if not file.exists() or (anchor and anchor not in map(slug, headings)):
            found.append(target)
    return found


def test_links_lead_somewhere(tmp_path: Path) -> None:
    for page in pages():
        assert broken_links(page) == [], name_of(page)
    (tmp_path / "page.md").write_text("# A b\n[x](other.md) [y](#a-b) [z](#c) [w](page.md#a-b)\n")
    assert broken_links(tmp_path / "page.md") == ["other.md", "#c"]
