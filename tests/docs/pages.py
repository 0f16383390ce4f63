"""Pages of documentation as what can be run: fenced blocks in their order, with the remarks above them.

A remark is an HTML comment, which readers do not see: ``<!-- setup: texts -->`` (what a page needs that it does not
make: a function of `page_scenes`), ``<!-- needs: composer -->`` (the block is left out where the package is missing),
``<!-- raises: WindowError -->``, ``<!-- not run: why -->``. A ``text`` block is what the block before it prints.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^( *)```(.*)$")
_REMARK = re.compile(r"^ *<!-- (setup|needs|raises|not run): (.+?) -->$")


@dataclass
class Block:
    """One fenced block.

    Attributes:
        language: ``"python"``, ``"sh"``, ``"diff"`` …; ``""`` if it says none.
        line: of its first line of text, from 1.
        remarks: those above it, by kind.
        prints: what it prints, if the page says so.
    """

    language: str
    line: int
    text: str
    remarks: dict[str, str] = field(default_factory=dict)
    prints: str | None = None


def pages() -> list[Path]:
    """All pages whose code is run."""
    named = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "RELEASING.md")]
    return [*named, *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(text: str) -> list[Block]:
    """The blocks of a page; the remark ``setup`` goes with the block that follows it."""
    found: list[Block] = []
    remarks: dict[str, str] = {}
    inside: Block | None = None
    indent = 0
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        if inside is not None:
            if fence and not fence.group(2):
                _add(found, inside)
                inside = None
            else:
                inside.text += line[indent:] + "\n"
        elif fence:
            indent = len(fence.group(1))
            inside, remarks = Block(fence.group(2).strip(), number + 1, "", remarks), {}
        elif remark := _REMARK.match(line):
            remarks[remark.group(1)] = remark.group(2)
    assert inside is None, "a block without end"
    assert not remarks, f"a remark without a block: {remarks}"
    return found


def _add(found: list[Block], block: Block) -> None:
    if block.language == "text":
        assert found, "output of no block"
        found[-1].prints = block.text
    else:
        found.append(block)


def sides(diff: str) -> tuple[str, str]:
    """A diff as the code before and after it."""
    rows = diff.splitlines()
    assert all(row[:1] in ("+", "-", " ", "") for row in rows)
    old, new = ("\n".join(row[1:] for row in rows if not row.startswith(sign)) + "\n" for sign in ("+", "-"))
    return old, new


def commands(text: str) -> list[str]:
    """The commands of a shell block, without comments, long ones in one piece."""
    lines = [re.sub(r"(^|\s)#.*$", "", line).strip() for line in text.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line]
