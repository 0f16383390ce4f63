"""Every public docstring has its sections, and every example in the package runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest
from optional import NEEDS, lacking

import weighted_stream

MODULES = sorted(
    m.name for m in pkgutil.walk_packages(weighted_stream.__path__, "weighted_stream.") if "__main__" not in m.name
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    if lacking(name):
        pytest.skip(f"needs {lacking(name)}")
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.failed == 0


WITH_EXAMPLE = [
    name
    for name in (*weighted_stream.__all__, *NEEDS)
    if not lacking(name)
    and callable(getattr(weighted_stream, name))
    and not name.endswith("Error")
    and name != "Signals"
]


@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_public_things_show_an_example(name: str) -> None:
    doc = inspect.getdoc(getattr(weighted_stream, name))
    assert doc
    assert ">>>" in doc, f"{name} has no example"
