"""What a release says of itself: one version everywhere, types that travel, extras that name each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

from weighted_stream import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["dynamic"] == ["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == __version__


def test_types_travel() -> None:
    assert (ROOT / "weighted_stream" / "py.typed").exists()
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_extras_that_errors_name_exist() -> None:
    extras = set(PROJECT["optional-dependencies"])
    named: set[str] = set()
    for file in (ROOT / "weighted_stream").rglob("*.py"):
        text = file.read_text()
        named |= set(re.findall(r"""missing_extra\(\s*"[^"]+",\s*"(\w+)"\s*\)""", text))
        named |= {name for found in re.findall(r"weighted-stream\[([\w,]+)\]", text) for name in found.split(",")}
    named.discard("extra")
    assert named <= extras
    assert {"mds", "hf", "embed", "redis"} <= named


def test_all_is_every_extra_of_the_library() -> None:
    extras = PROJECT["optional-dependencies"]
    everything, *bounds = extras["all"]
    listed = set(re.findall(r"\[(.+)\]", everything)[0].split(","))
    assert all(re.fullmatch(r"[a-z-]+<[0-9.]+", bound) for bound in bounds), "what is installed comes from the extras"
    assert listed == set(extras) - {"all", "bench", "demo", "test", "docs", "dev"}
