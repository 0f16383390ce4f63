"""docs/faults.md says what happens: looked at again, in part; in `make soak` all of it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from fault_table import DOCUMENT, FAULTS, FORMATS, PACKAGES, WORKERS, Case, cases, outcomes
from soaking import LONG, progress

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.timeout(0 if LONG else 600),
]

PATIENCE = 120
"""Seconds, for a machine that has much else to do."""
IN_SHORT = ("missing", "a bit in a value")


def table() -> tuple[dict[Case, str], dict[str, str]]:
    """What the page says of each case, and of which version of the loader."""
    found, versions = {}, {}
    for part in DOCUMENT.read_text().split("\n## ")[1:]:
        kind, *lines = part.splitlines()
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
        versions[kind] = rows[0][1].split()[1]
        for fault, *cells in rows[2:]:
            wanted = [Case(kind, fault, workers, ours) for ours in (False, True) for workers in WORKERS]
            found |= dict(zip(wanted, cells, strict=True))
    return found, versions


def test_the_page_is_whole_and_we_are_silent_where_nobody_can_see_it_alone() -> None:
    found, versions = table()
    assert list(found) == list(cases(list(FORMATS)))
    assert versions.keys() == PACKAGES.keys()
    unseen = {(case.kind, case.fault) for case, said in found.items() if case.ours and "**" in said}
    without_sums = ("mds", "webdataset", "hugging face parquet", "hugging face json")
    assert unseen <= {(kind, fault) for kind in without_sums for fault in FAULTS if "bit" in fault}
    for case, said in found.items():
        assert not case.ours or "does not say" not in said, case


@pytest.mark.parametrize("kind", FORMATS)
def test_what_the_page_says(kind: str, tmp_path: Path) -> None:
    said, versions = table()
    try:
        if version(PACKAGES[kind]) != versions[kind]:
            pytest.skip(f"the page is about {PACKAGES[kind]} {versions[kind]}")
    except PackageNotFoundError:
        pytest.skip(f"needs {PACKAGES[kind]}")
    for number, case in enumerate(cases([kind])):
        if not LONG and (case.workers or case.fault not in IN_SHORT):
            continue
        found = outcomes(case, tmp_path / str(number), PATIENCE)
        progress(f"{case}: {found}")
        if case.ours:
            assert found == said[case], f"{case}: {found}"
        else:  # what the threads of a loader come to first, is a matter of time
            assert (found == "the whole epoch") == (said[case] == "the whole epoch"), f"{case}: {found}"
